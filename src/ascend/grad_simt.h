// SPDX-License-Identifier: Apache-2.0
// Gradient on the 950 (dav-3510), docs/operators.md, "Gradient".
//
// Fast: grad_x is zeroed, all cores meet, then teams of threads add taps to it with atomics, side by side.
// Sums are float32 whatever T is; where grad_x has T's 16 bits they are scratch, rounded once at the end.
//
// Deterministic: a core owns bands of grad_x's rows, a thread a channel of them. It goes through all taps of
// the image in their order, so every sum is one sum in one order, and there are no atomics.
//
// In both, taps that follow each other in one cell are summed in registers, up to kRun of them, and added
// once: thousands of terms of one sign, one by one, would be off by 0.1 eps times the root of their number.
// grad_offsets is the same in both: one thread a tap adds up its dots in the order of the channels.
#pragma once

#include "ascend/simt.h"

namespace tapfield::ascend {

// A cell's sums to its corners of `sums`, those in rows [first, last) and inside the map, at one channel of
// all.
template <bool kAtomically, class Index>
TAPFIELD_DEVICE void add_cell(__gm__ float* sums, Index pixels, Index h0, Index w0, Index first, Index last,
                              Index w, Index c, Index channel, float s00, float s01, float s10, float s11) {
  const bool top = h0 >= first && h0 < last, bottom = h0 + 1 >= first && h0 + 1 < last;
  const bool left = math::inside(w0, w), right = math::inside(w0 + 1, w);
  const Index i = (pixels + h0 * w + w0) * c + channel, down = w * c;
  if constexpr (kAtomically) {
    if (top && left) asc_atomic_add(sums + i, s00);
    if (top && right) asc_atomic_add(sums + (i + c), s01);
    if (bottom && left) asc_atomic_add(sums + (i + down), s10);
    if (bottom && right) asc_atomic_add(sums + (i + down + c), s11);
  } else {
    if (top && left) sums[i] += s00;
    if (top && right) sums[i + c] += s01;
    if (bottom && left) sums[i + down] += s10;
    if (bottom && right) sums[i + down + c] += s11;
  }
}

// Adds taps first, first + groups, ... below last, all of one group, at one of its channels, to rows [band,
// band_end) of grad_x.
template <class T, bool kAtomically, class Index>
TAPFIELD_DEVICE void add_run_by_run(Address offsets, std::int32_t wide, Address gradients, Address sums_at,
                                    Index first, Index last, Index channel, Index band, Index band_end,
                                    Index groups, Index kw, Index wo, Index kh, Index ho, Index stride_h,
                                    Index stride_w, Index dil_h, Index dil_w, Index top, Index left,
                                    Index planes, Index h, Index w, std::int32_t closed, Index c,
                                    Index channels) {
  __gm__ float* sums = at<float>(sums_at);
  const __gm__ T* grad = at<const T>(gradients);
  Index cell_h = 0, cell_w = 0, cell_pixels = 0, length = 0;  // of the run; none yet
  float s00 = 0, s01 = 0, s10 = 0, s11 = 0;
  for (Index tap = first; tap < last; tap += groups) {
    Index h0, w0, g, pixels;
    float hh, lh, hw, lw, m;
    if (!locate<T>(offsets, wide, tap, groups, kw, wo, kh, ho, stride_h, stride_w, dil_h, dil_w, top, left,
                   planes, h, w, closed, h0, w0, hh, lh, hw, lw, m, g, pixels))
      continue;
    const bool here = h0 < band_end && h0 + 1 >= band;
    // Whatever the band, so that sums do not depend on it.
    if (length && (!here || length == kRun || h0 != cell_h || w0 != cell_w || pixels != cell_pixels)) {
      add_cell<kAtomically>(sums, cell_pixels, cell_h, cell_w, band, band_end, w, c, g * channels + channel,
                            s00, s01, s10, s11);
      s00 = 0, s01 = 0, s10 = 0, s11 = 0, length = 0;
    }
    if (!here) continue;
    cell_h = h0, cell_w = w0, cell_pixels = pixels;
    const float v = widen(grad[tap * channels + channel]);
    s00 += m * hh * hw * v, s01 += m * hh * lw * v, s10 += m * lh * hw * v, s11 += m * lh * lw * v;
    ++length;
  }
  if (length)
    add_cell<kAtomically>(sums, cell_pixels, cell_h, cell_w, band, band_end, w, c,
                          first % groups * channels + channel, s00, s01, s10, s11);
}

// ------ grad_x, fast

template <class Index>
__simt_vf__ __launch_bounds__(kThreads) inline void zero_sums(Arguments<Index> a) {
  const Geometry<Index>& q = a.geometry;
  const Index all = static_cast<Index>(gridDim.x) * kThreads, count = q.n * q.h * q.w * q.c;
  __gm__ float* sums = at<float>(a.sums);
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += all) sums[i] = 0;
}

// A team takes kRun taps of a group at a time.
template <class T, class Index>
__simt_vf__ __launch_bounds__(kThreads) inline void add_taps(Arguments<Index> a, Index team) {
  const Geometry<Index>& q = a.geometry;
  const Index taps = q.n * q.ho * q.kh * q.wo * q.kw,
              runs = (taps + kRun - 1) / kRun * q.groups;  // taps: of a group
  const Index me = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x;
  const Index all = static_cast<Index>(gridDim.x) * kThreads;
  for (Index run = me / team; run < runs; run += all / team) {
    const Index g = run % q.groups, begin = run / q.groups * kRun,
                end = begin + kRun < taps ? begin + kRun : taps;
    for (Index c = me % team; c < q.channels; c += team)
      add_run_by_run<T, true, Index>(a.offsets, a.offsets_wide, a.grad, a.sums, begin * q.groups + g,
                                     end * q.groups, c, 0, q.h, q.groups, q.kw, q.wo, q.kh, q.ho, q.stride_h,
                                     q.stride_w, q.dil_h, q.dil_w, q.top, q.left, q.planes, q.h, q.w,
                                     q.closed, q.c, q.channels);
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
      add_run_by_run<T, false, Index>(a.offsets, a.offsets_wide, a.grad, a.sums, n * taps + group,
                                      (n + 1) * taps, channel - group * q.channels, first, last, q.groups,
                                      q.kw, q.wo, q.kh, q.ho, q.stride_h, q.stride_w, q.dil_h, q.dil_w, q.top,
                                      q.left, q.planes, q.h, q.w, q.closed, q.c, q.channels);
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
