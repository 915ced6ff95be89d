// SPDX-License-Identifier: Apache-2.0
// Stands in for CUDA's header of this name.
#pragma once

#include <bit>
#include <cstdint>

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 b) { return std::bit_cast<float>(std::uint32_t{b.bits} << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  if (v != v) return {0x7fff};
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
