// SPDX-License-Identifier: Apache-2.0
// The vectorised pieces under the schedules, on every SIMD target of this machine: 16-bit conversions against
// an exhaustive search for the nearest value, positions against math.h bit for bit, grad_offsets against
// math.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/geometry.h"
#include "cpu/pack.h"
#include "math.h"
#include "on_target.h"

namespace tapfield::cpu {
namespace {

using Simd = tapfield::testing::OnTarget;
INSTANTIATE_TEST_SUITE_P(Targets, Simd, ::testing::ValuesIn(tapfield::testing::targets()),
                         tapfield::testing::target_name);

// ------ 16-bit conversions

double decode(std::uint16_t bits, DType t) {
  if (t == DType::bfloat16) return std::bit_cast<float>(std::uint32_t{bits} << 16);
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double v = std::ldexp(fraction + (exponent ? 1024 : 0), std::max(exponent, 1) - 25);
  if (exponent == 31) v = fraction ? NAN : INFINITY;
  return bits & 0x8000 ? -v : v;
}

// Nearest to even by search among all 16-bit values: shares nothing with arithmetic on bits.
class Nearest {
 public:
  explicit Nearest(DType t) {
    for (std::uint32_t b = 0; b < 0x8000; ++b)  // rising with b; the first after the finite ones is infinity
      if (const double v = decode(static_cast<std::uint16_t>(b), t); !std::isnan(v)) values_.push_back(v);
    // Infinity rounds like the number that would follow the greatest.
    const std::size_t last = values_.size() - 1;
    values_[last] = values_[last - 1] + (values_[last - 1] - values_[last - 2]);
  }
  std::uint16_t operator()(double v) const {
    const double magnitude = std::fabs(v);
    auto above = static_cast<std::size_t>(std::lower_bound(values_.begin(), values_.end(), magnitude) -
                                          values_.begin());
    above = std::min(above, values_.size() - 1);
    std::size_t best = above;
    if (above > 0) {
      const double down = magnitude - values_[above - 1], up = values_[above] - magnitude;
      if (down < up || (down == up && (above - 1) % 2 == 0)) best = above - 1;
    }
    return static_cast<std::uint16_t>(best | (std::signbit(v) ? 0x8000u : 0u));
  }

