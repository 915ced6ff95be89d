// SPDX-License-Identifier: Apache-2.0
// Every row of the table on every case, in every dtype, layout and on every SIMD target of this machine,
// against the reference backend (which a Python oracle checks), in memory whose ends cannot be touched.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <string_view>

#include "calls.h"

namespace tapfield::testing {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr int kThreads = 2;  // for its races: test_determinism.cpp shows that threads change no bit
#else
constexpr int kThreads = 1;
#endif

constexpr DType kDtypes[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};

// Taps that touch a pixel, at most: a pixel is a corner of the cells around it. A count of positions,
// whatever the mask.
std::int64_t most_touches(const Case& c, const std::vector<double>& offsets) {
  const std::int64_t lanes = c.lanes(), planes = c.modulated ? 3 : 2, ho = c.ho(), wo = c.wo(),
                     W = c.x[2] + 2;
  std::vector<std::int64_t> count(static_cast<std::size_t>(c.x[0] * c.groups * (c.x[1] + 2) * W));
  std::int64_t most = 1;
  for (std::int64_t i = 0; i < c.x[0] * ho * wo; ++i)
    for (std::int64_t l = 0; l < lanes; ++l) {
      const std::int64_t k = l % (c.kh * c.kw), g = l / (c.kh * c.kw);
      const double h =
          std::floor(static_cast<double>(i / wo % ho * c.stride_h - c.pads[0] + k / c.kw * c.dil_h) +
                     offsets[static_cast<std::size_t>((i * planes + 1) * lanes + l)]);
      const double w = std::floor(static_cast<double>(i % wo * c.stride_w - c.pads[2] + k % c.kw * c.dil_w) +
                                  offsets[static_cast<std::size_t>(i * planes * lanes + l)]);
      if (!(h >= -1 && h < static_cast<double>(c.x[1]) && w >= -1 && w < static_cast<double>(c.x[2])))
        continue;
      for (int corner = 0; corner < 4; ++corner) {
        const std::int64_t row = static_cast<std::int64_t>(h) + 1 + corner / 2,
                           column = static_cast<std::int64_t>(w) + 1 + corner % 2;
        most = std::max(most, ++count[static_cast<std::size_t>(
                                  ((i / (ho * wo) * c.groups + g) * (c.x[1] + 2) + row) * W + column)]);
      }
    }
  return most;
}

// |error| <= 2 eps n sum|terms|: n the additions in the longest chain, at most the terms of one element;
// twice, for the roundings of each term's own factors, eps being two of them. A 16-bit output is rounded by
// both sides, each within half an ulp: together one ulp of the larger. The least numbers of each type round
// absolutely.
struct Tolerance {
  double eps, ulp, least;
  explicit Tolerance(DType compute, DType out) {
    eps = compute == DType::float64 ? 0x1p-52 : 0x1p-23;
    ulp = out == DType::float16                                ? 0x1p-10
          : out == DType::bfloat16                             ? 0x1p-7
          : out == DType::float32 && compute != DType::float64 ? 0x1p-23
                                                               : 0;
    least = out == DType::float16 ? 0x1p-24 : compute == DType::float64 ? 0x1p-1060 : 0x1p-135;
  }
  double operator()(double got, double want, double magnitude, double n) const {
    return 2 * eps * n * magnitude + ulp * std::max(std::fabs(got), std::fabs(want)) + least;
  }
};

double longest_chain(const Call& call, const std::string& output, std::int64_t touches) {
  const auto channels = static_cast<double>(call.c.x[3] / call.c.groups);
  if (output == "y") return 4;
  if (output == "grad_grad") return 16;  // 4 corners of u; 3 x 4 of v
  if (output == "grad_x") return static_cast<double>(touches) * (call.pass == Pass::grad ? 1 : 3);
  return 4 * channels * (call.pass == Pass::grad ? 1 : 3);
}

// What the reference gives: the same in every layout.
struct Truth {
  Dtypes dtypes;
  std::vector<std::vector<double>> want, magnitudes;
  std::int64_t touches;
  Truth(const Case& c, Pass pass, Dtypes t) : dtypes(t) {
    Call call(c, pass, t, /*nchw=*/false);
    Execution reference;
    reference.backend = "reference.magnitudes";
    call.run(reference);
    magnitudes = call.values();
    reference.backend = "reference.values";
    call.run(reference);
    want = call.values();
    touches = most_touches(c, call.offsets.values());
  }
};

void expect_close(const Call& call, const Truth& truth) {
  const auto& [dtypes, want, magnitudes, touches] = truth;
  ASSERT_EQ(call.outputs.size(), want.size());
  for (std::size_t o = 0; o < want.size(); ++o) {
    const std::string name = call.output_name(o);
    const std::vector<double> got = call.outputs[o]->values();
    const Tolerance tolerance(call.x.dtype(), call.outputs[o]->dtype());
    const double n = longest_chain(call, name, touches);
    ASSERT_EQ(got.size(), want[o].size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double bound = tolerance(got[i], want[o][i], magnitudes[o][i], n);
      const bool right = !std::isfinite(want[o][i])        ? !std::isfinite(got[i])
                         : std::isfinite(magnitudes[o][i]) ? std::fabs(got[i] - want[o][i]) <= bound
                                                           : true;
      if (!right)
        FAIL() << name << " element " << i << ": got " << got[i] << ", want " << want[o][i] << " +- "
               << bound;
    }
  }
}

struct Param {
  const Row* row;
  Case c;
};

// The windows are for groups of 32 channels at most; every other row takes every case.
bool takes(const Row& row, const Case& c) {
  return row.name != std::string_view("cpu.windows") || c.x[3] / c.groups <= 32;
}

std::vector<Param> params() {
  std::vector<Param> r;
  for (const Row* row : kernels())
    for (const Case& c : small_cases())
      if (takes(*row, c)) r.push_back({row, c});
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
  constexpr DType f32 = DType::float32;
  for (DType t : {DType::float16, DType::bfloat16})
    for (Dtypes dtypes : {Dtypes(t, f32, t, f32), Dtypes(t, t, f32, f32), Dtypes(t, f32, f32, f32)}) {
      agree(Truth(GetParam().c, GetParam().row->pass, dtypes), false, Place::at_end);
      if (HasFatalFailure()) return;
    }
}

TEST_P(Kernel, TakesViews) {
  for (DType t : {DType::float32, DType::bfloat16}) {
    const Truth truth(GetParam().c, GetParam().row->pass, Dtypes(t));
    for (Place place : {Place::gaps, Place::reversed})
      for (bool nchw : {false, true}) {
        SCOPED_TRACE(place == Place::gaps ? "gaps" : "reversed");
        agree(truth, nchw, place);
        if (HasFatalFailure()) return;
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Kernel, ::testing::ValuesIn(params()), param_name);

}  // namespace
}  // namespace tapfield::testing
