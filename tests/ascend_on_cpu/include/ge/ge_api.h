// SPDX-License-Identifier: Apache-2.0
// Stands in for the graph engine's header of this name: a session that runs a graph of one custom operator,
// whose inputs are its own, on the package linked beside it.
#pragma once

#include <map>
#include <stdexcept>
#include <string>

#include "graph/custom_op.h"
#include "graph/operator_reg.h"
#include "machine.h"

namespace ge {

using AscendString = std::string;

namespace op {
struct Data : Operator {
  explicit Data(const char* name_) { type = "Data", name = name_; }
  void set_attr_index(int i) { attributes["index"] = i; }
  void update_input_desc_x(const TensorDesc&) {}
  void update_output_desc_y(const TensorDesc& d) { outputs["y"] = d; }
};
}  // namespace op

class Tensor {
 public:
  explicit Tensor(const TensorDesc& d) : desc_(d) {}
  graphStatus SetData(const std::uint8_t* data, std::size_t bytes) {
    return bytes_.assign(data, data + bytes), GRAPH_SUCCESS;
  }
  const std::uint8_t* GetData() const { return bytes_.data(); }
  std::uint8_t* GetData() { return bytes_.data(); }
  std::size_t GetSize() const { return bytes_.size(); }
  TensorDesc GetTensorDesc() const { return desc_; }

 private:
  TensorDesc desc_;
  std::vector<std::uint8_t> bytes_;
};

class Graph {
 public:
  explicit Graph(const char*) {}
  Graph& SetInputs(const std::vector<Operator>& inputs) { return inputs_ = inputs, *this; }
  Graph& SetOutputs(const std::vector<Operator>& outputs) { return outputs_ = outputs, *this; }
  std::vector<Operator> inputs_, outputs_;
};

inline Status GEInitialize(const std::map<AscendString, AscendString>&) { return SUCCESS; }
inline Status GEFinalize() { return SUCCESS; }

class Session {
 public:
  explicit Session(const std::map<AscendString, AscendString>&) {}
  Status AddGraph(unsigned, const Graph& g) { return graph_ = g, SUCCESS; }

  Status RunGraph(unsigned, const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) {
    const Operator& node = graph_.outputs_.at(0);
    gert::EagerOpExecutionContext context;
    for (const char* name : {"strides", "pads", "ksize", "dilations"})
      context.attributes.lists.push_back({std::any_cast<ListInt>(node.attributes.at(name))});
    context.attributes.data_format = std::any_cast<String>(node.attributes.at("data_format"));
    context.attributes.groups = std::any_cast<Int>(node.attributes.at("deformable_groups"));
    context.attributes.modulated = std::any_cast<Bool>(node.attributes.at("modulated"));
    for (const auto& input : node.prototype.inputs) {
      const Operator& data = node.inputs.at(input.name).at(0);
      const Tensor& t = inputs.at(static_cast<std::size_t>(std::any_cast<int>(data.attributes.at("index"))));
      context.inputs.emplace_back(const_cast<std::uint8_t*>(t.GetData()), t.GetTensorDesc().GetDataType(),
                                  gert::Shape(t.GetTensorDesc().GetShape().GetDims()));
      ascend_on_cpu::declare_memory(t.GetData(), t.GetSize());
    }
    std::size_t most = 0;
    for (const auto& output : node.prototype.outputs) {
      const TensorDesc& d = node.outputs.at(output.name);
      std::size_t bytes = d.GetDataType() == DT_FLOAT ? 4 : 2;
      for (std::int64_t n : d.GetShape().GetDims()) bytes *= static_cast<std::size_t>(n);
      outputs.emplace_back(d).SetData(std::vector<std::uint8_t>(bytes, 0xff).data(), bytes);
      context.descriptors.push_back({d.GetDataType()});
      most = std::max(most, bytes);
    }
    for (Tensor& t : outputs) {
      context.output_memory.push_back(t.GetData());
      ascend_on_cpu::declare_memory(t.GetData(), t.GetSize());
    }
    std::vector<float> workspace(most);  // two bytes of output are four of sums
    context.workspace = workspace.data();
    ascend_on_cpu::declare_memory(workspace.data(), workspace.size() * sizeof(float));
    const Status status = dynamic_cast<EagerExecuteOp&>(*custom_ops().at(node.type)).Execute(&context);
    ascend_on_cpu::forget_memory();
    return status;
  }

 private:
  Graph graph_{""};
};

}  // namespace ge
