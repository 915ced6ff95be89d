// SPDX-License-Identifier: Apache-2.0
// The math of one tap: its position, the blend of its four corners, the gradient of each below it, and the
// second derivative below that. One source for every backend: host and device, builtin scalars in and out.
//
// Names as in docs/operators.md: h0 = floor, lh = fraction, hh = 1 - lh (lw, hw along W) by `complement`; v00
// v01 v10 v11 the corners (h0, w0), (h0, w0+1), (h0+1, w0), (h0+1, w0+1), 0 outside the map; m the mask. F is
// float or double.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define TAPFIELD_INLINE __host__ __device__ __forceinline__
#elif defined(TAPFIELD_DEVICE)  // Ascend's: ascend/device.h
#define TAPFIELD_INLINE TAPFIELD_DEVICE
#else
#define TAPFIELD_INLINE inline
#endif

namespace tapfield::math {

// ------ Position

// Beyond this no offset can reach the map (sizes stay below 2^62): the tap is dead, and nothing is converted.
// NaN compares false.
template <class F>
TAPFIELD_INLINE bool reaches(F floor_of_offset) {
  constexpr F limit = F(4611686018427387904.0);  // 2^62
  return floor_of_offset > -limit && floor_of_offset < limit;
}

// h0, from the tap's integer base and the floor of its offset, which `reaches`.
template <class F>
TAPFIELD_INLINE std::int64_t cell(std::int64_t base, F floor_of_offset) {
  return base + static_cast<std::int64_t>(floor_of_offset);
}

// hh, from the offset and not from lh: just below an integer 1 - lh would have lost its digits. Both lh =
// offset - floor and this are right to half an ulp.
template <class F>
TAPFIELD_INLINE F complement(F offset, F floor_of_offset, F ceiling_of_offset) {
  return offset == floor_of_offset ? F(1) : ceiling_of_offset - offset;
}

// Along one axis; a tap is live when both axes are. Closed: -1 <= h0 < size. Open: also dead at exactly -1.
template <class F>
TAPFIELD_INLINE bool live(std::int64_t h0, F lh, std::int64_t size, bool closed) {
  return h0 < size && (h0 > -1 || (h0 == -1 && (closed || lh > F(0))));
}

// Is this corner row or column inside the map?
TAPFIELD_INLINE bool inside(std::int64_t h, std::int64_t size) { return h >= 0 && h < size; }

// ------ Blend

// B(v): b00 v00 + b01 v01 + b10 v10 + b11 v11 with b00 = hh hw, b01 = hh lw, b10 = lh hw, b11 = lh lw.
template <class F>
TAPFIELD_INLINE F blend(F hh, F lh, F hw, F lw, F v00, F v01, F v10, F v11) {
  return hh * hw * v00 + hh * lw * v01 + lh * hw * v10 + lh * lw * v11;
}

// D_w(v) = dB/dlw.
template <class F>
TAPFIELD_INLINE F blend_dw(F hh, F lh, F v00, F v01, F v10, F v11) {
  return hh * (v01 - v00) + lh * (v11 - v10);
}

// D_h(v) = dB/dlh.
template <class F>
TAPFIELD_INLINE F blend_dh(F hw, F lw, F v00, F v01, F v10, F v11) {
  return hw * (v10 - v00) + lw * (v11 - v01);
}

// X(v) = d2B/dlh dlw.
template <class F>
TAPFIELD_INLINE F blend_dhw(F v00, F v01, F v10, F v11) {
  return v11 - v10 - v01 + v00;
}

// ------ Gradient, from the dots s_ab = sum over the group's channels of grad * v_ab

template <class F>
TAPFIELD_INLINE F grad_offset_w(F hh, F lh, F m, F s00, F s01, F s10, F s11) {
  return m * blend_dw(hh, lh, s00, s01, s10, s11);
}

template <class F>
TAPFIELD_INLINE F grad_offset_h(F hw, F lw, F m, F s00, F s01, F s10, F s11) {
  return m * blend_dh(hw, lw, s00, s01, s10, s11);
}

template <class F>
TAPFIELD_INLINE F grad_mask(F hh, F lh, F hw, F lw, F s00, F s01, F s10, F s11) {
  return blend(hh, lh, hw, lw, s00, s01, s10, s11);
}

// ------ Second derivative. (a, b, e) = gg_offsets along W, along H, mask; s_ab as above, t_ab = sum of grad
// * u_ab with u = gg_x at the corners.

// Corner weights of grad_x, and of v in grad_grad: m (a db/dlw + b db/dlh) + e b, for corner (at_h, at_w) in
// {0,1}^2.
template <class F>
TAPFIELD_INLINE F second_weight(F hh, F lh, F hw, F lw, F m, F a, F b, F e, int at_h, int at_w) {
  const F fh = at_h ? lh : hh, fw = at_w ? lw : hw;    // b_corner = fh fw
  const F dw = at_w ? fh : -fh, dh = at_h ? fw : -fw;  // its derivatives
  return m * (a * dw + b * dh) + e * (fh * fw);
}

template <class F>
TAPFIELD_INLINE F second_offset_w(F hh, F lh, F m, F b, F e, F s00, F s01, F s10, F s11, F t00, F t01, F t10,
                                  F t11) {
  return m * blend_dw(hh, lh, t00, t01, t10, t11) + m * b * blend_dhw(s00, s01, s10, s11) +
         e * blend_dw(hh, lh, s00, s01, s10, s11);
}

template <class F>
TAPFIELD_INLINE F second_offset_h(F hw, F lw, F m, F a, F e, F s00, F s01, F s10, F s11, F t00, F t01, F t10,
                                  F t11) {
  return m * blend_dh(hw, lw, t00, t01, t10, t11) + m * a * blend_dhw(s00, s01, s10, s11) +
         e * blend_dh(hw, lw, s00, s01, s10, s11);
}

template <class F>
TAPFIELD_INLINE F second_mask(F hh, F lh, F hw, F lw, F a, F b, F s00, F s01, F s10, F s11, F t00, F t01,
                              F t10, F t11) {
  return blend(hh, lh, hw, lw, t00, t01, t10, t11) + a * blend_dw(hh, lh, s00, s01, s10, s11) +
         b * blend_dh(hw, lw, s00, s01, s10, s11);
}

}  // namespace tapfield::math
