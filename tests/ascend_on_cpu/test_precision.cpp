// SPDX-License-Identifier: Apache-2.0
// How far results lie from the reference's, over the whole case table, printed beside what CANN's own tests
// accept: |error| <= absolute + relative * |value| for 99% of an output's elements. Asserted for each case.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "agreement.h"
#include "ascend_call.h"

namespace tapfield::testing {
namespace {

struct Limit {
  double relative, absolute;
};
Limit accepted(DType t) {
  switch (t) {
    case DType::float16: return {0x1p-9, 0x1p-9};
    case DType::bfloat16: return {0x1p-6, 0x1p-6};
    default: return {0x1p-10, 0x1p-16};
  }
}

struct Errors {
  double worst = 0;     // of |error| / (eps * sum of |terms|), a 16-bit output's rounding off
  double rms = 0;       // of the same, over an output; the worst case's
  double of_limit = 0;  // the worst case's |error| / what is accepted, of 99% of its elements
  std::string where;    // that case
  std::int64_t elements = 0;
};

void add(Errors& e, const Call& call, const Truth& truth, std::size_t o) {
  const DType dtype = call.outputs[o]->dtype();
  const Limit limit = accepted(dtype);
  const Tolerance rounding(call.x.dtype(), dtype);
  const std::vector<double> got = call.outputs[o]->values(), &want = truth.want[o],
                            &magnitude = truth.magnitudes[o];
  std::vector<double> of_limit;
  double squares = 0;
  std::int64_t measured = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i]) || !std::isfinite(magnitude[i])) continue;
    const double error = std::fabs(got[i] - want[i]);
    of_limit.push_back(error / (limit.absolute + limit.relative * std::fabs(want[i])));
    const double off = dtype == DType::float32 ? 0 : rounding(got[i], want[i], 0, 0);
    if (magnitude[i] <= 0x1p-100) continue;
    const double units = std::max(error - off, 0.0) / (0x1p-23 * magnitude[i]);
    e.worst = std::max(e.worst, units), squares += units * units, ++measured;
  }
  constexpr int kLeast = 32;  // fewer elements have no rms to speak of
  if (measured >= kLeast) e.rms = std::max(e.rms, std::sqrt(squares / static_cast<double>(measured)));
  if (of_limit.empty()) return;
  const auto at =
      of_limit.begin() + static_cast<std::ptrdiff_t>(0.99 * static_cast<double>(of_limit.size() - 1));
  std::nth_element(of_limit.begin(), at, of_limit.end());
  e.elements += static_cast<std::int64_t>(of_limit.size());
  if (*at >= e.of_limit) e.of_limit = *at, e.where = call.c.name;
}

TEST(Precision, IsFarWithinWhatUpstreamAccepts) {
  std::printf(
      "| product | output | dtype | worst, eps of sum of magnitudes | rms | of upstream's limit | in case |\n"
      "|---|---|---|---|---|---|---|\n");
  for (Product product : {Product::dav_3510, Product::dav_2201})
    for (DType t : {DType::float32, DType::float16, DType::bfloat16}) {
      std::map<std::string, Errors> found;
      for (Pass pass : {Pass::forward, Pass::grad})
        for (const Case& c : small_cases()) {
          const Truth truth(c, pass, Dtypes(t));
          Call call(c, pass, Dtypes(t), /*nchw=*/false);
          run_on(product, call, 4);
          for (std::size_t o = 0; o < call.outputs.size(); ++o)
            add(found[call.output_name(o)], call, truth, o);
        }
      for (auto& [output, e] : found) {
        EXPECT_GT(e.elements, 10000);
        const std::string of_limit =
            e.of_limit ? "1/" + std::to_string(std::lround(1 / e.of_limit)) + " | " + e.where : "0 | all";
        std::printf("| %s | %s | %s | %.2f | %.2f | %s |\n", name_of(product), output.c_str(),
                    tapfield::name_of(t), e.worst, e.rms, of_limit.c_str());
        EXPECT_LT(e.rms, 4) << output << ": docs/operators.md, Numerics";
        EXPECT_LE(e.of_limit, t == DType::float32 ? 1.0 / 50 : 1) << output;
      }
    }
}

// Thousands of terms of one sign in each of four pixels: one after the other they would be off by 9 eps.
TEST(Precision, LongSumsDoNotDrift) {
  Case c{};
  for (const Case& one : small_cases())
    if (one.name == "one_cell_long") c = one;
  Call call(c, Pass::grad, Dtypes(DType::float32), /*nchw=*/false);
  ASSERT_TRUE(c.positive);
  const auto reference = [&](const char* backend) {
    Execution e;
    e.backend = backend;
    call.run(e);
    return call.values()[0];
  };
  const std::vector<double> want = reference("reference.values"),
                            magnitude = reference("reference.magnitudes");
  for (Product product : {Product::dav_3510, Product::dav_2201})
    for (bool deterministic : {false, true}) {
      run_on(product, call, 40, deterministic);
      const std::vector<double> got = call.outputs[0]->values();
      double squares = 0;
      int touched = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        if (magnitude[i] == 0) continue;
        const double units = (got[i] - want[i]) / (0x1p-23 * magnitude[i]);
        squares += units * units, ++touched;
      }
      EXPECT_EQ(touched, 4 * c.x[3]);
      EXPECT_LT(std::sqrt(squares / touched), 3)
          << name_of(product) << (deterministic ? " deterministic" : "");
    }
}

}  // namespace
}  // namespace tapfield::testing
