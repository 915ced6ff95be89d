// SPDX-License-Identifier: Apache-2.0
// Both products' kernels on the whole case table, in every dtype, run on the CPU (machine.h) in changing
// orders of cores, against the reference backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "agreement.h"
#include "ascend_call.h"

namespace tapfield::testing {
namespace {

using ascend_on_cpu::Order;

constexpr DType kDtypes[] = {DType::float16, DType::bfloat16, DType::float32};

struct Param {
  Product product;
  Pass pass;
  Case c;
};

std::vector<Param> params(std::initializer_list<Pass> passes) {
  std::vector<Param> r;
  for (Product product : {Product::dav_3510, Product::dav_2201})
    for (Pass pass : passes)
      for (const Case& c : small_cases()) r.push_back({product, pass, c});
  return r;
}

std::string param_name(const ::testing::TestParamInfo<Param>& info) {
  std::string s =
      std::string(name_of(info.param.product)) + "_" + name_of(info.param.pass) + "_" + info.param.c.name;
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

using AscendGrad = AscendKernel;  // has two modes

INSTANTIATE_TEST_SUITE_P(Products, AscendKernel, ::testing::ValuesIn(params({Pass::forward, Pass::grad})),
                         param_name);
INSTANTIATE_TEST_SUITE_P(Products, AscendGrad, ::testing::ValuesIn(params({Pass::grad})), param_name);

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

TEST_P(AscendGrad, IsDeterministicWhenAsked) {
  const auto& [product, pass, c] = GetParam();
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

// ------ Other ways through the kernels

Case case_named(const char* name) {
  for (const Case& c : small_cases())
    if (c.name == name) return c;
  throw std::runtime_error(name);
}

// Or the same bits of the deterministic gradient would say nothing.
TEST(AscendOrder, TheFastGradientDependsOnIt) {
  const Case c = case_named("one_cell_g8");
  for (Product product : {Product::dav_3510, Product::dav_2201}) {
    Call call(c, Pass::grad, Dtypes(DType::float32), /*nchw=*/false);
    run_on(product, call, 5);
    const auto first = call.bytes();
    ascend_on_cpu::options() = {Order::interleaved, 3, true};
    run_on(product, call, 5);
    ascend_on_cpu::options() = {};
    EXPECT_NE(call.bytes()[0], first[0]) << "grad_x";
    EXPECT_EQ(call.bytes()[1], first[1]) << "grad_offsets are in one order in any mode";
  }
}

TEST(AscendIndex, WideIndicesGiveTheSame) {
  for (const char* name : {"all_attributes_open", "c17_g1", "nonfinite_open"})
    for (Pass pass : {Pass::forward, Pass::grad}) {
      const Case c = case_named(name);
      const Dtypes dtypes(DType::bfloat16, DType::float32, DType::float32, DType::float32);
      Call narrow(c, pass, dtypes, false), wide(c, pass, dtypes, false);
      run_on(Product::dav_3510, narrow, 1);
      for (auto& o : wide.outputs) o->poison();
      const Problem p = problem_of(wide);
      ASSERT_TRUE(ascend::fits_32_bits(p));
      // Memory is whatever is there: the other run has checked it.
      for (const View* v : {&p.x, &p.offsets, &p.grad, &p.y, &p.grad_x, &p.grad_offsets})
        if (v->data) ascend_on_cpu::declare_memory(v->data, 1 << 20);
      const auto a = ascend::arguments_of<std::int64_t>(p, nullptr);
      const ascend::Launch l = ascend::launch_of(p, {1, nullptr});
      pass == Pass::forward ? ascend::launch_forward_simt(l, a, ascend::team_of(p))
                            : ascend::launch_grad_simt(l, a, ascend::team_of(p));
      ascend_on_cpu::forget_memory();
      EXPECT_EQ(wide.bytes(), narrow.bytes()) << name;
    }
}

TEST(AscendIndex, AreWideWhereTheyMust) {
  Problem p;
  p.n = 1, p.h = 1 << 15, p.w = 1 << 10, p.c = 64, p.ho = p.wo = 8;
  EXPECT_FALSE(ascend::fits_32_bits(p)) << "2^31 elements of x";
  p.c = 32;
  EXPECT_TRUE(ascend::fits_32_bits(p));
  p.ho = p.wo = 1 << 12, p.kh = 3;
  EXPECT_TRUE(ascend::fits_32_bits(p));
  p.kw = 3;
  EXPECT_FALSE(ascend::fits_32_bits(p)) << "2^31 elements of y";
  p.kw = 1, p.top = std::int64_t{1} << 31;
  EXPECT_FALSE(ascend::fits_32_bits(p)) << "positions";
}

// A sparse x of 2^31 + 2^16 elements, of which few outputs read a little, also at its end.
TEST(AscendIndex, ReachesPast2To31Elements) {
  constexpr std::int64_t kH = (1 << 21) + 64, kW = 1 << 10, kElements = kH * kW, kHo = 12, kWo = 5;
  void* mapped = mmap(nullptr, kElements * 2, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  const std::unique_ptr<void, void (*)(void*)> owner(mapped, [](void* p) { munmap(p, kElements * 2); });
  const std::int64_t stride_h = (kH - 1) / (kHo - 1), stride_w = (kW - 1) / (kWo - 1);
  const auto value = [](std::int64_t h, std::int64_t w) {
    return static_cast<double>((h * 31 + w * 17) % 64 - 32);
  };
  std::vector<float> offsets;
  std::vector<double> want, magnitude;  // of the four terms
  const std::vector<double> normal = normal_values(kHo * kWo * 2, 5);
  for (std::int64_t ho = 0; ho < kHo; ++ho)
    for (std::int64_t wo = 0; wo < kWo; ++wo) {
      const std::size_t i = offsets.size();
      offsets.push_back(static_cast<float>(normal[i])), offsets.push_back(static_cast<float>(normal[i + 1]));
      const double h = static_cast<double>(ho * stride_h) + offsets[i + 1],
                   w = static_cast<double>(wo * stride_w) + offsets[i];
      double y = 0, terms = 0;
      for (int corner = 0; corner < 4; ++corner) {
        const std::int64_t ih = static_cast<std::int64_t>(std::floor(h)) + corner / 2,
                           iw = static_cast<std::int64_t>(std::floor(w)) + corner % 2;
        if (ih < 0 || ih >= kH || iw < 0 || iw >= kW) continue;
        encode(value(ih, iw), DType::float16, static_cast<char*>(mapped) + (ih * kW + iw) * 2);
        const double term = value(ih, iw) * (1 - std::fabs(h - static_cast<double>(ih))) *
                            (1 - std::fabs(w - static_cast<double>(iw)));
        y += term, terms += std::fabs(term);
      }
      want.push_back(y), magnitude.push_back(terms);
    }
  std::vector<std::uint16_t> y(want.size(), 0x7e00);
  Attributes a;
  a.ksize = {1, 1}, a.strides = {1, stride_h, stride_w, 1}, a.pads = {0, 0, 0, 0}, a.modulated = false;
  const Tensor x_tensor(mapped, DType::float16, {1, kH, kW, 1}),
      offsets_tensor(offsets.data(), {1, kHo, kWo, 2}),
      y_tensor(static_cast<void*>(y.data()), DType::float16, {1, kHo, kWo, 1});
  const Problem p =
      make_problem(Pass::forward, {.x = &x_tensor, .offsets = &offsets_tensor, .y = &y_tensor}, a, true);
  EXPECT_FALSE(ascend::fits_32_bits(p));
  for (Product product : {Product::dav_3510, Product::dav_2201}) {
    std::fill(y.begin(), y.end(), std::uint16_t{0x7e00});
    ascend_on_cpu::declare_memory(mapped, kElements * 2);
    ascend_on_cpu::declare_memory(offsets.data(), offsets.size() * sizeof(float));
    ascend_on_cpu::declare_memory(y.data(), y.size() * 2);
    product == Product::dav_3510 ? ascend::run_simt(p, {3, nullptr}, nullptr)
                                 : ascend::run_vector(p, {3, nullptr}, nullptr);
    ascend_on_cpu::forget_memory();
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double got = decode(&y[i], DType::float16);
      // float32's sum of four terms, and half an ulp of float16, the least of them 2^-24.
      const double sum = Tolerance(DType::float32, DType::float64)(got, want[i], magnitude[i], 4);
      EXPECT_NEAR(got, want[i], sum + 0x1p-11 * std::max(std::fabs(got), std::fabs(want[i])) + 0x1p-25)
          << name_of(product) << i;
    }
  }
}

}  // namespace
}  // namespace tapfield::testing
