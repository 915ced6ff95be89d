// SPDX-License-Identifier: Apache-2.0
// What only a layer (deform_conv2d) asks of a gradient: offsets in planes of their own, samples that take the
// place of grad, sums that are added to grad_x; every row on every case, against the reference backend.
#include <gtest/gtest.h>

#include "agreement.h"

namespace tapfield::testing {
namespace {

// A gradient as a layer calls it.
class LayerCall {
 public:
  Call call;

  LayerCall(const Case& c, DType t, bool nchw, Place place) : call(c, Pass::grad, Dtypes(t), nchw, place) {}

  // Whether the row can.
  bool run(const Row& row, bool samples, bool adds) {
    const Tensor x = call.x.view(), offsets = call.offsets.view(), grad = call.grad.view(),
                 grad_x = call.outputs[0]->view(), grad_offsets = call.outputs[1]->view();
    Arguments a;
    a.x = &x, a.offsets = &offsets, a.grad = &grad, a.grad_x = &grad_x, a.grad_offsets = &grad_offsets;
    Problem p = make_problem(Pass::grad, a, call.attributes, true);
    for (std::int64_t q = 0; q < p.planes(); ++q) {
      p.offsets_planes[q] = plane(p.offsets, q * p.lanes());
      p.grad_offsets_planes[q] = plane(p.grad_offsets, q * p.lanes());
    }
    p.samples = samples, p.adds = adds;
    if (row.why_not(p)) return false;
    Execution execution;
    execution.threads = 2;
    const Workers workers(execution, p.y_elements());
    const Scratch scratch(row.workspace(p, workers.slots()), execution);
    row.run(p, workers, scratch.block());
    return true;
  }

 private:
  static View plane(View whole, std::int64_t first) {
    whole.data = whole.at(0, 0, 0, first);
    return whole;
  }
};

class Layer : public ::testing::TestWithParam<RowCase> {};

TEST_P(Layer, SamplesTakeThePlaceOfGradAndSumsAddUp) {
  const auto& [row, c] = GetParam();
  int i = 0, ran = 0;
  for (DType t : {DType::float32, DType::bfloat16, DType::float64}) {
    const Truth forward(c, Pass::forward, Dtypes(t)), gradient(c, Pass::grad, Dtypes(t));
    for (bool nchw : {false, true}) {
      SCOPED_TRACE(std::string(tapfield::name_of(t)) + (nchw ? " NCHW" : " NHWC"));
      LayerCall layer(c, t, nchw, static_cast<Place>(i++ % 2));
      Call& call = layer.call;
      for (auto& o : call.outputs) o->poison();
      if (!layer.run(*row, /*samples=*/true, /*adds=*/false)) continue;
      ++ran;
      expect_close(call, gradient);
      expect_close("samples", call.grad, forward, 0, 4);
      const bool adjacent = !nchw || c.x[3] == 1;
      if (!adjacent || is_16bit(t)) continue;
      call.grad.fill(data_values(c, c.y_shape(), 2));
      ASSERT_TRUE(layer.run(*row, /*samples=*/false, /*adds=*/true));
      const double n = 2 * longest_chain(call, "grad_x", gradient.touches);
      expect_close("grad_x", *call.outputs[0], gradient, 0, n, 2);
    }
  }
  EXPECT_GT(ran, 0);
}

std::vector<RowCase> params() {
  std::vector<RowCase> r;
  for (const Row* row : kernels())
    for (const Case& c : small_cases(/*with_large=*/true))
      if (row->pass == Pass::grad && takes(*row, c) && c.x[0]) r.push_back({row, c});
  return r;
}

INSTANTIATE_TEST_SUITE_P(Rows, Layer, ::testing::ValuesIn(params()),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace tapfield::testing
