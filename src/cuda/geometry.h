// SPDX-License-Identifier: Apache-2.0
// A tap on the device: where it is, where it lands, the weights that follow, and its grad_offsets. math.h
// says how; here are the loads and stores around it.
//
// Index is std::int32_t where every image of every tensor spans less than 2^31 elements, else std::int64_t.
// The image itself is always found in 64 bits.
#pragma once

#include "cuda/device.h"
#include "math.h"

namespace tapfield::cuda {

// Scalars of one tensor, of dtype T or of what T is computed in.
template <class T, class Index>
struct Scalars {
  char* data;  // null: absent
  bool wide;   // of Compute<T>
  std::int64_t n;
  Index h, w, c;  // strides in elements

  __device__ std::int64_t at(std::int64_t in, Index ih, Index iw, Index ic) const {
    return in * n + (ih * h + iw * w + ic * c);
  }
  __device__ void write(std::int64_t i, Compute<T> v) const {
    if (wide)
      reinterpret_cast<Compute<T>*>(data)[i] = v;
    else
      reinterpret_cast<T*>(data)[i] = narrow<T>(v);
  }
};

// Where things begin in an image, as strides in elements: a tap's row of channels in y or grad; a pixel of x.
template <class Index>
struct Samples {
  Index ho, wo, kh, kw;
};
template <class Index>
struct Pixels {
  Index h, w;
};

// A Problem's geometry, of some of its images. With an Index of 32 bits positions stay below kFar, and
// numbers of cells below kMostCells (host.h).
template <class T, class Index>
struct Geometry {
  std::int64_t images;
  Index h, w;                    // of x
  Index ho, wo, groups, kh, kw;  // taps are [image, ho, wo, groups, kh, kw]
  Index channels;                // of a group
  Index pitch;                   // cells are numbered in rows of so many: even, at least w+2
  Index stride_h, stride_w, dil_h, dil_w, top, left;
  bool modulated, closed;
  Divisor by_kw;
  Pixels<Index> x, gg_x, sums;     // sums: what is added up for grad_x
  Samples<Index> read, written;    // of grad; of y, grad_grad
  Scalars<T, Index> offsets;       // [n, ho, wo, planes*groups*kh*kw]
  Scalars<T, Index> gg_offsets;    // as offsets; may be absent
  Scalars<T, Index> grad_offsets;  // out: as offsets
};
constexpr std::int64_t kFar = std::int64_t{1} << 29, kMostCells = std::int64_t{1} << 27;

// One tap of the output.
template <class Index>
struct Place {
  std::int64_t n;
  Index ho, wo, g, k;  // k = kh*Kw + kw
};

// ------ Position

template <class F, class Index>
struct Axis {
  bool live;
  Index cell;   // h0
  F high, low;  // hh, lh
};

template <class F, class Index>
__device__ Axis<F, Index> locate_along(F offset, Index base, Index size, bool closed) {
  const F below = floor(offset), above = ceil(offset);
  bool reaches = math::reaches(below);
  // 2 kFar and more lead from any base to beyond any size.
  if constexpr (sizeof(Index) == 4) reaches = below > F(-2 * kFar) && below < F(2 * kFar);
  if (!reaches) return {false, 0, 0, 0};
  const Index cell = base + static_cast<Index>(below);
  const F low = offset - below;
  return {math::live(static_cast<std::int64_t>(cell), low, static_cast<std::int64_t>(size), closed), cell,
          math::complement(offset, below, above), low};
}

template <class F, class Index>
struct Tap {
  bool live;
  Index h0, w0;  // its cell: -1 to h-1, -1 to w-1 if it is live
  F hh, lh, hw, lw, m;
};

// A tap's offsets and mask (0 without masks), or its gg_offsets, on their way.
template <class T>
struct Offsets {
  Loaded<T> w, h, mask;
};

template <class T, class Index>
__device__ Offsets<T> load_offsets(const Geometry<T, Index>& q, const Scalars<T, Index>& from,
                                   const Place<Index>& at) {
  const std::int64_t step = static_cast<std::int64_t>(q.groups * q.kh * q.kw) * from.c;
  const std::int64_t o = from.at(at.n, at.ho, at.wo, at.g * q.kh * q.kw + at.k);
  Offsets<T> r{};
  with_raw<T>(from.data, from.wide, [&](const auto* p) {
    p += o;
    r.w = p[0], r.h = p[step];
    if (q.modulated) r.mask = p[2 * step];
  });
  return r;
}

template <class T, class Index, class F = Compute<T>>
__device__ Tap<F, Index> locate(const Geometry<T, Index>& q, const Place<Index>& at, const Offsets<T>& o) {
  const int k = static_cast<int>(at.k), kh = q.by_kw.quotient(k), kw = q.by_kw.remainder(k, kh);
  const bool wide = q.offsets.wide;
  const Axis<F, Index> w =
      locate_along(converted<T>(o.w, wide), at.wo * q.stride_w - q.left + kw * q.dil_w, q.w, q.closed);
  const Axis<F, Index> h =
      locate_along(converted<T>(o.h, wide), at.ho * q.stride_h - q.top + kh * q.dil_h, q.h, q.closed);
  const F m = q.modulated ? converted<T>(o.mask, wide) : F(1);
  return {h.live && w.live, h.cell, w.cell, h.high, h.low, w.high, w.low, m};
}

template <class T, class Index, class F = Compute<T>>
__device__ Tap<F, Index> locate(const Geometry<T, Index>& q, const Place<Index>& at) {
  return locate(q, at, load_offsets(q, q.offsets, at));
}

// (a, b, e) of math.h.
template <class F>
struct Cotangents {
  F a, b, e;
};

template <class T, class Index, class F = Compute<T>>
__device__ Cotangents<F> cotangents(const Geometry<T, Index>& q, const Place<Index>& at) {
  if (!q.gg_offsets.data) return {0, 0, 0};
  const Offsets<T> o = load_offsets(q, q.gg_offsets, at);
  const bool wide = q.gg_offsets.wide;
  return {converted<T>(o.w, wide), converted<T>(o.h, wide), converted<T>(o.mask, wide)};
}

// ------ Records: what the channel loops need of a tap

// The corners of a cell here are numbered 2 (row) + (column modulo 2), not left to right: what a walk holds
// of a column stays where it is when the column on the right becomes the one on the left. `odd`: is w0?
template <class Index>
__device__ int odd_of(Index number) {
  return static_cast<int>(~number & 1);
}

// Where a tap's vectors are. One load of 16 bytes if Index has 4.
template <class Index>
struct alignas(16) Addresses {
  // The number of its cell times 16, plus the corners that are in the map, as bits: none if the tap is dead,
  // whose weights are then 0. Numbers count groups, rows from -1 to h-1, and columns from -1 in `pitch`: one
  // more is the next column of the same row. kAbsent: no tap.
  Index cell;
  Index x;       // its cell's corner 0 in an image of x, at its group's first channel
  Index sums;    // the same in grad_x's sums
  Index sample;  // its row of channels in an image of grad (forward: of y)
};

// What the second derivative needs more.
template <class Index, int kDerivative>
struct SecondOrder {};
template <class Index>
struct SecondOrder<Index, 2> {
  Index gg_x;     // as x
  Index written;  // as sample: in grad_grad
};

// kDerivative: 1 for the gradient (and the forward, whose weights are the same), 2 for the second derivative.
// Two or four loads of 16 bytes.
template <class F, class Index, int kDerivative>
struct Record : Addresses<Index>, SecondOrder<Index, kDerivative> {
  alignas(16) F weight[4 * kDerivative];  // by corner. 1: m b. 2: second_weight, then m b
};
constexpr int kAbsent = -1;
template <class Index>
__device__ bool is_live(Index cell) {  // every cell has a corner in the map
  return cell != kAbsent && (cell & 15);
}

template <int kDerivative, class T, class Index, class F = Compute<T>>
__device__ void fill_record(const Geometry<T, Index>& q, const Place<Index>& at, const Tap<F, Index>& t,
                            const Samples<Index>& sample, Record<F, Index, kDerivative>& r) {
  F weight[4 * kDerivative] = {};
  F* blend = weight + 4 * (kDerivative - 1);
  const Index channel = at.g * q.channels;
  Addresses<Index> addresses{};
  if (t.live) {
    blend[0] = t.hh * t.hw * t.m, blend[1] = t.hh * t.lw * t.m;
    blend[2] = t.lh * t.hw * t.m, blend[3] = t.lh * t.lw * t.m;
    if constexpr (kDerivative == 2) {
      const Cotangents<F> c = cotangents(q, at);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        weight[i] = math::second_weight(t.hh, t.lh, t.hw, t.lw, t.m, c.a, c.b, c.e, i / 2, i % 2);
    }
    const bool odd = t.w0 & 1;
    const Index even_column = t.w0 + odd, odd_column = t.w0 + 1 - odd;
    const int rows = (t.h0 >= 0 ? 3 : 0) | (t.h0 + 1 < q.h ? 12 : 0);
    const int columns = (even_column < q.w ? 5 : 0) | (odd_column >= 0 && odd_column < q.w ? 10 : 0);
    addresses.cell = ((at.g * (q.h + 1) + t.h0 + 1) * q.pitch + t.w0 + 1) * 16 + (rows & columns);
    addresses.x = t.h0 * q.x.h + even_column * q.x.w + channel;
    addresses.sums = t.h0 * q.sums.h + even_column * q.sums.w + channel;
    if constexpr (kDerivative == 2) r.gg_x = t.h0 * q.gg_x.h + even_column * q.gg_x.w + channel;
#pragma unroll
    for (int i = 0; i < 4 * kDerivative; i += 2) {
      const F left = weight[i], right = weight[i + 1];
      weight[i] = odd ? right : left, weight[i + 1] = odd ? left : right;
    }
  }
  store<F, 4 * kDerivative>(r.weight, weight);
  const int k = static_cast<int>(at.k), kh = q.by_kw.quotient(k), kw = q.by_kw.remainder(k, kh);
  const auto row = [&](const Samples<Index>& s) {
    return at.ho * s.ho + at.wo * s.wo + kh * s.kh + kw * s.kw + channel;
  };
  addresses.sample = row(sample);
  store_whole<Addresses<Index>>(r, addresses);
  if constexpr (kDerivative == 2) r.written = row(q.written);
}

// ------ grad_offsets, from a tap's dots: s_ab, in the second derivative then t_ab

// Dots are numbered as the corners of records.
template <int kDerivative, class T, class Index, class F = Compute<T>>
__device__ void write_grad_offsets(const Geometry<T, Index>& q, const Place<Index>& at,
                                   const Tap<F, Index>& t, const F* dots) {
  F along_w = 0, along_h = 0, mask = 0;
  if (t.live) {
    const bool odd = t.w0 & 1;
    const auto dot = [&](int k) { return odd ? dots[k ^ 1] : dots[k]; };
    const F s00 = dot(0), s01 = dot(1), s10 = dot(2), s11 = dot(3);
    if constexpr (kDerivative == 1) {
      along_w = math::grad_offset_w(t.hh, t.lh, t.m, s00, s01, s10, s11);
      along_h = math::grad_offset_h(t.hw, t.lw, t.m, s00, s01, s10, s11);
      mask = math::grad_mask(t.hh, t.lh, t.hw, t.lw, s00, s01, s10, s11);
    } else {
      const F t00 = dot(4), t01 = dot(5), t10 = dot(6), t11 = dot(7);
      const Cotangents<F> c = cotangents(q, at);
      along_w = math::second_offset_w(t.hh, t.lh, t.m, c.b, c.e, s00, s01, s10, s11, t00, t01, t10, t11);
      along_h = math::second_offset_h(t.hw, t.lw, t.m, c.a, c.e, s00, s01, s10, s11, t00, t01, t10, t11);
      mask = math::second_mask(t.hh, t.lh, t.hw, t.lw, c.a, c.b, s00, s01, s10, s11, t00, t01, t10, t11);
    }
  }
  const std::int64_t o = q.grad_offsets.at(at.n, at.ho, at.wo, at.g * q.kh * q.kw + at.k);
  const std::int64_t step = static_cast<std::int64_t>(q.groups * q.kh * q.kw) * q.grad_offsets.c;
  q.grad_offsets.write(o, along_w);
  q.grad_offsets.write(o + step, along_h);
  if (q.modulated) q.grad_offsets.write(o + 2 * step, mask);
}

}  // namespace tapfield::cuda
