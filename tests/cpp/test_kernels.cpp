// SPDX-License-Identifier: Apache-2.0
// Every row of the table on every case, in every dtype, layout and on every SIMD target of this machine,
// against the reference backend (which a Python oracle checks), in memory whose ends cannot be touched.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "agreement.h"

namespace tapfield::testing {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr int kThreads = 2;  // for its races: test_determinism.cpp shows that threads change no bit
#else
constexpr int kThreads = 1;
#endif

constexpr DType kDtypes[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};

std::vector<RowCase> params() {
  std::vector<RowCase> r;
  for (const Row* row : kernels())
    for (const Case& c : small_cases(/*with_large=*/true))
      if (takes(*row, c)) r.push_back({row, c});
  return r;
}

class Kernel : public ::testing::TestWithParam<RowCase> {
 protected:
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }

  // One layout: the row on each target.
  void agree(const Truth& truth, bool nchw, Place place) {
    const auto& [row, c] = GetParam();
    SCOPED_TRACE(std::string(tapfield::name_of(truth.dtypes.x)) + (nchw ? " NCHW" : " NHWC"));
    Call call(c, row->pass, truth.dtypes, nchw, place);
    for (std::int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left; left &= left - 1) {
      hwy::SetSupportedTargetsForTest(left & -left);
      SCOPED_TRACE(hwy::TargetName(left & -left));
      if (!call.runs(*row, kThreads)) continue;
      ++ran;
      EXPECT_EQ(last_row(), row);
      expect_close(call, truth);
      for (const auto& o : call.outputs) EXPECT_EQ(o->changed_gaps(), 0);
      if (HasFatalFailure()) return;
    }
    hwy::SetSupportedTargetsForTest(0);
  }

  int ran = 0;
};

TEST_P(Kernel, AgreesWithTheReference) {
  int i = 0;
  for (DType t : kDtypes) {
    const Truth truth(GetParam().c, GetParam().row->pass, Dtypes(t));
    for (bool nchw : {false, true}) {
      agree(truth, nchw, static_cast<Place>(i++ % 2));
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(ran, 0);
}

TEST_P(Kernel, TakesFloat32Beside16Bits) {
  for_mixed_dtypes(GetParam().c, GetParam().row->pass, [this](const auto&... with) { agree(with...); });
}

TEST_P(Kernel, TakesViews) {
  for_views(GetParam().c, GetParam().row->pass, [this](const auto&... with) { agree(with...); });
}

INSTANTIATE_TEST_SUITE_P(Rows, Kernel, ::testing::ValuesIn(params()),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace tapfield::testing