 private:
  std::vector<double> values_;
};

TEST_P(Simd, WidensEvery16BitValueExactly) {
  std::vector<std::uint16_t> bits(0x10000);
  for (std::uint32_t b = 0; b < 0x10000; ++b) bits[b] = static_cast<std::uint16_t>(b);
  for (DType t : {DType::float16, DType::bfloat16}) {
    std::vector<float> got(bits.size());
    widen(bits.data(), t, 0x10000, got.data());
    for (std::uint32_t b = 0; b < 0x10000; ++b) {
      const double want = decode(static_cast<std::uint16_t>(b), t);
      if (std::isnan(want)) {
        ASSERT_TRUE(std::isnan(got[b])) << name_of(t) << " bits " << b;
        continue;
      }
      ASSERT_EQ(std::bit_cast<std::uint32_t>(got[b]), std::bit_cast<std::uint32_t>(static_cast<float>(want)))
          << name_of(t) << " bits " << b;
    }
  }
}

// narrow, all at once, vectors in pairs; and four at a time, which are not more than one vector.
void for_each_way(const std::vector<float>& in, DType t,
                  const std::function<void(const std::vector<std::uint16_t>&)>& check) {
  const auto count = static_cast<std::int64_t>(in.size());
  for (std::int64_t step : {count, std::int64_t{4}}) {
    SCOPED_TRACE("at once: " + std::to_string(step));
    std::vector<std::uint16_t> got(in.size());
    for (std::int64_t i = 0; i < count; i += step)
      narrow(in.data() + i, std::min(step, count - i), t, got.data() + i);
    check(got);
  }
}

TEST_P(Simd, NarrowsToNearestEven) {
  for (DType t : {DType::float16, DType::bfloat16}) {
    const Nearest nearest(t);
    std::vector<float> in{0.0f,
                          -0.0f,
                          std::numeric_limits<float>::denorm_min(),
                          std::numeric_limits<float>::max(),
                          -std::numeric_limits<float>::max(),
                          std::numeric_limits<float>::min(),
                          65519.996f,
                          65520.0f,
                          65536.0f,
                          65537.0f};
    for (std::uint32_t b = 0; b < 0x8000; ++b) {
      const double v = decode(static_cast<std::uint16_t>(b), t),
                   next = decode(static_cast<std::uint16_t>(b + 1), t);
      if (!std::isfinite(v)) continue;
      const double half = std::isfinite(next) ? (v + next) / 2 : v;
      for (double at : {v, half})
        for (float f : {static_cast<float>(at), std::nextafter(static_cast<float>(at), INFINITY),
                        std::nextafter(static_cast<float>(at), -INFINITY)})
          in.push_back(f), in.push_back(-f);
    }
    std::mt19937 random(16);
    for (int i = 0; i < 1'000'000; ++i)
      if (const float f = std::bit_cast<float>(static_cast<std::uint32_t>(random())); std::isfinite(f))
        in.push_back(f);
    for_each_way(in, t, [&](const std::vector<std::uint16_t>& got) {
      for (std::size_t i = 0; i < in.size(); ++i)
        ASSERT_EQ(got[i], nearest(in[i])) << name_of(t) << " of " << in[i];
    });
  }
}

TEST_P(Simd, NarrowsInfinityAndEveryNan) {
  for (DType t : {DType::float16, DType::bfloat16}) {
    std::vector<float> in{INFINITY, -INFINITY};
    for (std::uint32_t payload = 1; payload < 0x800000; payload += 251)
      for (std::uint32_t sign : {0u, 0x80000000u})
        in.push_back(std::bit_cast<float>(sign | 0x7f800000u | payload));
    for_each_way(in, t, [&](const std::vector<std::uint16_t>& got) {
      EXPECT_EQ(decode(got[0], t), INFINITY);
      EXPECT_EQ(decode(got[1], t), -INFINITY);
      for (std::size_t i = 2; i < in.size(); ++i) ASSERT_TRUE(std::isnan(decode(got[i], t))) << i;
    });
  }
}

TEST_P(Simd, ConversionsTouchNothingPastTheirEnd) {
  for (DType t : {DType::float16, DType::bfloat16})
    for (std::int64_t count = 0; count < 70; ++count) {
      std::vector<std::uint16_t> bits(static_cast<std::size_t>(count) + 40, 0x3f80);
      std::vector<float> wide(bits.size(), -7.0f);
      widen(bits.data(), t, count, wide.data());
      for (std::size_t i = 0; i < wide.size(); ++i)
        ASSERT_EQ(wide[i] == -7.0f, static_cast<std::int64_t>(i) >= count)
            << "count " << count << " index " << i;
      std::vector<std::uint16_t> narrowed(bits.size(), 0xabcd);
      narrow(wide.data(), count, t, narrowed.data());
      for (std::size_t i = 0; i < wide.size(); ++i)
        ASSERT_EQ(narrowed[i] == 0xabcd, static_cast<std::int64_t>(i) >= count)
            << "count " << count << " index " << i;
    }
}

// ------ Positions

// Offsets of all kinds: random bits (every exponent, NaN, infinite), integers, next to integers, small
// numbers.
template <class F>
class OffsetMix {
 public:
  F operator()() {
    using U = std::conditional_t<sizeof(F) == 4, std::uint32_t, std::uint64_t>;
    const std::uint64_t kind = random_() % 8;
    const F integer = static_cast<F>(static_cast<int>(random_() % 64) - 32);
    switch (kind) {
      case 0: return std::bit_cast<F>(static_cast<U>(random_()));
      case 1: return integer;
      case 2: return std::nextafter(integer, std::numeric_limits<F>::infinity());
      case 3: return std::nextafter(integer, -std::numeric_limits<F>::infinity());
      case 4: return integer * std::numeric_limits<F>::denorm_min();
      case 5: return integer * static_cast<F>(0x1p25);
      default: return normal_(random_);
    }
  }

