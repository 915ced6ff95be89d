// SPDX-License-Identifier: Apache-2.0
// What a kernel is launched with: by value, so builtin types alone. Every tensor is dense, in NHWC order.
//
// Index is std::int32_t where every tensor has fewer than 2^31 elements (fits_32_bits), else std::int64_t;
// vector kernels, whose scalars have 64 bits, always take the latter.
#pragma once

#include <cstdint>

namespace tapfield::ascend {

using Address = std::uint64_t;  // of device memory; 0: absent

template <class Index>
struct Geometry {
  Index n, h, w, c;              // of x
  Index ho, wo, groups, kh, kw;  // taps are [n, ho, wo, groups, kh, kw]
  Index stride_h, stride_w, dil_h, dil_w, top, left;
  Index planes, channels;  // of offsets, 2 or 3; of a group
  std::int32_t closed;     // the border: 0 or 1
};

// T is x's type: half, bfloat16_t or float. "wide": of float32, where T has 16 bits or not.
template <class Index>
struct Arguments {
  Geometry<Index> geometry;
  Address x;             // [n, h, w, c], T
  Address offsets;       // [n, ho, wo, planes*groups*kh*kw], T or float32
  Address grad;          // [n, ho*kh, wo*kw, c], T                         gradient
  Address y;             // out: as grad, T                                 forward
  Address grad_x;        // out: as x, T or float32                         gradient
  Address grad_offsets;  // out: as offsets, T or float32                   gradient
  Address sums;          // scratch, as x, float32: what taps add to; grad_x itself where that is wide
  std::int32_t offsets_wide, grad_x_wide, grad_offsets_wide;
};

}  // namespace tapfield::ascend
