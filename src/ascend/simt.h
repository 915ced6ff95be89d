// SPDX-License-Identifier: Apache-2.0
// What the 950's SIMT kernels share: elements, and where a tap lies.
#pragma once

#include "ascend/device.h"
#include "simt_api/asc_bf16.h"
#include "simt_api/asc_fp16.h"
#include "simt_api/asc_simt.h"
#include "simt_api/device_atomic_functions.h"

namespace tapfield::ascend {

// Threads of a core: 64 registers each are left, which a tap's weights, addresses and sums fit in.
constexpr std::int32_t kThreads = 512;

TAPFIELD_DEVICE float widen(half v) { return __half2float(v); }
TAPFIELD_DEVICE float widen(bfloat16_t v) { return __bfloat162float(v); }
TAPFIELD_DEVICE float widen(float v) { return v; }

// Rounds to nearest even. One overload a type: the second argument says which.
TAPFIELD_DEVICE half narrow_to(float v, half) { return __float2half_rn(v); }
TAPFIELD_DEVICE bfloat16_t narrow_to(float v, bfloat16_t) { return __float2bfloat16_rn(v); }
TAPFIELD_DEVICE float narrow_to(float v, float) { return v; }
template <class T>
TAPFIELD_DEVICE T narrow(float v) {
  return narrow_to(v, T());
}

template <class T>
TAPFIELD_DEVICE float read(Address tensor, std::int32_t wide, std::int64_t i) {
  return wide ? at<const float>(tensor)[i] : widen(at<const T>(tensor)[i]);
}
template <class T>
TAPFIELD_DEVICE void write(Address tensor, std::int32_t wide, std::int64_t i, float v) {
  if (wide)
    at<float>(tensor)[i] = v;
  else
    at<T>(tensor)[i] = narrow<T>(v);
}

// Element of the plane along W that tap number `tap` has in offsets: taps are numbered in the order of y's
// rows, [n, ho, kh, wo, kw, groups], so that tap * channels is where its row of channels begins in y and
// grad. Also its base along both axes, its group, and the pixels of x before its image.
template <class Index>
TAPFIELD_DEVICE Index place(Index tap, Index groups, Index kw, Index wo, Index kh, Index ho, Index stride_h,
                            Index stride_w, Index dil_h, Index dil_w, Index top, Index left, Index planes,
                            Index h, Index w, Index& base_h, Index& base_w, Index& g, Index& pixels) {
  g = take(tap, groups);
  const Index ikw = take(tap, kw), iwo = take(tap, wo), ikh = take(tap, kh), iho = take(tap, ho);
  base_h = iho * stride_h - top + ikh * dil_h;
  base_w = iwo * stride_w - left + ikw * dil_w;
  pixels = tap * h * w;
  return ((tap * ho + iho) * wo + iwo) * planes * groups * kh * kw + (g * kh + ikh) * kw + ikw;
}

// Is tap number `tap` live? Then its cell, its weights along H and W and its mask; its group and the pixels
// before its image in any case.
template <class T, class Index>
TAPFIELD_DEVICE bool locate(Address offsets, std::int32_t wide, Index tap, Index groups, Index kw, Index wo,
                            Index kh, Index ho, Index stride_h, Index stride_w, Index dil_h, Index dil_w,
                            Index top, Index left, Index planes, Index h, Index w, std::int32_t closed,
                            Index& h0, Index& w0, float& hh, float& lh, float& hw, float& lw, float& m,
                            Index& g, Index& pixels) {
  Index base_h, base_w;
  const Index o = place(tap, groups, kw, wo, kh, ho, stride_h, stride_w, dil_h, dil_w, top, left, planes, h,
                        w, base_h, base_w, g, pixels);
  const Index plane = groups * kh * kw;
  const bool live_w = locate_along(read<T>(offsets, wide, o), base_w, w, closed != 0, w0, hw, lw);
  const bool live_h = locate_along(read<T>(offsets, wide, o + plane), base_h, h, closed != 0, h0, hh, lh);
  m = planes == 3 ? read<T>(offsets, wide, o + 2 * plane) : 1.0f;
  return live_h && live_w;
}

}  // namespace tapfield::ascend
