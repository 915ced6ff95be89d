// SPDX-License-Identifier: Apache-2.0
// Gradient on the 950 (dav-3510), docs/operators.md, "Gradient".
//
// Fast: grad_x is zeroed, all cores meet, then each tap's team of threads adds to its corners with atomics,
// side by side. Sums are float32 whatever T is; where grad_x has T's 16 bits they are scratch, rounded once
// at the end. Deterministic: a core owns bands of grad_x's rows, a thread a channel of them. It goes through
// all taps of the image in their order, so every sum is one sum in one order, and there are no atomics.
// grad_offsets is the same in both: one thread a tap adds up its dots in the order of the channels.
#pragma once

#include "ascend/simt.h"

namespace tapfield::ascend {

// ------ grad_x, fast

template <class Index>
__simt_vf__ __launch_bounds__(kThreads) inline void zero_sums(Arguments<Index> a) {
  const Geometry<Index>& q = a.geometry;
  const Index all = static_cast<Index>(gridDim.x) * kThreads, count = q.n * q.h * q.w * q.c;
  __gm__ float* sums = at<float>(a.sums);
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += all) sums[i] = 0;
}

template <class T, class Index>
__simt_vf__ __launch_bounds__(kThreads) inline void add_taps(Arguments<Index> a, Index team) {
  const Geometry<Index>& q = a.geometry;
  const Index taps = q.n * q.ho * q.kh * q.wo * q.kw * q.groups;
  const Index me = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x;
  const Index all = static_cast<Index>(gridDim.x) * kThreads;
  __gm__ float* sums = at<float>(a.sums);
  for (Index tap = me / team; tap < taps; tap += all / team) {
    Index h0, w0, g, pixels;
    float hh, lh, hw, lw, m;
    if (!locate<T>(a.offsets, a.offsets_wide, tap, q.groups, q.kw, q.wo, q.kh, q.ho, q.stride_h, q.stride_w,
                   q.dil_h, q.dil_w, q.top, q.left, q.planes, q.h, q.w, q.closed, h0, w0, hh, lh, hw, lw, m,
                   g, pixels))
      continue;
    const bool top = math::inside(h0, q.h), bottom = math::inside(h0 + 1, q.h);
    const bool left = math::inside(w0, q.w), right = math::inside(w0 + 1, q.w);
    const Index corner = (pixels + h0 * q.w + w0) * q.c + g * q.channels, down = q.w * q.c;
    const float b00 = m * hh * hw, b01 = m * hh * lw, b10 = m * lh * hw, b11 = m * lh * lw;
    const __gm__ T* grad = at<const T>(a.grad) + tap * q.channels;
    for (Index c = me % team; c < q.channels; c += team) {
      const Index i = corner + c;
      const float v = widen(grad[c]);
      if (top && left) asc_atomic_add(sums + i, b00 * v);
      if (top && right) asc_atomic_add(sums + (i + q.c), b01 * v);
      if (bottom && left) asc_atomic_add(sums + (i + down), b10 * v);
      if (bottom && right) asc_atomic_add(sums + (i + down + q.c), b11 * v);
    }
  }
}

template <class T, class Index>
__simt_vf__ __launch_bounds__(kThreads) inline void round_sums(Arguments<Index> a) {
  const Geometry<Index>& q = a.geometry;
  const Index all = static_cast<Index>(gridDim.x) * kThreads, count = q.n * q.h * q.w * q.c;
  __gm__ float* sums = at<float>(a.sums);
  // Past the core's data cache, which may still have this core's zeros.
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += all)
    at<T>(a.grad_x)[i] = narrow<T>(asc_ldcg(sums + i));
}

// ------ grad_x, deterministic

template <class T, class Index>
__simt_vf__ __launch_bounds__(kThreads) inline void sum_bands(Arguments<Index> a, Index rows) {
  const Geometry<Index>& q = a.geometry;
  const Index bands = (q.h + rows - 1) / rows, taps = q.ho * q.kh * q.wo * q.kw * q.groups;  // of an image
  __gm__ float* sums = at<float>(a.sums);
  for (Index band = static_cast<Index>(blockIdx.x); band < q.n * bands;
       band += static_cast<Index>(gridDim.x)) {
    const Index n = band / bands, first = band % bands * rows;
    const Index last = first + rows < q.h ? first + rows : q.h;  // one past
    for (Index channel = static_cast<Index>(threadIdx.x); channel < q.c; channel += kThreads) {
      const Index begin = (n * q.h + first) * q.w, end = (n * q.h + last) * q.w;  // pixels
      for (Index i = begin; i < end; ++i) sums[i * q.c + channel] = 0;
      const Index group = channel / q.channels;
      for (Index tap = n * taps + group; tap < (n + 1) * taps; tap += q.groups) {
        Index h0, w0, g, pixels;
        float hh, lh, hw, lw, m;
        if (!locate<T>(a.offsets, a.offsets_wide, tap, q.groups, q.kw, q.wo, q.kh, q.ho, q.stride_h,
                       q.stride_w, q.dil_h, q.dil_w, q.top, q.left, q.planes, q.h, q.w, q.closed, h0, w0, hh,
                       lh, hw, lw, m, g, pixels))
          continue;
        const bool top = h0 >= first && h0 < last, bottom = h0 + 1 >= first && h0 + 1 < last;
        if (!top && !bottom) continue;
        const bool left = math::inside(w0, q.w), right = math::inside(w0 + 1, q.w);
        const float v = widen(at<const T>(a.grad)[tap * q.channels + channel - group * q.channels]);
        const Index i = (pixels + h0 * q.w + w0) * q.c + channel, down = q.w * q.c;
        if (top && left) sums[i] += m * hh * hw * v;
        if (top && right) sums[i + q.c] += m * hh * lw * v;
        if (bottom && left) sums[i + down] += m * lh * hw * v;
        if (bottom && right) sums[i + down + q.c] += m * lh * lw * v;
      }
      if (!a.grad_x_wide)
        for (Index i = begin; i < end; ++i)
          at<T>(a.grad_x)[i * q.c + channel] = narrow<T>(sums[i * q.c + channel]);
    }
  }
}

