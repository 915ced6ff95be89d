// SPDX-License-Identifier: Apache-2.0
// Stands in for the graph engine's header of this name, by its public documentation: what a custom operator
// is given, and how it is registered. Contexts are filled by a test.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graph/types.h"

namespace gert {

class Shape {
 public:
  Shape() = default;
  Shape(const std::vector<std::int64_t>& axes) : axes_(axes) {}
  std::size_t GetDimNum() const { return axes_.size(); }
  std::int64_t GetDim(std::size_t i) const { return axes_.at(i); }
  void SetDimNum(std::size_t n) { axes_.resize(n); }
  void SetDim(std::size_t i, std::int64_t v) { axes_.at(i) = v; }
  const std::vector<std::int64_t>& axes() const { return axes_; }

 private:
  std::vector<std::int64_t> axes_;
};

class StorageShape {
 public:
  Shape& MutableOriginShape() { return origin_; }
  Shape& MutableStorageShape() { return storage_; }
  const Shape& GetStorageShape() const { return storage_; }

 private:
  Shape origin_, storage_;
};

struct StorageFormat {};

class Tensor {
 public:
  Tensor(void* data, ge::DataType dtype, const Shape& shape) : data_(data), dtype_(dtype) {
    shape_.MutableOriginShape() = shape_.MutableStorageShape() = shape;
  }
  const void* GetAddr() const { return data_; }
  void* GetAddr() { return data_; }
  ge::DataType GetDataType() const { return dtype_; }
  const Shape& GetStorageShape() const { return shape_.GetStorageShape(); }
  const StorageShape& GetShape() const { return shape_; }
  const StorageFormat& GetFormat() const { return format_; }

 private:
  void* data_;
  ge::DataType dtype_;
  StorageShape shape_;
  StorageFormat format_;
};

template <class T>
class TypedContinuousVector {
 public:
  std::vector<T> values;
  const T* GetData() const { return values.data(); }
  std::size_t GetSize() const { return values.size(); }
};

class RuntimeAttrs {
 public:
  std::deque<TypedContinuousVector<std::int64_t>> lists;
  std::string data_format;
  std::int64_t groups = 1;
  bool modulated = true;
  const TypedContinuousVector<std::int64_t>* GetListInt(std::size_t i) const {
    return i < lists.size() ? &lists[i] : nullptr;
  }
  const char* GetStr(std::size_t i) const { return i == 4 ? data_format.c_str() : nullptr; }
  const std::int64_t* GetInt(std::size_t i) const { return i == 5 ? &groups : nullptr; }
  const bool* GetBool(std::size_t i) const { return i == 6 ? &modulated : nullptr; }
};

class CompileTimeTensorDesc {
 public:
  ge::DataType dtype = ge::DT_FLOAT;
  ge::DataType GetDataType() const { return dtype; }
};

struct Context {
  RuntimeAttrs attributes;
  const RuntimeAttrs* GetAttrs() const { return &attributes; }
};

struct InferShapeContext : Context {
  std::vector<Shape> inputs, outputs;
  const Shape* GetInputShape(std::size_t i) const { return i < inputs.size() ? &inputs[i] : nullptr; }
  Shape* GetOutputShape(std::size_t i) { return i < outputs.size() ? &outputs[i] : nullptr; }
};

struct InferDataTypeContext {
  std::vector<ge::DataType> inputs, outputs;
  ge::DataType GetInputDataType(std::size_t i) const { return inputs.at(i); }
  ge::DataType GetOutputDataType(std::size_t i) const { return outputs.at(i); }
  ge::graphStatus SetOutputDataType(std::size_t i, ge::DataType t) {
    outputs.at(i) = t;
    return ge::GRAPH_SUCCESS;
  }
};

// Memory comes from the test.
struct EagerOpExecutionContext : Context {
  std::deque<Tensor> inputs, outputs;
  std::vector<CompileTimeTensorDesc> descriptors;
  std::vector<void*> output_memory;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;  // what was asked for
  const Tensor* GetInputTensor(std::size_t i) const { return i < inputs.size() ? &inputs[i] : nullptr; }
  const CompileTimeTensorDesc* GetOutputDesc(std::size_t i) const {
    return i < descriptors.size() ? &descriptors[i] : nullptr;
  }
  Tensor* MallocOutputTensor(std::size_t i, const StorageShape& shape, const StorageFormat&,
                             ge::DataType dtype) {
    return &outputs.emplace_back(output_memory.at(i), dtype, shape.GetStorageShape());
  }
  void* MallocWorkSpace(std::size_t bytes) { return workspace_bytes = bytes, workspace; }
  void* GetStream() const { return nullptr; }
};

}  // namespace gert

namespace ge {

struct BaseCustomOp {
  virtual ~BaseCustomOp() = default;
};
struct EagerExecuteOp : virtual BaseCustomOp {
  virtual graphStatus Execute(gert::EagerOpExecutionContext*) = 0;
};
struct ShapeInferOp : virtual BaseCustomOp {
  virtual graphStatus InferShape(gert::InferShapeContext*) = 0;
  virtual graphStatus InferDataType(gert::InferDataTypeContext*) = 0;
};

inline std::map<std::string, std::unique_ptr<BaseCustomOp>>& custom_ops() {
  static std::map<std::string, std::unique_ptr<BaseCustomOp>> ops;
  return ops;
}

}  // namespace ge

#define REG_AUTO_MAPPING_OP(op) \
  static const bool registered_##op = (ge::custom_ops()[#op] = std::make_unique<op>(), true)
