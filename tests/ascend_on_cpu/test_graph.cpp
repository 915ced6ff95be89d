// SPDX-License-Identifier: Apache-2.0
// The operators as nodes of a graph: prototypes, inference, what is refused and how it is said; and the
// package's own classes, called as the graph engine would, for each product.
#include <gtest/gtest.h>

#include <cstdlib>

#include "../api/error_cases.h"
#include "acl/acl.h"
#include "agreement.h"
#include "ascend/deformable_offsets_proto.h"
#include "ascend/graph.h"
#include "ascend_call.h"
#include "graph/custom_op.h"

namespace tapfield::testing {
namespace {

using namespace ascend;

// ------ Prototypes

std::string listed(const ge::Prototype& p) {
  std::string s;
  for (const auto& t : p.inputs) s += t.name + " " + std::to_string(t.types.size()) + ", ";
  for (const auto& t : p.outputs) s += "-> " + t.name + " " + std::to_string(t.types.size()) + ", ";
  for (const auto& a : p.attributes)
    if (!a.name.empty()) s += a.name + " " + a.type + " " + a.standard + "; ";
  return s;
}

TEST(AscendGraph, PrototypesAreUpstreams) {
  const std::string attributes =
      "strides ListInt required; pads ListInt required; ksize ListInt required; "
      "dilations ListInt 1, 1, 1, 1; data_format String ";
  EXPECT_EQ(listed(ge::op::DeformableOffsets().prototype),
            "x 3, offsets 3, -> y 3, " + attributes + "NHWC; deformable_groups Int 1; modulated Bool true; ");
  EXPECT_EQ(listed(ge::op::DeformableOffsetsGrad().prototype),
            "grad 3, x 3, offsets 3, -> grad_x 3, -> grad_offsets 3, " + attributes +
                "NCHW; deformable_groups Int 1; modulated Bool true; ");
}

// ------ Inference

// CANN's gradient sample.
NodeAttributes sample(const char* data_format = "NHWC") {
  NodeAttributes a;
  const bool nchw = data_format == std::string("NCHW");
  a.strides = nchw ? Ints{1, 1, 1, 2} : Ints{1, 1, 2, 1}, a.pads = {1, 1, 2, 2}, a.ksize = {2, 5};
  a.dilations = nchw ? Ints{1, 1, 2, 1} : Ints{1, 2, 1, 1}, a.data_format = data_format,
  a.deformable_groups = 8;
  return a;
}

std::vector<std::int64_t> list(const Ints& v) { return {v.data(), v.data() + v.size()}; }
using List = std::vector<std::int64_t>;

TEST(AscendGraph, InfersShapes) {
  const Ints x{72, 1, 17, 64}, offsets{72, 1, 9, 240}, grad{72, 2, 45, 64};
  for (const char* data_format : {"NHWC", "NCHW"}) {
    EXPECT_EQ(list(infer_y(x, offsets, sample(data_format))), (List{72, 2, 45, 64}));
    const GradShapes shapes = infer_grad(grad, x, offsets, sample(data_format));
    EXPECT_EQ(list(shapes.grad_x), (List{72, 1, 17, 64}));
    EXPECT_EQ(list(shapes.grad_offsets), (List{72, 1, 9, 240}));
  }
  NodeAttributes v1 = sample();
  v1.modulated = false;
  EXPECT_EQ(list(infer_y(x, {72, 1, 9, 160}, v1)), (List{72, 2, 45, 64}));
}

TEST(AscendGraph, InfersFromUnknownAxes) {
  EXPECT_EQ(list(infer_y({-1, -1, 17, 64}, {-1, -1, 9, 240}, sample())), (List{-1, -1, 45, 64}));
  EXPECT_EQ(list(infer_y({-2}, {-2}, sample())), (List{-1, -1, -1, -1}));
  EXPECT_EQ(list(infer_grad({-1, 2, 45, 64}, {-1, 1, 17, 64}, {-1, 1, 9, 240}, sample()).grad_x),
            (List{-1, 1, 17, 64}));
}

TEST(AscendGraph, InfersTypes) {
  EXPECT_EQ(infer_dtype(DType::float16, {}), DType::float16);
  EXPECT_EQ(infer_dtype(DType::bfloat16, DType::float32), DType::float32);
  EXPECT_EQ(infer_dtype(DType::bfloat16, DType::float16), DType::bfloat16);
  EXPECT_EQ(infer_dtype(DType::float32, DType::bfloat16), DType::float32);
}

// ------ Refusals

template <class Run>
std::string refusal(const Run& run) {
  try {
    run();
  } catch (const std::invalid_argument& e) { return e.what(); }
  return "";
}

TEST(AscendGraph, SpeaksOfStridesInTheirOwnOrder) {
  NodeAttributes a = sample("NCHW");
  a.strides = {1, 1, 0, 2};
  EXPECT_EQ(refusal([&] {
              infer_y({72, 1, 17, 64}, {72, 1, 9, 240}, a);
            }),
            "strides must have entries of at least 1 (N, C, H, W) but is [1, 1, 0, 2]");
  a = sample("NCHW"), a.dilations = {1, 2, 1};
  EXPECT_EQ(refusal([&] {
              infer_y({72, 1, 17, 64}, {72, 1, 9, 240}, a);
            }),
            "dilations must have 4 entries (N, C, H, W) but is [1, 2, 1]");
  EXPECT_EQ(refusal([&] {
              infer_y({72, 1, 17, 64}, {72, 1, 9, 241}, sample("NCHW"));
            }),
            "offsets must have shape [72, 1, 9, 240] (N, Ho, Wo, 3*G*Kh*Kw) but has [72, 1, 9, 241]");
  EXPECT_EQ(refusal([&] {
              infer_grad({72, 2, 44, 64}, {72, 1, 17, 64}, {72, 1, 9, 240}, sample());
            }),
            "grad must have shape [72, 2, 45, 64] (N, Ho*Kh, Wo*Kw, C) but has [72, 2, 44, 64]");
}

TEST(AscendGraph, RefusesWhatItsKernelsDoNot) {
  test::Call call(TAPFIELD_FORWARD);
  NodeAttributes a;
  a.ksize = call.attributes.ksize, a.strides = call.attributes.strides, a.pads = call.attributes.pads;
  a.dilations = call.attributes.dilations, a.data_format = "NHWC", a.deformable_groups = 2;
  EXPECT_EQ(refusal([&] { forward_call(call.x, call.offsets, call.y, a); }), "");
  test::Call gaps = call;
  gaps.x.strides = {240, 60, 12, 2};
  EXPECT_EQ(refusal([&] { forward_call(gaps.x, call.offsets, call.y, a); }),
            "Ascend cannot run this call: tensors must be dense, in NHWC order");
  for (Tensor* t : call.tensors()) t->dtype = DType::float64;
  EXPECT_EQ(refusal([&] { forward_call(call.x, call.offsets, call.y, a); }),
            "Ascend cannot run this call: float64 is not computed here");
}

// Every rule of docs/operators.md, "Errors", but those of what a node does not have: a border, an execution.
class AscendRefused : public ::testing::TestWithParam<test::Case> {};

TEST_P(AscendRefused, SaysWhatTheLibrarySays) {
  const test::Case& one = GetParam();
  test::Call call(one.pass);
  one.change(call);
  NodeAttributes a;
  a.ksize = call.attributes.ksize, a.strides = call.attributes.strides, a.pads = call.attributes.pads;
  a.dilations = call.attributes.dilations, a.data_format = call.attributes.data_format;
  a.deformable_groups = call.attributes.deformable_groups, a.modulated = call.attributes.modulated;
  const std::string said = refusal([&] {
    if (one.pass == TAPFIELD_FORWARD)
      forward_call(call.x, call.offsets, call.y, a);
    else
      grad_call(call.grad, call.x, call.offsets, call.grad_x, call.grad_offsets, a);
  });
  EXPECT_EQ(said, one.message);
}

std::vector<test::Case> refused() {
  std::vector<test::Case> r;
  for (const auto& cases :
       {test::attribute_cases(), test::shape_cases(), test::memory_cases(), test::dtype_cases()})
    for (const test::Case& c : cases)
      if (c.pass != TAPFIELD_GRAD_GRAD && c.name.find("border") == std::string::npos) r.push_back(c);
  return r;
}
INSTANTIATE_TEST_SUITE_P(Errors, AscendRefused, ::testing::ValuesIn(refused()),
                         [](const auto& info) { return info.param.name; });

// ------ The package

ge::DataType ge_dtype(DType t) {
  return t == DType::float16 ? ge::DT_FLOAT16 : t == DType::bfloat16 ? ge::DT_BF16 : ge::DT_FLOAT;
}

// A Call as the graph engine would make it.
struct Node {
  gert::EagerOpExecutionContext context;
  std::vector<float> scratch;

