// SPDX-License-Identifier: Apache-2.0
// Both products' kernels on the whole case table, in every dtype, run on the CPU (machine.h) in changing orders of
// cores, against the reference backend.
#include <gtest/gtest.h>

#include <algorithm>

#include "agreement.h"
#include "ascend_call.h"

namespace tapfield::testing {
namespace {

using ascend_on_cpu::Order;

constexpr DType kDtypes[] = {DType::float16, DType::bfloat16, DType::float32};
constexpr Product kProducts[] = {Product::dav_3510, Product::dav_2201};
constexpr Pass kPasses[] = {Pass::forward, Pass::grad};

struct Param {
  Product product;
  Pass pass;
  Case c;
};

std::vector<Param> params() {
  std::vector<Param> r;
  for (Product product : kProducts)
    for (Pass pass : kPasses)
      for (const Case& c : small_cases()) r.push_back({product, pass, c});
  return r;
}

std::string param_name(const ::testing::TestParamInfo<Param>& info) {
  std::string s = std::string(name_of(info.param.product)) + "_" + name_of(info.param.pass) + "_" + info.param.c.name;
  for (char& ch : s)
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  return s;
}

class AscendKernel : public ::testing::TestWithParam<Param> {
 protected:
  void TearDown() override { ascend_on_cpu::options() = {}; }

  void agree(Call& call, const Truth& truth, bool deterministic) {
    const Param& param = GetParam();
    SCOPED_TRACE(std::string(tapfield::name_of(truth.dtypes.x)) + (deterministic ? " deterministic" : ""));
    ascend_on_cpu::options().order = ++runs_ % 2 ? Order::one_after_another : Order::interleaved;
    ascend_on_cpu::options().seed = static_cast<unsigned>(runs_);
    ascend_on_cpu::options().threads_backward = runs_ % 3 == 0;
    run_on(param.product, call, runs_ % 2 ? 5 : 2, deterministic);
    expect_close(call, truth);
    EXPECT_LE(ascend_on_cpu::counts().most_unified_buffer, ascend::kUnifiedBuffer);
  }

  int runs_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Products, AscendKernel, ::testing::ValuesIn(params()), param_name);

TEST_P(AscendKernel, AgreesWithTheReference) {
  const auto& [product, pass, c] = GetParam();
  for (DType t : kDtypes)
    for (Place place : {Place::at_end, Place::at_beginning}) {
      const Truth truth(c, pass, Dtypes(t));
      Call call(c, pass, Dtypes(t), /*nchw=*/false, place);
      agree(call, truth, false);
      if (HasFailure()) return;
    }
}

TEST_P(AscendKernel, AgreesWithTheReferenceAndItselfIfDeterministic) {
  const auto& [product, pass, c] = GetParam();
  if (pass == Pass::forward) GTEST_SKIP() << "the forward has one mode";
  for (DType t : kDtypes) {
    const Truth truth(c, pass, Dtypes(t));
    Call call(c, pass, Dtypes(t), /*nchw=*/false);
    agree(call, truth, true);
    const auto first = call.bytes();
    agree(call, truth, true);
    EXPECT_EQ(call.bytes(), first);
    if (HasFailure()) return;
  }
}

TEST_P(AscendKernel, TakesFloat32Beside16Bits) {
  const auto& [product, pass, c] = GetParam();
  constexpr DType f32 = DType::float32;
  for (DType t : {DType::float16, DType::bfloat16})
    for (Dtypes dtypes : {Dtypes(t, f32, t, f32), Dtypes(t, t, f32, f32), Dtypes(t, t, f32, t)}) {
      const Truth truth(c, pass, dtypes);
      for (bool deterministic : {false, true}) {
        if (deterministic && pass == Pass::forward) continue;
        Call call(c, pass, dtypes, /*nchw=*/false);
        agree(call, truth, deterministic);
        if (HasFailure()) return;
      }
    }
}

}  // namespace
}  // namespace tapfield::testing
