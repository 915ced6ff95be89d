// SPDX-License-Identifier: Apache-2.0
// Scratch keeps to the bound that tapfield.hpp promises, for every row, case, dtype and layout.
#include <gtest/gtest.h>

#include "calls.h"

namespace tapfield::testing {
namespace {

// A kernel as large as the map and many groups: a pixel has 61,504 taps.
Case many_taps() {
  Case c{};
  c.name = "many_taps", c.kind = "normal", c.border = "open", c.modulated = true;
  c.x = {1, 31, 31, 256}, c.kh = c.kw = 31, c.groups = 64;
  c.stride_h = c.stride_w = c.dil_h = c.dil_w = 1;
  return c;
}

double bound(const Case& c, DType dtype, bool nchw, int threads) {
  const auto ho = static_cast<double>(c.ho()), wo = static_cast<double>(c.wo());
  const Shape y = c.y_shape();
  const double taps = ho * wo * static_cast<double>(c.lanes()),
               x = static_cast<double>(c.x[1] * c.x[2] * c.x[3]),
               grad = static_cast<double>(y[1] * y[2] * y[3] * size_of(dtype));
  return (dtype == DType::float64 ? 96 : 64) * taps + 8 * x + threads * 0x1p24 + (nchw ? 0.35 * grad : 0);
}

TEST(Scratch, KeepsToItsBound) {
  std::vector<Case> cases = small_cases(/*with_large=*/true);
  cases.push_back(many_taps());
  int measured = 0;
  for (const Case& c : cases)
    for (Pass pass : {Pass::forward, Pass::grad, Pass::grad_grad})
      for (DType dtype : {DType::float16, DType::float32, DType::float64})
        for (bool nchw : {false, true}) {
          const Call call(c, pass, Dtypes(dtype), nchw);
          for (const Row& row : rows()) {
            if (row.pass != pass || row.device != DeviceType::cpu || c.x[0] == 0) continue;
            for (int threads : {1, 4}) {
              Execution e;
              e.backend = row.name, e.threads = threads;
              std::size_t bytes = 0;
              try {
                bytes = call.workspace(e);
              } catch (const std::invalid_argument&) {
                continue;  // the row cannot run this case
              }
              ++measured;
              EXPECT_LE(static_cast<double>(bytes), bound(c, dtype, nchw, threads))
                  << row.name << " " << name_of(pass) << " " << c.name << " " << name_of(dtype)
                  << (nchw ? " NCHW" : " NHWC") << ", threads " << threads;
            }
          }
        }
  EXPECT_GT(measured, 1000);
}

}  // namespace
}  // namespace tapfield::testing
