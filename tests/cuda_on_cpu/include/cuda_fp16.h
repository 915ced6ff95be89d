// SPDX-License-Identifier: Apache-2.0
// Stands in for CUDA's header of this name.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

struct __half {
  std::uint16_t bits;
};

inline float __half2float(__half h) {
  const int exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
  float v =
      std::ldexp(static_cast<float>(exponent ? fraction + 1024 : fraction), (exponent ? exponent : 1) - 25);
  if (exponent == 31) v = fraction ? NAN : INFINITY;
  return h.bits & 0x8000 ? -v : v;
}

// To nearest even: the fraction's last place is 2^-10 of a normal number, 2^-24 of a subnormal one.
inline __half __float2half_rn(float v) {
  const unsigned sign = std::bit_cast<std::uint32_t>(v) >> 16 & 0x8000;
  const float size = std::fabs(v);
  unsigned bits = 0x7e00;
  if (size >= 65520)  // halfway to 2^16, which is even
    bits = 0x7c00;
  else if (size >= 0) {
    const int place = (size < 0x1p-14f ? -14 : std::ilogb(size)) - 10;
    // Rounding up to a power of two carries into the exponent, as it should.
    bits = (static_cast<unsigned>(place + 24) << 10) +
           static_cast<unsigned>(std::nearbyint(std::ldexp(size, -place)));
  }
  return {static_cast<std::uint16_t>(sign | bits)};
}
