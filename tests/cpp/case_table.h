// SPDX-License-Identifier: Apache-2.0
// tests/cases.json for C++ tests and benchmarks: a Case makes its attributes and its tensors' values.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "problem.h"

namespace tapfield::testing {

using Shape = std::array<std::int64_t, 4>;  // logical NHWC, whatever the layout

inline std::int64_t elements(const Shape& s) { return s[0] * s[1] * s[2] * s[3]; }

struct Case {
  std::string name;
  Shape x;
  std::int64_t kh, kw, stride_h, stride_w, dil_h, dil_w, groups;
  std::array<std::int64_t, 4> pads;
  bool modulated, bench, large;
  bool positive;                               // every value but the offsets: sums of one sign
  std::string border;                          // "open" or "closed": a case of both borders is read as two
  std::string kind;                            // of offsets
  double std_deviation = 1;                    // of "normal" and "one_row"
  std::vector<double> along_w, along_h, mask;  // of "values"

  Attributes attributes(bool nchw) const;  // points into this case
  std::int64_t ho() const, wo() const;
  std::int64_t lanes() const { return groups * kh * kw; }
  Shape offsets_shape() const { return {x[0], ho(), wo(), (modulated ? 3 : 2) * lanes()}; }
  Shape y_shape() const { return {x[0], ho() * kh, wo() * kw, x[3]}; }
};

std::vector<Case> read_cases();

// Values in logical order, before rounding to a dtype. The same on every machine.
std::vector<double> normal_values(std::int64_t count, unsigned seed);
std::vector<double> data_values(const Case& c, const Shape& shape, unsigned seed);
std::vector<double> offsets_values(const Case& c, DType dtype);

// Scalar conversions of the tests' own. Encoding to 16 bits cuts: inputs need no rounding rule.
double decode(const void* element, DType dtype);
void encode(double value, DType dtype, void* element);

}  // namespace tapfield::testing
