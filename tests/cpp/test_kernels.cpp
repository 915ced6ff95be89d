// SPDX-License-Identifier: Apache-2.0
// Every row of the table on every case, in every dtype, layout and on every SIMD target of this machine,
// against the reference backend (which a Python oracle checks), in memory whose ends cannot be touched.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "agreement.h"

namespace tapfield::testing {
namespace {

constexpr DType kDtypes[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};

struct Param {
  const Row* row;
  Case c;
};

std::vector<Param> params() {
  std::vector<Param> r;
  for (const Row* row : kernels())
    for (const Case& c : small_cases()) r.push_back({row, c});
  return r;
}

std::string param_name(const ::testing::TestParamInfo<Param>& info) {
  std::string s =
      std::string(info.param.row->name) + "_" + name_of(info.param.row->pass) + "_" + info.param.c.name;
  for (char& ch : s)
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  return s;
}

class Kernel : public ::testing::TestWithParam<Param> {
 protected:
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }

  // One dtype and layout: the reference once, then the row on each target.
  void agree(Dtypes dtypes, bool nchw, Place place) {
    const auto& [row, c] = GetParam();
    Call call(c, row->pass, dtypes, nchw, place);
    Execution reference;
    reference.backend = "reference.magnitudes";
    call.run(reference);
    const auto magnitudes = call.values();
    reference.backend = "reference.values";
    call.run(reference);
    const auto want = call.values();
    const std::int64_t touches = most_touches(c, call.offsets.values());
    for (std::int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left; left &= left - 1) {
      hwy::SetSupportedTargetsForTest(left & -left);
      SCOPED_TRACE(hwy::TargetName(left & -left));
      if (!call.runs(*row)) continue;
      ++ran;
      EXPECT_EQ(last_row(), row);
      expect_close(call, want, magnitudes, touches);
      for (const auto& o : call.outputs) EXPECT_EQ(o->changed_gaps(), 0);
      if (HasFatalFailure()) return;
    }
    hwy::SetSupportedTargetsForTest(0);
  }

  int ran = 0;
};

TEST_P(Kernel, AgreesWithTheReference) {
  int i = 0;
  for (DType t : kDtypes)
    for (bool nchw : {false, true}) {
      SCOPED_TRACE(std::string(tapfield::name_of(t)) + (nchw ? " NCHW" : " NHWC"));
      agree(Dtypes(t), nchw, static_cast<Place>(i++ % 2));
      if (HasFatalFailure()) return;
    }
  EXPECT_GT(ran, 0);
}

TEST_P(Kernel, TakesFloat32Beside16Bits) {
  constexpr DType f32 = DType::float32;
  for (DType t : {DType::float16, DType::bfloat16})
    for (Dtypes dtypes : {Dtypes(t, f32, t, f32), Dtypes(t, t, f32, f32), Dtypes(t, f32, f32, f32)}) {
      SCOPED_TRACE(tapfield::name_of(t));
      agree(dtypes, false, Place::at_end);
      if (HasFatalFailure()) return;
    }
}

TEST_P(Kernel, TakesViews) {
  for (Place place : {Place::gaps, Place::reversed})
    for (bool nchw : {false, true}) {
      SCOPED_TRACE(place == Place::gaps ? "gaps" : "reversed");
      agree(Dtypes(DType::float32), nchw, place);
      agree(Dtypes(DType::bfloat16), nchw, place);
      if (HasFatalFailure()) return;
    }
}

INSTANTIATE_TEST_SUITE_P(Rows, Kernel, ::testing::ValuesIn(params()), param_name);

TEST(Choice, NeverFallsBackToTheReference) {
  for (const Case& c : read_cases())
    for (DType t : kDtypes)
      for (bool nchw : {false, true})
        for (Pass pass : {Pass::forward, Pass::grad, Pass::grad_grad}) {
          if (c.bench && elements(c.y_shape()) > 1'000'000) continue;
          Call call(c, pass, Dtypes(t), nchw);
          call.run({});
          EXPECT_STREQ(last_row()->backend, "cpu") << c.name;
        }
}

TEST(Choice, EveryKernelIsTheCheapestForSomeCase) {
  for (const Row* row : kernels()) {
    bool chosen = false;
    for (const Case& c : small_cases()) {
      Call call(c, row->pass, Dtypes(DType::float32), false);
      call.run({});
      chosen |= last_row() == row;
    }
    EXPECT_TRUE(chosen) << row->name << " " << name_of(row->pass);
  }
}

}  // namespace
}  // namespace tapfield::testing
