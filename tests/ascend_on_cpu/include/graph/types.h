// SPDX-License-Identifier: Apache-2.0
// Stands in for the graph engine's header of this name.
#pragma once

#include <cstdint>
#include <vector>

namespace ge {

enum DataType { DT_FLOAT = 0, DT_FLOAT16 = 1, DT_INT32 = 3, DT_BF16 = 27, DT_UNDEFINED = 28 };
enum Format { FORMAT_NHWC = 1 };

using graphStatus = unsigned;
using Status = unsigned;
constexpr graphStatus GRAPH_SUCCESS = 0, GRAPH_FAILED = 0xffffffff;
constexpr Status SUCCESS = 0;

class Shape {
 public:
  Shape() = default;
  explicit Shape(const std::vector<std::int64_t>& axes) : axes_(axes) {}
  std::vector<std::int64_t> GetDims() const { return axes_; }

 private:
  std::vector<std::int64_t> axes_;
};

class TensorDesc {
 public:
  TensorDesc() = default;
  TensorDesc(const Shape& shape, Format, DataType dtype) : shape_(shape), dtype_(dtype) {}
  Shape GetShape() const { return shape_; }
  DataType GetDataType() const { return dtype_; }

 private:
  Shape shape_;
  DataType dtype_ = DT_FLOAT;
};

}  // namespace ge
