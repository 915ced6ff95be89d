// SPDX-License-Identifier: Apache-2.0
// Forward on the 950 (dav-3510): y = the masked blend of x at every tap, docs/operators.md, "Forward". A team
// of 2^k threads shares a tap, each with every 2^k-th channel of its group, so that neighbours read and write
// side by side. Every element is one sum in one order: the same bits on every run.
#pragma once

#include "ascend/simt.h"

namespace tapfield::ascend {

template <class T, class Index>
__simt_vf__ __launch_bounds__(kThreads) inline void forward_taps(Arguments<Index> a, Index team) {
  const Geometry<Index>& q = a.geometry;
  const Index taps = q.n * q.ho * q.kh * q.wo * q.kw * q.groups;  // in the order of y's rows
  const Index me = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x;
  const Index all = static_cast<Index>(gridDim.x) * kThreads;
  const __gm__ T* x = at<const T>(a.x);
  for (Index tap = me / team; tap < taps; tap += all / team) {
    Index h0, w0, g, pixels;
    float hh, lh, hw, lw, m;
    const bool live = locate<T>(a.offsets, a.offsets_wide, tap, q.groups, q.kw, q.wo, q.kh, q.ho, q.stride_h,
                                q.stride_w, q.dil_h, q.dil_w, q.top, q.left, q.planes, q.h, q.w, q.closed, h0,
                                w0, hh, lh, hw, lw, m, g, pixels);
    const bool top = live && math::inside(h0, q.h), bottom = live && math::inside(h0 + 1, q.h);
    const bool left = math::inside(w0, q.w), right = math::inside(w0 + 1, q.w);
    const Index corner = (pixels + h0 * q.w + w0) * q.c + g * q.channels, down = q.w * q.c;
    const float b00 = m * hh * hw, b01 = m * hh * lw, b10 = m * lh * hw, b11 = m * lh * lw;
    __gm__ T* y = at<T>(a.y) + tap * q.channels;
    for (Index c = me % team; c < q.channels; c += team) {
      const Index i = corner + c;
      float sum = 0;
      if (top && left) sum += b00 * widen(x[i]);
      if (top && right) sum += b01 * widen(x[i + q.c]);
      if (bottom && left) sum += b10 * widen(x[i + down]);
      if (bottom && right) sum += b11 * widen(x[i + down + q.c]);
      y[c] = narrow<T>(sum);
    }
  }
}

// One launch on every core, with no scratch.
template <class T, class Index>
__global__ __vector__ void forward_simt(Arguments<Index> a, std::int32_t team) {
  asc_vf_call<forward_taps<T, Index>>(dim3(kThreads), a, static_cast<Index>(team));
}

}  // namespace tapfield::ascend