// ------ grad_offsets

template <class T, class Index>
__simt_vf__ __launch_bounds__(kThreads) inline void sum_dots(Arguments<Index> a) {
  const Geometry<Index>& q = a.geometry;
  const Index taps = q.n * q.ho * q.kh * q.wo * q.kw * q.groups, plane = q.groups * q.kh * q.kw;
  const Index all = static_cast<Index>(gridDim.x) * kThreads;
  const __gm__ T* x = at<const T>(a.x);
  for (Index tap = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; tap < taps; tap += all) {
    Index h0, w0, g, pixels, base_h, base_w;
    float hh, lh, hw, lw, m;
    const bool live = locate<T>(a.offsets, a.offsets_wide, tap, q.groups, q.kw, q.wo, q.kh, q.ho, q.stride_h,
                                q.stride_w, q.dil_h, q.dil_w, q.top, q.left, q.planes, q.h, q.w, q.closed, h0,
                                w0, hh, lh, hw, lw, m, g, pixels);
    float along_w = 0, along_h = 0, mask = 0;
    if (live) {
      const bool top = math::inside(h0, q.h), bottom = math::inside(h0 + 1, q.h);
      const bool left = math::inside(w0, q.w), right = math::inside(w0 + 1, q.w);
      const Index corner = (pixels + h0 * q.w + w0) * q.c + g * q.channels, down = q.w * q.c;
      const __gm__ T* grad = at<const T>(a.grad) + tap * q.channels;
      float s00 = 0, s01 = 0, s10 = 0, s11 = 0;
      for (Index c = 0; c < q.channels; ++c) {
        const Index i = corner + c;
        const float v = widen(grad[c]);
        if (top && left) s00 += v * widen(x[i]);
        if (top && right) s01 += v * widen(x[i + q.c]);
        if (bottom && left) s10 += v * widen(x[i + down]);
        if (bottom && right) s11 += v * widen(x[i + down + q.c]);
      }
      along_w = math::grad_offset_w(hh, lh, m, s00, s01, s10, s11);
      along_h = math::grad_offset_h(hw, lw, m, s00, s01, s10, s11);
      mask = math::grad_mask(hh, lh, hw, lw, s00, s01, s10, s11);
    }
    const Index o = place(tap, q.groups, q.kw, q.wo, q.kh, q.ho, q.stride_h, q.stride_w, q.dil_h, q.dil_w,
                          q.top, q.left, q.planes, q.h, q.w, base_h, base_w, g, pixels);
    write<T>(a.grad_offsets, a.grad_offsets_wide, o, along_w);
    write<T>(a.grad_offsets, a.grad_offsets_wide, o + plane, along_h);
    if (q.planes == 3) write<T>(a.grad_offsets, a.grad_offsets_wide, o + 2 * plane, mask);
  }
}

// ------ Kernels: one launch each. Cores meet in the fast one, so all of them must run at once: not more than
// the device has, and none left to another stream (schedmode 1).

template <class T, class Index>
__schedmode__(1) __global__ __mix__(0, 1) void grad_simt(Arguments<Index> a, std::int32_t team) {
  asc_vf_call<zero_sums<Index>>(dim3(kThreads), a);
  AscendC::SyncAll();
  asc_vf_call<add_taps<T, Index>>(dim3(kThreads), a, static_cast<Index>(team));
  asc_vf_call<sum_dots<T, Index>>(dim3(kThreads), a);
  if (a.grad_x_wide) return;
  AscendC::SyncAll();
  asc_vf_call<round_sums<T, Index>>(dim3(kThreads), a);
}

template <class T, class Index>
__global__ __vector__ void grad_simt_deterministic(Arguments<Index> a, std::int32_t rows) {
  asc_vf_call<sum_bands<T, Index>>(dim3(kThreads), a, static_cast<Index>(rows));
  asc_vf_call<sum_dots<T, Index>>(dim3(kThreads), a);
}

}  // namespace tapfield::ascend
