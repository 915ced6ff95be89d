// SPDX-License-Identifier: Apache-2.0
// Tensors past 2^31 elements: rows 2^25 elements and more apart, in sparse mappings of which few pages are
// touched. Each tensor in turn, both layouts, every row of the table: bit for bit what dense tensors give.
#include <gtest/gtest.h>

#include <algorithm>

#include "calls.h"

namespace tapfield::testing {
namespace {

Case tall_case() {
  Case c{};
  c.name = "tall", c.kind = "normal", c.border = "open", c.modulated = true;
  c.x = {1, 72, 3, 5};  // 71 rows of 2^25 elements lie past 2^31
  c.kh = 3, c.kw = 1, c.stride_h = c.stride_w = c.dil_h = c.dil_w = 1, c.groups = 1, c.pads = {1, 1, 0, 0};
  return c;
}

class Huge : public ::testing::TestWithParam<const Row*> {};
INSTANTIATE_TEST_SUITE_P(Rows, Huge, ::testing::ValuesIn(kernels()), [](const auto& info) {
  std::string s = std::string(info.param->name) + "_" + name_of(info.param->pass);
  std::replace(s.begin(), s.end(), '.', '_');
  return s;
});

TEST_P(Huge, TensorsPast2To31Elements) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP()
      << "a sanitizer's shadow of the sparse mappings takes the machine's memory; the plain build runs this";
#endif
  const Row& row = *GetParam();
  const Case c = tall_case();
  constexpr std::int64_t kFar = (std::int64_t{1} << 25) + 64;
  int ran = 0;
  for (DType t : {DType::float32, DType::float16})
    for (bool nchw : {false, true}) {
      Call dense(c, row.pass, Dtypes(t), nchw);
      if (!dense.runs(row)) continue;
      for (const RowStrides& far :
           {RowStrides{.x = kFar}, RowStrides{.offsets = kFar}, RowStrides{.grad = kFar},
            RowStrides{.grad_x = kFar}, RowStrides{.grad_offsets = kFar}}) {
        if (row.pass == Pass::forward && (far.grad_x || far.grad_offsets)) continue;
        SCOPED_TRACE(std::string(tapfield::name_of(t)) + (nchw ? " NCHW" : " NHWC") +
                     (far.x         ? " x"
                      : far.offsets ? " offsets"
                      : far.grad    ? " grad"
                      : far.grad_x  ? " grad_x"
                                    : " grad_offsets"));
        Call call(c, row.pass, Dtypes(t), nchw, Place::at_end, far);
        ASSERT_TRUE(call.runs(row));
        EXPECT_EQ(call.bytes(), dense.bytes());
        ++ran;
      }
    }
  EXPECT_GT(ran, 0);
}

}  // namespace
}  // namespace tapfield::testing
