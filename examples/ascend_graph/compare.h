// SPDX-License-Identifier: Apache-2.0
// Judges an operator's output by the files that `tapfield golden --format bin` wrote: every element, by the
// bound of docs/operators.md, |error| <= 4 eps n sum of |terms|, plus half an ulp of a 16-bit output; eps is
// 2^-23, n the number of terms that an element can sum.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

enum class Type { float16, bfloat16, float32 };
inline std::size_t size_of(Type t) { return t == Type::float32 ? 4 : 2; }

// Element i.
inline double value_of(const void* data, std::size_t i, Type t) {
  const char* element = static_cast<const char*>(data) + i * size_of(t);
  float v32;
  std::uint16_t bits;
  if (t == Type::float32) return std::memcpy(&v32, element, sizeof v32), v32;
  std::memcpy(&bits, element, sizeof bits);
  if (t == Type::bfloat16) {
    const std::uint32_t wide = std::uint32_t{bits} << 16;
    return std::memcpy(&v32, &wide, sizeof v32), v32;
  }
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double v = std::ldexp(exponent ? fraction + 1024 : fraction, (exponent ? exponent : 1) - 25);
  if (exponent == 31) v = fraction ? NAN : INFINITY;
  return bits & 0x8000 ? -v : v;
}

inline double half_ulp(double v, Type t) {
  if (t == Type::float32) return 0;
  const int digits = t == Type::float16 ? 11 : 8, least = t == Type::float16 ? -14 : -126;
  return std::ldexp(0.5, std::max(v == 0 ? least : std::ilogb(v), least) - digits + 1);
}

struct Verdict {
  std::size_t elements = 0, over = 0, first_over = 0;
  double worst = 0;  // of error / bound
};

// Throws std::runtime_error where sizes differ.
inline Verdict compare(const void* actual, std::size_t bytes, Type type, const std::vector<double>& exact,
                       const std::vector<double>& magnitudes, double terms) {
  if (exact.empty() || magnitudes.size() != exact.size() || bytes != exact.size() * size_of(type))
    throw std::runtime_error("an output of " + std::to_string(bytes) + " bytes is not the golden one of " +
                             std::to_string(exact.size()) + " elements");
  Verdict v;
  v.elements = exact.size();
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double got = value_of(actual, i, type);
    const double bound = 4 * 0x1p-23 * terms * magnitudes[i] + half_ulp(got, type) + 0x1p-126;
    const double error = std::fabs(got - exact[i]);
    const bool right = std::isfinite(exact[i]) ? std::isfinite(got) && error <= bound : !std::isfinite(got);
    if (std::isfinite(exact[i])) v.worst = std::max(v.worst, std::isfinite(error) ? error / bound : INFINITY);
    if (!right && v.over++ == 0) v.first_over = i;
  }
  return v;
}

// ------ Files

inline std::vector<char> bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::vector<double> doubles_of(const std::string& path) {
  const std::vector<char> bytes = bytes_of(path);
  std::vector<double> v(bytes.size() / sizeof(double));
  std::memcpy(v.data(), bytes.data(), v.size() * sizeof(double));
  return v;
}

// A whole number of manifest.json.
inline double number_in(const std::string& manifest, const std::string& name) {
  const std::size_t at = manifest.find('"' + name + "\": ");
  if (at == std::string::npos) throw std::runtime_error("manifest.json does not say " + name);
  return std::stod(manifest.substr(at + name.size() + 4));
}

}  // namespace example