  explicit Node(Call& call) {
    const Case& c = call.c;
    for (const auto& v : {List{1, 1, c.stride_h, c.stride_w}, List(c.pads.begin(), c.pads.end()),
                          List{c.kh, c.kw}, List{1, 1, c.dil_h, c.dil_w}})
      context.attributes.lists.push_back({v});
    context.attributes.data_format = "NCHW", context.attributes.groups = c.groups;
    context.attributes.modulated = c.modulated;
    const auto add = [&](const GuardedTensor& t) {
      const Tensor v = t.view();
      context.inputs.emplace_back(v.data, ge_dtype(v.dtype), gert::Shape(list(v.shape)));
      ascend_on_cpu::declare_memory(v.data, static_cast<std::size_t>(elements(t.shape()) * size_of(v.dtype)));
    };
    if (call.pass == Pass::grad) add(call.grad);
    add(call.x), add(call.offsets);
    for (auto& o : call.outputs) {
      const Tensor v = o->view();
      o->poison();
      context.descriptors.push_back({ge_dtype(v.dtype)});
      context.output_memory.push_back(v.data);
      ascend_on_cpu::declare_memory(v.data,
                                    static_cast<std::size_t>(elements(o->shape()) * size_of(v.dtype)));
    }
    scratch.resize(static_cast<std::size_t>(elements(c.x)), NAN);
    context.workspace = scratch.data();
    ascend_on_cpu::declare_memory(scratch.data(), scratch.size() * sizeof(float));
    ascend_on_cpu::acl().log.clear();
  }
  ~Node() { ascend_on_cpu::forget_memory(); }

