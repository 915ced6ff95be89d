// SPDX-License-Identifier: Apache-2.0
// CANN's own example of DeformableOffsetsGrad, with its shapes, attributes and types, as a graph of one node;
// then every element of both outputs is compared with what the operator must give.
//
//   tapfield golden golden --case cann-grad --dtype float16 --format bin --pass grad
//   ascend_graph golden          exit status: 0; 1 an element is beyond its bound; 2 something did not run
//
// Without a package in ASCEND_CUSTOM_OPP_PATH this runs, and judges, CANN's built-in operator.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "compare.h"
#include "deformable_offsets_proto.h"
#include "ge/ge_api.h"
#include "graph.h"
#include "ops_proto_legacy.h"
#include "tensor.h"
#include "types.h"

namespace {

using Sizes = std::vector<std::int64_t>;

const Sizes kGrad{72, 2, 45, 64}, kX{72, 1, 17, 64},
    kOffsets{72, 1, 9, 240};  // N, Ho*Kh, Wo*Kw, C | N, H, W, C | ...
constexpr int kChannelsOfAGroup = 64 / 8;

void require(bool well, const std::string& what) {
  if (!well) throw std::runtime_error(what + " failed");
}

ge::TensorDesc describe(const Sizes& shape) { return {ge::Shape(shape), ge::FORMAT_NHWC, ge::DT_FLOAT16}; }

ge::op::Data input(const char* name, int index, const Sizes& shape) {
  ge::op::Data data(name);
  data.set_attr_index(index);
  data.update_input_desc_x(describe(shape));
  data.update_output_desc_y(describe(shape));
  return data;
}

ge::Graph graph() {
  ge::op::Data grad = input("grad", 0, kGrad), x = input("x", 1, kX), offsets = input("offsets", 2, kOffsets);
  ge::op::DeformableOffsetsGrad op("deformable_offsets_grad");
  op.set_input_grad(grad).set_input_x(x).set_input_offsets(offsets);
  op.update_output_desc_grad_x(describe(kX));
  op.update_output_desc_grad_offsets(describe(kOffsets));
  op.set_attr_strides(Sizes{1, 1, 2, 1}).set_attr_pads(Sizes{1, 1, 2, 2}).set_attr_ksize(Sizes{2, 5});
  op.set_attr_dilations(Sizes{1, 2, 1, 1}).set_attr_data_format("NHWC");
  op.set_attr_deformable_groups(8).set_attr_modulated(true);
  ge::Graph g("deformable_offsets_grad");
  g.SetInputs({grad, x, offsets}).SetOutputs({op});
  return g;
}

ge::Tensor read(const std::string& path, const Sizes& shape) {
  const std::vector<char> bytes = example::bytes_of(path);
  std::size_t want = 2;
  for (std::int64_t n : shape) want *= static_cast<std::size_t>(n);
  if (bytes.size() != want)
    throw std::runtime_error(path + " must have " + std::to_string(want) + " bytes but has " +
                             std::to_string(bytes.size()));
  ge::Tensor t(describe(shape));
  require(t.SetData(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()) == ge::GRAPH_SUCCESS,
          "SetData");
  return t;
}

std::vector<ge::Tensor> run(const std::vector<ge::Tensor>& inputs) {
  const std::map<ge::AscendString, ge::AscendString> options{
      {"ge.exec.deviceId", "0"},
      {"ge.graphRunMode", "0"},
      {"ge.exec.precision_mode", "must_keep_origin_dtype"}};
  require(ge::GEInitialize(options) == ge::SUCCESS, "GEInitialize");
  std::vector<ge::Tensor> outputs;
  std::string failed;
  {
    ge::Session session(options);
    if (session.AddGraph(0, graph()) != ge::SUCCESS)
      failed = "AddGraph";
    else if (session.RunGraph(0, inputs, outputs) != ge::SUCCESS)
      failed = "RunGraph";
  }
  if (ge::GEFinalize() != ge::SUCCESS && failed.empty()) failed = "GEFinalize";
  require(failed.empty(), failed);
  return outputs;
}

// Prints the verdict on one output; is it within the bound?
bool judge(const ge::Tensor& output, const std::string& golden, double terms) {
  if (output.GetTensorDesc().GetDataType() != ge::DT_FLOAT16)
    throw std::runtime_error("an output is not float16");
  const example::Verdict v = example::compare(output.GetData(), output.GetSize(), example::Type::float16,
                                              example::doubles_of(golden + ".exact.bin"),
                                              example::doubles_of(golden + ".magnitudes.bin"), terms);
  std::printf("%s: %zu elements, %zu beyond the bound, worst %.2f of it", golden.c_str(), v.elements, v.over,
              v.worst);
  if (v.over) std::printf(", the first at %zu", v.first_over);
  std::printf("\n");
  return v.over == 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s GOLDEN\n", argv[0]), 2;
  try {
    const std::string golden = argv[1];
    const std::vector<char> text = example::bytes_of(golden + "/manifest.json");
    const double corners = example::number_in({text.begin(), text.end()}, "most_corners_per_pixel");
    const auto outputs = run({read(golden + "/grad.bin", kGrad), read(golden + "/x.bin", kX),
                              read(golden + "/offsets.bin", kOffsets)});
    if (outputs.size() != 2)
      throw std::runtime_error("the graph must give 2 outputs but gives " + std::to_string(outputs.size()));
    const bool grad_x = judge(outputs[0], golden + "/grad.grad_x", corners);
    const bool grad_offsets = judge(outputs[1], golden + "/grad.grad_offsets", 4 * kChannelsOfAGroup);
    return grad_x && grad_offsets ? 0 : 1;
  } catch (const std::exception& e) { return std::fprintf(stderr, "ascend_graph: %s\n", e.what()), 2; }
}
