// SPDX-License-Identifier: Apache-2.0
#include "case_table.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>

namespace tapfield::testing {
namespace {

double greatest(DType t) {
  switch (t) {
    case DType::float16: return 65504;
    case DType::bfloat16: return std::ldexp(255, 120);
    case DType::float32: return std::numeric_limits<float>::max();
    case DType::float64: return std::numeric_limits<double>::max();
  }
  return 0;
}

// The least value of the dtype above v, where v is a small integer.
double next_above(double v, DType t) {
  const int digits = t == DType::float16 ? 11 : t == DType::bfloat16 ? 8 : t == DType::float32 ? 24 : 53;
  if (v == 0)
    return t == DType::float16    ? 0x1p-24
           : t == DType::bfloat16 ? 0x1p-133
           : t == DType::float32  ? 0x1p-149
                                  : 0x1p-1074;
  const int exponent = std::ilogb(v);
  // Below a power of two (towards zero, for negative v) digits are twice as dense.
  const bool power = std::ldexp(1, exponent) == -v;
  return v + std::ldexp(1, exponent - digits + (power ? 0 : 1));
}

}  // namespace

std::int64_t Case::ho() const { return (x[1] + pads[0] + pads[1] - dil_h * (kh - 1) - 1) / stride_h + 1; }
std::int64_t Case::wo() const { return (x[2] + pads[2] + pads[3] - dil_w * (kw - 1) - 1) / stride_w + 1; }

Attributes Case::attributes(bool nchw) const {
  Attributes a;
  a.ksize = {kh, kw};
  a.strides = nchw ? Ints{1, 1, stride_h, stride_w} : Ints{1, stride_h, stride_w, 1};
  a.dilations = nchw ? Ints{1, 1, dil_h, dil_w} : Ints{1, dil_h, dil_w, 1};
  a.pads = {pads[0], pads[1], pads[2], pads[3]};
  a.data_format = nchw ? "NCHW" : "NHWC";
  a.deformable_groups = groups;
  a.modulated = modulated;
  a.border = border.c_str();
  return a;
}

std::vector<Case> read_cases() {
  std::ifstream in(TAPFIELD_CASES);
  const nlohmann::json table = nlohmann::json::parse(in);
  std::vector<Case> cases;
  for (const auto& row : table.at("cases")) {
    Case c;
    c.name = row.at("name");
    c.x = row.at("x");
    c.pads = row.at("pads");
    const std::array<std::int64_t, 2> ksize = row.at("ksize"), strides = row.at("strides"),
                                      dilations = row.at("dilations");
    c.kh = ksize[0], c.kw = ksize[1], c.stride_h = strides[0], c.stride_w = strides[1],
    c.dil_h = dilations[0], c.dil_w = dilations[1];
    c.groups = row.at("groups"), c.modulated = row.at("modulated"), c.bench = row.value("bench", false),
    c.large = row.value("large", false), c.positive = row.value("data", "") == "positive";
    const auto& offsets = row.at("offsets");
    c.kind = offsets.at("kind");
    c.std_deviation = offsets.value("std", 1.0);
    const std::vector<double> none;
    c.along_w = offsets.value("along_w", none), c.along_h = offsets.value("along_h", none),
    c.mask = offsets.value("mask", none);
    const std::string border = row.at("border");
    for (const char* one : {"open", "closed"})
      if (border == one || border == "both") {
        c.border = one;
        cases.push_back(c);
        if (border == "both") cases.back().name += std::string("_") + one;
      }
  }
  if (cases.empty()) throw std::runtime_error("no cases in " TAPFIELD_CASES);
  return cases;
}

std::vector<double> normal_values(std::int64_t count, unsigned seed) {
  struct Sequence {
    std::mt19937_64 random;
    std::normal_distribution<double> normal;
    std::vector<double> values;
  };
  thread_local std::map<unsigned, Sequence> known;  // tests ask for the same ones all the time
  Sequence& s = known.try_emplace(seed, Sequence{std::mt19937_64(seed), {}, {}}).first->second;
  while (static_cast<std::int64_t>(s.values.size()) < count) s.values.push_back(s.normal(s.random));
  return {s.values.begin(), s.values.begin() + count};
}

std::vector<double> data_values(const Case& c, const Shape& shape, unsigned seed) {
  std::vector<double> v = normal_values(elements(shape), seed);
  if (c.positive)
    for (double& one : v) one = std::fabs(one);
  return v;
}

std::vector<double> offsets_values(const Case& c, DType dtype) {
  const std::int64_t lanes = c.lanes(), planes = c.modulated ? 3 : 2, ho = c.ho(), wo = c.wo();
  std::vector<double> v = normal_values(elements(c.offsets_shape()), 7);
  std::mt19937_64 random(11);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const double top = greatest(dtype);
  const double huge[] = {std::min(1e9, top), std::max(-1e9, -top), top, -top},
               nonfinite[] = {NAN, INFINITY, -INFINITY};
  const double cell_h = std::floor((c.x[1] - 1) / 2.0), cell_w = std::floor((c.x[2] - 1) / 2.0);
  std::int64_t t = 0;
  for (std::int64_t n = 0; n < c.x[0]; ++n)
    for (std::int64_t h = 0; h < ho; ++h)
      for (std::int64_t w = 0; w < wo; ++w)
        for (std::int64_t l = 0; l < lanes; ++l, ++t) {
          double* pixel = v.data() + ((n * ho + h) * wo + w) * planes * lanes + l;
          double &o_w = pixel[0], &o_h = pixel[lanes];
          if (c.positive && c.modulated) pixel[2 * lanes] = std::fabs(pixel[2 * lanes]);
          const std::int64_t k = l % (c.kh * c.kw);
          const double base_h = static_cast<double>(h * c.stride_h - c.pads[0] + k / c.kw * c.dil_h);
          const double base_w = static_cast<double>(w * c.stride_w - c.pads[2] + k % c.kw * c.dil_w);
          if (c.kind == "zero")
            o_w = o_h = 0;
          else if (c.kind == "normal")
            o_w *= c.std_deviation, o_h *= c.std_deviation;
          else if (c.kind == "flow") {
            o_w = 10 * std::sin(6 * static_cast<double>(h) / static_cast<double>(ho)) + o_w / 2;
            o_h = 10 * std::cos(5 * static_cast<double>(w) / static_cast<double>(wo)) + o_h / 2;
          } else if (c.kind == "integer")
            o_w = pick(7) - 3, o_h = pick(7) - 3;
          else if (c.kind == "border") {
            const auto target = [&](std::int64_t i, double base, double size) {
              switch (i % 7) {
                case 0: return -1 - base;
                case 1: return next_above(-1 - base, dtype);
                case 2: return base == 0 ? -0.0 : -base;
                case 3: return -base;
                case 4: return size - 1 - base;
                case 5: return size - 0.5 - base;
                default: return size - base;
              }
            };
            o_w = target(t, base_w, static_cast<double>(c.x[2])),
            o_h = target(t / 7, base_h, static_cast<double>(c.x[1]));
          } else if (c.kind == "huge" && t % 3 < 2)
            (t % 3 ? o_h : o_w) = huge[t / 3 % 4];
          else if (c.kind == "nonfinite" && t % 3 < 2) {
            (t % 3 ? o_h : o_w) = nonfinite[t / 3 % 3];
            if (c.modulated) pixel[2 * lanes] = t / 9 % 3 == 0 ? NAN : t / 9 % 3 == 1 ? INFINITY : 1;
          } else if (c.kind == "one_cell" || c.kind == "one_row") {
            o_h = cell_h - base_h + pick(8) / 8.0;
            o_w = c.kind == "one_row" ? o_w * c.std_deviation : cell_w - base_w + pick(8) / 8.0;
          } else if (c.kind == "columns") {
            const std::int64_t column = l / (c.kh * c.kw) * c.x[2] / c.groups;
            o_h = (t % 2 ? static_cast<double>(c.x[1] - 2) : 0) - base_h + pick(8) / 8.0;
            o_w = static_cast<double>(column) - base_w + pick(8) / 8.0;
          } else if (c.kind == "stray") {
            o_w = o_w * c.std_deviation + (t % 499 == 0 ? 9 : 0);
            o_h = o_h * c.std_deviation - (t % 499 == 1 ? 9 : 0);
          } else if (c.kind == "dead") {
            o_w = t % 4 == 0   ? 1000
                  : t % 4 == 1 ? -1000
                               : 0,
            o_h = t % 4 == 2   ? 1000
                  : t % 4 == 3 ? -1000
                               : 0;
          } else if (c.kind == "values") {
            const auto at = static_cast<std::size_t>(t);
            o_w = c.along_w.at(at), o_h = c.along_h.at(at);
            if (c.modulated) pixel[2 * lanes] = c.mask.at(at);
          }
        }
  return v;
}

double decode(const void* element, DType dtype) {
  static const std::vector<double> of_float16 = [] {
    std::vector<double> v;
    for (int bits = 0; bits < 0x10000; ++bits) {
      const int exponent = bits >> 10 & 31, fraction = bits & 1023;
      const double d = exponent == 31
                           ? (fraction ? NAN : INFINITY)
                           : std::ldexp(fraction + (exponent ? 1024 : 0), std::max(exponent, 1) - 25);
      v.push_back(bits & 0x8000 ? -d : d);
    }
    return v;
  }();
  std::uint16_t bits = 0;
  float f = 0;
  double d = 0;
  switch (dtype) {
    case DType::float32: std::memcpy(&f, element, 4); return f;
    case DType::float64: std::memcpy(&d, element, 8); return d;
    case DType::bfloat16:
      std::memcpy(&bits, element, 2);
      return std::bit_cast<float>(std::uint32_t{bits} << 16);
    case DType::float16: std::memcpy(&bits, element, 2);
  }
  return of_float16[bits];
}

void encode(double value, DType dtype, void* element) {
  const auto put = [element](auto v) { std::memcpy(element, &v, sizeof v); };
  const auto f = static_cast<float>(value);
  if (dtype == DType::float64) return put(value);
  if (dtype == DType::float32) return put(f);
  if (dtype == DType::bfloat16)
    return put(static_cast<std::uint16_t>(std::isnan(f) ? 0x7fc0 : std::bit_cast<std::uint32_t>(f) >> 16));
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  int bits = 0x7c00;
  if (std::isnan(value))
    bits = 0x7e00;
  else if (magnitude == 0)
    bits = 0;
  else if (magnitude < 65536) {
    const int exponent = std::max(std::ilogb(magnitude), -14);
    bits = ((exponent + 14) << 10) + static_cast<int>(std::ldexp(magnitude, 10 - exponent));
  }
  put(static_cast<std::uint16_t>(sign | bits));
}

}  // namespace tapfield::testing
