// SPDX-License-Identifier: Apache-2.0
// How far a kernel's result may lie from the reference backend's.
#pragma once

#include <gtest/gtest.h>

#include <cmath>

#include "calls.h"

namespace tapfield::testing {

// Taps that touch a pixel, at most: a pixel is a corner of the cells around it. A count of positions,
// whatever the mask.
inline std::int64_t most_touches(const Case& c, const std::vector<double>& offsets) {
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

inline double longest_chain(const Call& call, const std::string& output, std::int64_t touches) {
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

// n: additions in the longest chain. `times` the truth's output `o`.
inline void expect_close(const std::string& name, const GuardedTensor& tensor, const Truth& truth,
                         std::size_t o, double n, double times = 1) {
  const std::vector<double> got = tensor.values();
  const Tolerance tolerance(truth.dtypes.x, tensor.dtype());
  ASSERT_EQ(got.size(), truth.want[o].size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double want = times * truth.want[o][i], magnitude = times * truth.magnitudes[o][i],
                 bound = tolerance(got[i], want, magnitude, n);
    const bool right = !std::isfinite(want)       ? !std::isfinite(got[i])
                       : std::isfinite(magnitude) ? std::fabs(got[i] - want) <= bound
                                                  : true;
    if (!right)
      FAIL() << name << " element " << i << ": got " << got[i] << ", want " << want << " +- " << bound;
  }
}

inline void expect_close(const Call& call, const Truth& truth) {
  ASSERT_EQ(call.outputs.size(), truth.want.size());
  for (std::size_t o = 0; o < call.outputs.size(); ++o) {
    const std::string name = call.output_name(o);
    expect_close(name, *call.outputs[o], truth, o, longest_chain(call, name, truth.touches));
    if (::testing::Test::HasFatalFailure()) return;
  }
}

// Call agree(truth, nchw, place) for each combination until one fails: float32 beside 16 bits; views with
// gaps and of negative strides.
template <class Agree>
void for_mixed_dtypes(const Case& c, Pass pass, const Agree& agree) {
  constexpr DType f32 = DType::float32;
  for (DType t : {DType::float16, DType::bfloat16})
    for (Dtypes dtypes : {Dtypes(t, f32, t, f32), Dtypes(t, t, f32, f32), Dtypes(t, f32, f32, f32)}) {
      agree(Truth(c, pass, dtypes), false, Place::at_end);
      if (::testing::Test::HasFailure()) return;
    }
}
template <class Agree>
void for_views(const Case& c, Pass pass, const Agree& agree) {
  for (DType t : {DType::float32, DType::bfloat16}) {
    const Truth truth(c, pass, Dtypes(t));
    for (Place place : {Place::gaps, Place::reversed})
      for (bool nchw : {false, true}) {
        SCOPED_TRACE(place == Place::gaps ? "gaps" : "reversed");
        agree(truth, nchw, place);
        if (::testing::Test::HasFailure()) return;
      }
  }
}

}  // namespace tapfield::testing