  ge::graphStatus execute(const char* op) {
    return dynamic_cast<ge::EagerExecuteOp&>(*ge::custom_ops().at(op)).Execute(&context);
  }
};

Case case_named(const char* name) {
  for (const Case& c : read_cases())
    if (c.name == name) return c;
  throw std::runtime_error(name);
}

TEST(AscendPackage, ExecutesBothOperators) {
  for (const char* name : {"all_attributes_open", "cann_grad_sample", "v1_g4", "batch_0"}) {
    const Case c = case_named(name);
    for (const Dtypes& dtypes : {Dtypes(DType::float32), Dtypes(DType::float16),
                                 Dtypes(DType::bfloat16, DType::bfloat16, DType::float32, DType::float32)})
      for (Pass pass : {Pass::forward, Pass::grad}) {
        SCOPED_TRACE(std::string(name) + " " + name_of(pass) + " " + tapfield::name_of(dtypes.x));
        Call call(c, pass, dtypes, /*nchw=*/false);
        Node node(call);
        const auto launches = ascend_on_cpu::counts().launches;
        ASSERT_EQ(node.execute(pass == Pass::forward ? "DeformableOffsets" : "DeformableOffsetsGrad"),
                  ge::GRAPH_SUCCESS);
        EXPECT_EQ(ascend_on_cpu::counts().launches, launches + (c.x[0] ? 1 : 0));
        EXPECT_EQ(node.context.workspace_bytes, c.x[0] ? scratch_bytes(problem_of(call)) : 0);
        EXPECT_EQ(node.context.outputs.size(), call.outputs.size());
        expect_close(call, Truth(c, pass, dtypes));
        if (HasFailure()) return;
      }
  }
}

TEST(AscendPackage, IsDeterministicWhenAsked) {
  const Case c = case_named("one_cell_g8");
  const auto bits = [&](ascend_on_cpu::Order order, unsigned seed) {
    ascend_on_cpu::options().order = order, ascend_on_cpu::options().seed = seed;
    Call call(c, Pass::grad, Dtypes(DType::float32), /*nchw=*/false);
    Node node(call);
    EXPECT_EQ(node.execute("DeformableOffsetsGrad"), ge::GRAPH_SUCCESS);
    ascend_on_cpu::options() = {};
    return call.bytes();
  };
  using ascend_on_cpu::Order;
  setenv("TAPFIELD_DETERMINISTIC", "1", 1);
  const auto launches = ascend_on_cpu::counts().meetings;
  EXPECT_EQ(bits(Order::one_after_another, 1), bits(Order::interleaved, 2));
  EXPECT_EQ(ascend_on_cpu::counts().meetings, launches) << "the deterministic kernels do not meet";
  unsetenv("TAPFIELD_DETERMINISTIC");
  bits(Order::one_after_another, 1);
  EXPECT_GT(ascend_on_cpu::counts().meetings, launches);
}

TEST(AscendPackage, RefusesInTheLogAndLaunchesNothing) {
  const Case c = case_named("all_attributes_open");
  Call call(c, Pass::grad, Dtypes(DType::float32), /*nchw=*/false);
  Node node(call);
  node.context.attributes.groups = 5;
  const auto launches = ascend_on_cpu::counts().launches;
  EXPECT_EQ(node.execute("DeformableOffsetsGrad"), ge::GRAPH_FAILED);
  EXPECT_EQ(ascend_on_cpu::counts().launches, launches);
  ASSERT_EQ(ascend_on_cpu::acl().log.size(), 1);
  EXPECT_EQ(ascend_on_cpu::acl().log[0].find("DeformableOffsetsGrad: deformable_groups must divide C = "), 0);
  ascend_on_cpu::acl().log.clear();
  node.context.attributes.groups = c.groups;
  node.context.inputs[1] =
      gert::Tensor(node.context.inputs[1].GetAddr(), ge::DT_INT32, node.context.inputs[1].GetStorageShape());
  EXPECT_EQ(node.execute("DeformableOffsetsGrad"), ge::GRAPH_FAILED);
  ASSERT_EQ(ascend_on_cpu::acl().log.size(), 1);
  EXPECT_NE(ascend_on_cpu::acl().log[0].find("x must be float16 or bfloat16 or float32"), std::string::npos);
  EXPECT_EQ(ascend_on_cpu::counts().launches, launches);
}

TEST(AscendPackage, InfersThroughItsContexts) {
  auto& grad = dynamic_cast<ge::ShapeInferOp&>(*ge::custom_ops().at("DeformableOffsetsGrad"));
  auto& forward = dynamic_cast<ge::ShapeInferOp&>(*ge::custom_ops().at("DeformableOffsets"));
  gert::InferShapeContext shapes;
  for (const List& v : {List{1, 1, 2, 1}, List{1, 1, 2, 2}, List{2, 5}, List{1, 2, 1, 1}})
    shapes.attributes.lists.push_back({v});
  shapes.attributes.data_format = "NHWC", shapes.attributes.groups = 8;
  shapes.inputs = {List{72, 2, 45, 64}, List{72, 1, 17, 64}, List{72, 1, 9, 240}}, shapes.outputs.resize(2);
  EXPECT_EQ(grad.InferShape(&shapes), ge::GRAPH_SUCCESS);
  EXPECT_EQ(shapes.outputs[0].axes(), (List{72, 1, 17, 64}));
  EXPECT_EQ(shapes.outputs[1].axes(), (List{72, 1, 9, 240}));
  shapes.inputs.erase(shapes.inputs.begin());
  EXPECT_EQ(forward.InferShape(&shapes), ge::GRAPH_SUCCESS);
  EXPECT_EQ(shapes.outputs[0].axes(), (List{72, 2, 45, 64}));
  shapes.inputs[1] = List{72, 1, 9, 239};
  EXPECT_EQ(forward.InferShape(&shapes), ge::GRAPH_FAILED);

  gert::InferDataTypeContext types{{ge::DT_BF16, ge::DT_BF16, ge::DT_BF16}, {ge::DT_FLOAT, ge::DT_UNDEFINED}};
  EXPECT_EQ(grad.InferDataType(&types), ge::GRAPH_SUCCESS);
  EXPECT_EQ(types.outputs, (std::vector{ge::DT_FLOAT, ge::DT_BF16}));
  EXPECT_EQ(forward.InferDataType(&types), ge::GRAPH_SUCCESS);
  EXPECT_EQ(types.outputs[0], ge::DT_BF16);
}

}  // namespace
}  // namespace tapfield::testing