 private:
  std::mt19937_64 random_{20261124};
  std::normal_distribution<F> normal_{0, 6};
};

template <class F>
class Located {  // one strip of one row with its own memory
 public:
  Located(const Problem& p, std::int64_t wo) : problem(p) {
    Carver measure;
    Strip<F>(measure, p, p.lanes());
    memory.resize(measure.used() / 8 + 16);
    Carver carver(reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64));
    strip = std::make_unique<Strip<F>>(carver, p, p.lanes());
    strip->lanes = p.lanes(), strip->count = wo;
  }
  Problem problem;
  std::vector<std::uint64_t> memory;
  std::unique_ptr<Strip<F>> strip;
};

// A 7 x 300 map, 3 groups of 2 x 3 taps (lanes that fill no whole number of vectors), everything different
// along H and W.
template <class F>
Problem position_problem(std::vector<F>& offsets, std::int64_t wo) {
  Problem p;
  p.n = 1, p.h = 7, p.w = 300, p.c = 3, p.kh = 2, p.kw = 3, p.groups = 3, p.stride_h = 2, p.stride_w = 3,
  p.dil_h = 5, p.dil_w = 2;
  p.top = 3, p.left = 1, p.ho = 4, p.wo = wo;
  const std::int64_t channels = 3 * p.lanes();
  offsets.resize(static_cast<std::size_t>(p.ho * wo * channels));
  p.offsets = {reinterpret_cast<char*>(offsets.data()),
               dtype_of<F>(),
               p.ho * wo * channels,
               wo * channels,
               channels,
               1};
  return p;
}

// offset, base -> what a kernel should hold.
template <class F>
struct Expected {
  bool live;
  std::int64_t cell;
  F fraction, complement;
  Expected(F offset, std::int64_t base, std::int64_t size, bool closed)
      : live(false), cell(0), fraction(0), complement(0) {
    const F floor = std::floor(offset);
    if (!math::reaches(floor)) return;
    cell = math::cell(base, floor);
    fraction = offset - floor;
    complement = math::complement(offset, floor, std::ceil(offset));
    live = math::live(cell, fraction, size, closed);
  }
};

template <class F>
void positions_are_those_of_math_h(int rounds) {
  OffsetMix<F> mix;
  std::vector<F> offsets;
  std::int64_t seen_live = 0, seen_dead = 0;
  for (int round = 0; round < rounds; ++round) {
    Problem p = position_problem(offsets, 100);
    p.closed = round % 2;
    for (F& o : offsets) o = mix();
    Located<F> located(p, 100);
    for (std::int64_t ho = 0; ho < p.ho; ++ho) {
      Strip<F>& s = *located.strip;
      s.ho = ho;
      fetch(p, s);
      locate(p, s);
      for (std::int64_t i = 0; i < s.count; ++i)
        for (std::int64_t l = 0; l < s.lanes; ++l) {
          const F* pixel = offsets.data() + (ho * p.wo + i) * 3 * p.lanes();
          const std::int64_t k = l % p.taps(), at = i * s.pitch + l;
          const Expected<F> w(pixel[l], p.base_w(i, k % p.kw), p.w, p.closed);
          const Expected<F> h(pixel[p.lanes() + l], p.base_h(ho, k / p.kw), p.h, p.closed);
          const F m = pixel[2 * p.lanes() + l];
          const bool live = h.live && w.live;
          (live ? seen_live : seen_dead) += 1;
          ASSERT_EQ(s.h0[at], live ? h.cell : kDead)
              << "offsets " << pixel[l] << ", " << pixel[p.lanes() + l];
          const F want[] = {live ? h.complement : 0, live ? h.fraction : 0, live ? w.complement : 0,
                            live ? w.fraction : 0};
          const F got[] = {s.hh[at], s.lh[at], s.hw[at], s.lw[at]};
          ASSERT_EQ(std::memcmp(got, want, sizeof got), 0)
              << "offsets " << pixel[l] << ", " << pixel[p.lanes() + l];
          ASSERT_EQ(s.w0[at], live ? w.cell : 0);
          const bool same_mask = live ? s.m[at] == m || std::isnan(m) : s.m[at] == 0;
          ASSERT_TRUE(same_mask) << s.m[at] << " for mask " << m;
          const F weights[] = {m * h.complement * w.complement, m * h.complement * w.fraction,
                               m * h.fraction * w.complement, m * h.fraction * w.fraction};
          const bool same_weights =
              !live || !std::isfinite(m) || !std::memcmp(s.weights + 4 * at, weights, sizeof weights);
          ASSERT_TRUE(same_weights) << "mask " << m;
        }
    }
  }
  EXPECT_GT(seen_live, seen_dead / 20);
  EXPECT_GT(seen_dead, seen_live / 20);
}

// 2 types x 700 rounds x 4 rows x 100 pixels x 18 lanes x 2 coordinates = 20 million offsets.
TEST_P(Simd, PositionsAreThoseOfMathFloat32) { positions_are_those_of_math_h<float>(700); }
TEST_P(Simd, PositionsAreThoseOfMathFloat64) { positions_are_those_of_math_h<double>(700); }

// ------ grad_offsets

template <class F>
void finish_is_that_of_math_h(bool second, bool modulated) {
  const std::int64_t wo = 37;
  std::vector<F> offsets;
  Problem p = position_problem(offsets, wo);
  p.pass = second ? Pass::grad_grad : Pass::grad;
  p.modulated = modulated;
  OffsetMix<F> mix;
  for (F& o : offsets) o = mix();
  // Masks and gg_offsets of ordinary size.
  std::mt19937 random(3);
  std::normal_distribution<F> normal;
  const std::int64_t lanes = p.lanes(), channels = p.planes() * lanes;
  p.offsets.w = channels, p.offsets.h = wo * channels;
  if (modulated)
    for (std::int64_t i = 0; i < p.ho * wo; ++i)
      for (std::int64_t l = 0; l < lanes; ++l)
        offsets[static_cast<std::size_t>(i * channels + 2 * lanes + l)] = normal(random);
  std::vector<F> gg(offsets.size()), out(offsets.size(), F{-77});
  for (F& v : gg) v = normal(random);
  p.gg_offsets = p.offsets, p.gg_offsets.data = reinterpret_cast<char*>(gg.data());
  p.grad_offsets = p.offsets, p.grad_offsets.data = reinterpret_cast<char*>(out.data());
  std::vector<F> dots(static_cast<std::size_t>(4 * (wo * lanes + 64))), dots_u(dots.size());
  for (F& v : dots) v = normal(random);
  for (F& v : dots_u) v = normal(random);
  for (std::int64_t t = 0; t < wo * lanes; t += 5) dots[static_cast<std::size_t>(4 * t)] *= 1000;

  Located<F> located(p, wo);
  Strip<F>& s = *located.strip;
  s.ho = 1;
  fetch(p, s);
  locate(p, s);
  for (std::int64_t t = 0; t < wo * lanes; ++t)  // dots of dead taps are not looked at
    if (s.h0[t / lanes * s.pitch + t % lanes] == kDead)
      for (std::vector<F>* v : {&dots, &dots_u})
        std::fill_n(v->data() + 4 * t, 4, std::numeric_limits<F>::quiet_NaN());
  finish(p, s, dots.data(), second ? dots_u.data() : nullptr, lanes);
  flush(p, s);

  constexpr F eps = std::numeric_limits<F>::epsilon();
  for (std::int64_t i = 0; i < wo; ++i)
    for (std::int64_t l = 0; l < lanes; ++l) {
      const std::int64_t at = i * s.pitch + l, pixel = (wo + i) * channels;
      const F *d = dots.data() + 4 * (i * lanes + l), *u = dots_u.data() + 4 * (i * lanes + l);
      const auto plane = [&](const std::vector<F>& v, std::int64_t q) {
        return v[static_cast<std::size_t>(pixel + q * lanes + l)];
      };
      const F a = plane(gg, 0), b = plane(gg, 1), e = modulated ? plane(gg, 2) : 0, m = s.m[at];
      const F hh = s.hh[at], lh = s.lh[at], hw = s.hw[at], lw = s.lw[at];
      F want[3] = {0, 0, 0};
      const bool live = s.h0[at] != kDead;
      if (live && !second) {
        want[0] = math::grad_offset_w(hh, lh, m, d[0], d[1], d[2], d[3]);
        want[1] = math::grad_offset_h(hw, lw, m, d[0], d[1], d[2], d[3]);
        want[2] = math::grad_mask(hh, lh, hw, lw, d[0], d[1], d[2], d[3]);
      } else if (live) {
        want[0] = math::second_offset_w(hh, lh, m, b, e, d[0], d[1], d[2], d[3], u[0], u[1], u[2], u[3]);
        want[1] = math::second_offset_h(hw, lw, m, a, e, d[0], d[1], d[2], d[3], u[0], u[1], u[2], u[3]);
        want[2] = math::second_mask(hh, lh, hw, lw, a, b, d[0], d[1], d[2], d[3], u[0], u[1], u[2], u[3]);
        for (int k = 0; k < 4; ++k) {
          const F w = math::second_weight(hh, lh, hw, lw, m, a, b, e, k / 2, k % 2);
          const F bound =
              8 * eps * (std::abs(m * a) + std::abs(m * b) + std::abs(e));  // each weight factor is at most 1
          ASSERT_LE(std::abs(s.second[4 * at + k] - w), bound);
        }
      }
      F magnitude = 0;
      for (int k = 0; k < 4; ++k) magnitude += std::abs(d[k]) + (second ? std::abs(u[k]) : 0);
      // At most 4 factors of size (1 + |m|)(1 + |a| + |b| + |e|) on each dot; some 8 roundings either way.
      const F bound =
          live ? 16 * eps * magnitude * (1 + std::abs(m)) * (1 + std::abs(a) + std::abs(b) + std::abs(e)) : 0;
      for (std::int64_t q = 0; q < p.planes(); ++q)
        ASSERT_LE(std::abs(plane(out, q) - want[q]), bound)
            << "plane " << q << " lane " << l << " pixel " << i;
    }
}

TEST_P(Simd, FinishIsThatOfMath) {
  for (bool second : {false, true})
    for (bool modulated : {true, false}) {
      finish_is_that_of_math_h<float>(second, modulated);
      finish_is_that_of_math_h<double>(second, modulated);
    }
}

}  // namespace
}  // namespace tapfield::cpu
