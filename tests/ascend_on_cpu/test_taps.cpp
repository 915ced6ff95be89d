// SPDX-License-Identifier: Apache-2.0
// Where a tap lies: src/ascend/device.h against the same in more digits.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "ascend/device.h"

namespace tapfield::ascend {
namespace {

TEST(Taps, FloorIsTheFloor) {
  std::mt19937 random(1);
  for (int i = 0; i < 10'000'000; ++i) {
    const float v =
        i < 65536 ? std::bit_cast<float>(static_cast<std::uint32_t>(i) << 16)  // every sign and exponent
                  : std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    const float got = floor_of(v), want = std::floor(v);
    ASSERT_TRUE(got == want || (std::isnan(got) && std::isnan(want))) << v;
  }
}

template <class Index>
void check(float offset, Index base, Index size, bool closed) {
  Index cell = -7;
  float lower = -7, upper = -7;
  const bool live = locate_along(offset, base, size, closed, cell, lower, upper);
  // base + offset is never added: it would lose the digits of small offsets.
  const long double o = offset, first = -1 - static_cast<long double>(base), below = std::floor(o);
  ASSERT_EQ(live, (closed ? o >= first : o > first) && o < static_cast<long double>(size - base))
      << offset << " " << base;
  if (!live) return;
  ASSERT_EQ(static_cast<long double>(cell), static_cast<long double>(base) + below) << offset << " " << base;
  ASSERT_EQ(upper, static_cast<float>(o - below));
  ASSERT_EQ(lower, static_cast<float>(below + 1 - o));
}

TEST(Taps, CellsAndWeightsAreThoseOfTheSum) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 3);
  const float edges[] = {0,   -0.0f, 0x1p-149f, -0x1p-149f, 1,      -1,        0.5f,       INFINITY,
                         NAN, 1e9f,  -1e9f,     3e38f,      -3e38f, -INFINITY, 8388608.0f, -8388609.0f};
  for (int i = 0; i < 1'000'000; ++i) {
    const float offset = i % 3 ? normal(random) : edges[i / 3 % std::size(edges)];
    const int base = static_cast<int>(random() % 40) - 8, size = 1 + static_cast<int>(random() % 30);
    for (bool closed : {false, true}) {
      check<std::int32_t>(offset, base, size, closed);
      check<std::int64_t>(offset, base, size, closed);
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace tapfield::ascend
