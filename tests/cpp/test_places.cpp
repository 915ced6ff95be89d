// SPDX-License-Identifier: Apache-2.0
// Where taps fall, told without the reference: with zero offsets and no mask y holds the pixels that a
// convolution would see, and grad_x adds grad up where they came from.
#include <gtest/gtest.h>

#include <cmath>

#include "calls.h"
#include "cpu/rows.h"
#include "math.h"

namespace tapfield::testing {
namespace {

// Everything differs along H and W, and before and after.
Case convolution(std::int64_t groups) {
  Case c{};
  c.name = "convolution", c.kind = "zero", c.border = "open", c.modulated = false;
  c.x = {2, 7, 9, 6}, c.kh = 3, c.kw = 2, c.stride_h = 1, c.stride_w = 2, c.dil_h = 2, c.dil_w = 3;
  c.pads = {2, 1, 0, 3}, c.groups = groups;
  return c;
}

// Calls visit(i, k) for the elements y[i] that read the pixel x[k]; the others are outside the map.
template <class Visit>
void for_each_pixel_read(const Case& c, const Visit& visit) {
  const auto [N, H, W, C] = c.x;
  std::int64_t i = 0;
  for (std::int64_t n = 0; n < N; ++n)
    for (std::int64_t row = 0; row < c.ho() * c.kh; ++row)
      for (std::int64_t column = 0; column < c.wo() * c.kw; ++column)
        for (std::int64_t channel = 0; channel < C; ++channel, ++i) {
          const std::int64_t h = row / c.kh * c.stride_h - c.pads[0] + row % c.kh * c.dil_h;
          const std::int64_t w = column / c.kw * c.stride_w - c.pads[2] + column % c.kw * c.dil_w;
          if (h >= 0 && h < H && w >= 0 && w < W)
            visit(static_cast<std::size_t>(i), static_cast<std::size_t>(((n * H + h) * W + w) * C + channel));
        }
}

template <class Check>
void for_each_row(Pass pass, const Check& check) {
  for (const Row& row : rows())
    for (std::int64_t groups : {1, 3})
      for (bool nchw : {false, true}) {
        if (row.pass != pass || std::string(row.name) == "reference.magnitudes") continue;
        SCOPED_TRACE(std::string(row.name) + (nchw ? " NCHW " : " NHWC ") + std::to_string(groups));
        const Case c = convolution(groups);
        Call call(c, pass, Dtypes(DType::float64), nchw);
        if (call.runs(row)) check(call);
        if (::testing::Test::HasFailure()) return;
      }
}

TEST(Places, ForwardReadsWhatAConvolutionDoes) {
  for_each_row(Pass::forward, [](const Call& call) {
    const std::vector<double> x = call.x.values(), y = call.outputs[0]->values();
    std::vector<double> want(y.size(), 0);
    for_each_pixel_read(call.c, [&](std::size_t i, std::size_t k) { want[i] = x[k]; });
    EXPECT_EQ(y, want);
  });
}

TEST(Places, GradientAddsUpWhereTheForwardRead) {
  for_each_row(Pass::grad, [](const Call& call) {
    const std::vector<double> grad = call.grad.values(), grad_x = call.outputs[0]->values();
    std::vector<double> want(grad_x.size(), 0), magnitude(grad_x.size(), 0);
    for_each_pixel_read(call.c, [&](std::size_t i, std::size_t k) {
      want[k] += grad[i], magnitude[k] += std::fabs(grad[i]);
    });
    const double terms = static_cast<double>(call.c.kh * call.c.kw);  // a pixel is read at most so often
    for (std::size_t k = 0; k < want.size(); ++k)
      ASSERT_LE(std::fabs(grad_x[k] - want[k]), 0x1p-52 * terms * magnitude[k]) << "element " << k;
  });
}

// The corner rows of every live cell are those inside the map, as math.h says; the rest are `outside`.
TEST(Places, CornerRowsAreThoseInsideTheMap) {
  constexpr std::int64_t H = 3, W = 4, C = 2, channel = 1;
  float map[H * W * C], outside[C];
  const cpu::Image<float> image{map, W * C, C};
  for (std::int32_t h0 = -1; h0 < H; ++h0)
    for (std::int32_t w0 = -1; w0 < W; ++w0) {
      const cpu::CornerRows<float> rows(image, H, W, h0, w0, channel, outside);
      const float* const corners[] = {rows.p00, rows.p01, rows.p10, rows.p11};
      for (int k = 0; k < 4; ++k) {
        const std::int64_t h = h0 + k / 2, w = w0 + k % 2;
        const bool inside = math::inside(h, H) && math::inside(w, W);
        EXPECT_EQ(corners[k], inside ? map + (h * W + w) * C + channel : outside)
            << h0 << " " << w0 << " " << k;
      }
    }
}

}  // namespace
}  // namespace tapfield::testing
