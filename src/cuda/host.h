// SPDX-License-Identifier: Apache-2.0
// From a Problem to a kernel's arguments: images that are taken together, tensors packed or in place, the
// width of vectors and of indices.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "cuda/copy.h"
#include "cuda/geometry.h"
#include "cuda/launch.h"
#include "cuda/rows.h"
#include "execution.h"

namespace tapfield::cuda {

inline cudaStream_t stream_of(const Problem& p) { return static_cast<cudaStream_t>(p.stream); }

inline Extent extent_of_x(const Problem& p) { return {p.n, p.h, p.w, p.c}; }
inline Extent extent_of_y(const Problem& p) { return {p.n, p.ho * p.kh, p.wo * p.kw, p.c}; }
inline Extent extent_of_offsets(const Problem& p) { return {p.n, p.ho, p.wo, p.planes() * p.lanes()}; }

// ------ Images taken together

// p of images [first, first + count).
inline Problem slice(const Problem& p, std::int64_t first, std::int64_t count) {
  Problem q = p;
  q.n = count;
  for (View* v :
       {&q.x, &q.offsets, &q.grad, &q.gg_x, &q.gg_offsets, &q.y, &q.grad_grad, &q.grad_x, &q.grad_offsets})
    if (v->data) v->data += first * v->n * size_of(v->dtype);
  return q;
}

// Strips of a row of cells that the deterministic schedule sweeps.
inline std::int64_t strips_of(const Problem& p, int columns) { return (p.w + columns - 1) / columns; }

// What kernels number with 31 bits: taps, cells, squares that are copied, teams of a sweep.
constexpr std::int64_t kMostItems = (std::int64_t{1} << 31) - 1 - kMaxThreads;  // less idle teams of a block
inline std::int64_t items_of_image(const Problem& p) {
  return std::max(
      {p.ho * p.wo * p.lanes(), p.groups * (p.h + 1) * (p.w + 1), p.h * p.w * (p.c / 32 + 1), 2 * p.c,
       p.groups * (p.h + 1) * strips_of(p, tuning().least_strip) * (p.group_channels() / 32 + 1)});
}

// As many images as their items and scratch allow, if the schedule needs `bytes_of_one` for one.
inline std::int64_t images_together(const Problem& p, std::size_t bytes_of_one) {
  std::int64_t images = std::min(p.n, kMostItems / items_of_image(p));
  if (bytes_of_one)
    images = std::min(images, tuning().scratch_bytes / static_cast<std::int64_t>(bytes_of_one));
  return std::max<std::int64_t>(images, 1);
}

// Scratch is a struct made from (Problem, Carver&). Bytes of the largest that a call makes.
template <class Scratch>
std::size_t scratch_bytes(const Problem& p) {
  const auto measure = [&](std::int64_t images) {
    Carver carver;
    Scratch(slice(p, 0, images), carver);
    return carver.used();
  };
  return measure(images_together(p, measure(1)));
}

// Calls run(problem of some images, Scratch) until all are done.
template <class Scratch, class Run>
void for_each_slice(const Problem& p, void* workspace, const Run& run) {
  Carver measured;
  Scratch(slice(p, 0, 1), measured);
  const std::int64_t images = images_together(p, measured.used());
  for (std::int64_t n = 0; n < p.n; n += images) {
    const Problem q = slice(p, n, std::min(images, p.n - n));
    Carver carver(workspace);
    run(q, Scratch(q, carver));
  }
}

// ------ Tensors as the channel loops want them: channels adjacent

struct Staged {
  View caller, view;
  Extent extent;
  bool packed;

  Staged(const View& v, const Extent& e, Carver& carver)
      : caller(v), view(v), extent(e), packed(v.data && !v.adjacent()) {
    if (packed) view = dense(carver.take<char>(e.elements() * size_of(v.dtype)), v.dtype, e);
  }
  void pack(cudaStream_t stream) const {
    if (packed) copy(caller, View{}, view, extent, stream);
  }
  void store(cudaStream_t stream) const {
    if (packed) copy(view, View{}, caller, extent, stream);
  }
};

// Tensors as they are staged; those that a pass lacks are empty.
struct StagedViews {
  View x{}, gg_x{}, sums{}, read{}, written{};  // read: grad; written: y or grad_grad
};

// Those of the gradient and the second derivative, whatever the schedule.
struct StagedGradient {
  Staged x, grad, gg_x, grad_grad;

  StagedGradient(const Problem& p, Carver& carver)
      : x(p.x, extent_of_x(p), carver),
        grad(p.grad, extent_of_y(p), carver),
        gg_x(p.gg_x, extent_of_x(p), carver),
        grad_grad(p.grad_grad, extent_of_y(p), carver) {}
  StagedViews pack(const View& sums, cudaStream_t stream) const {
    x.pack(stream), grad.pack(stream), gg_x.pack(stream);
    return {x.view, gg_x.view, sums, grad.view, grad_grad.view};
  }
};

// Sums for grad_x are made in this dtype.
inline DType dtype_of_sums(const Problem& p) {
  return p.x.dtype == DType::float64 ? DType::float64 : DType::float32;
}

// ------ Widths

// Elements of a vector: 16 bytes, but `most` at most. A walk keeps eight vectors in registers, in float, and
// one of the second derivative twelve.
template <class T, int kMost>
inline constexpr int kWidth = 16 / static_cast<int>(sizeof(T)) < kMost ? 16 / static_cast<int>(sizeof(T))
                                                                       : kMost;

// May vectors of v elements be loaded from all of these?
inline bool aligned(const Problem& p, const StagedViews& staged, int v) {
  bool all = p.group_channels() % v == 0;
  for (const View& t : {staged.x, staged.gg_x, staged.sums, staged.read, staged.written})
    all &= aligned(t, v);
  return all;
}

// Of the numbers of cells (geometry.h).
inline std::int64_t pitch_of(const Problem& p) { return (p.w + 3) / 2 * 2; }

// Do offsets within an image fit 32 bits?
inline bool fits_32_bits(const View& v, const Extent& e) {
  const double reach = std::abs(static_cast<double>(v.h)) * static_cast<double>(e.h) +
                       std::abs(static_cast<double>(v.w)) * static_cast<double>(e.w) +
                       std::abs(static_cast<double>(v.c)) * static_cast<double>(e.c);
  return reach < 0x1p31 && e.h * e.w * e.c < (std::int64_t{1} << 31);
}

// Does all of a call: its tensors, the positions of its taps, the numbers of its cells?
inline bool fits_32_bits(const Problem& p, const StagedViews& staged) {
  const auto number = [](std::int64_t i) { return static_cast<double>(i); };
  const auto reach = [&](std::int64_t outputs, std::int64_t stride, std::int64_t taps, std::int64_t dilation,
                         std::int64_t pad) {
    return number(outputs) * number(stride) + number(taps) * number(dilation) + std::abs(number(pad));
  };
  bool fit = std::max({number(p.h), number(p.w), reach(p.ho, p.stride_h, p.kh, p.dil_h, p.top),
                       reach(p.wo, p.stride_w, p.kw, p.dil_w, p.left)}) < number(kFar);
  fit &= number(p.groups) * number(p.h + 1) * number(pitch_of(p)) < number(kMostCells);
  for (const View& v : {staged.x, staged.gg_x, staged.sums}) fit &= fits_32_bits(v, extent_of_x(p));
  for (const View& v : {staged.read, staged.written}) fit &= fits_32_bits(v, extent_of_y(p));
  for (const View& v : {p.offsets, p.gg_offsets, p.grad_offsets})
    fit &= fits_32_bits(v, extent_of_offsets(p));
  return fit;
}

template <int V>
struct Vector {};

// Calls run(Vector<V>, Index): vectors of kV or of 1, indices of 32 bits or, with vectors of 1, of 64.
template <int kV, class Run>
void with_widths(const Problem& p, const StagedViews& staged, const Run& run) {
  if (!fits_32_bits(p, staged))
    run(Vector<1>{}, std::int64_t{});
  else if (aligned(p, staged, kV))
    run(Vector<kV>{}, std::int32_t{});
  else
    run(Vector<1>{}, std::int32_t{});
}

// Calls run(T{}) for the element type of p.
template <class Run>
void with_type(const Problem& p, const Run& run) {
  switch (p.x.dtype) {
    case DType::float16: return run(__half{});
    case DType::bfloat16: return run(__nv_bfloat16{});
    case DType::float32: return run(float{});
    case DType::float64: return run(double{});
  }
}

// ------ Arguments

template <class T, class Index>
Scalars<T, Index> scalars_of(const View& v) {
  const bool wide = size_of(v.dtype) == static_cast<std::int64_t>(sizeof(Compute<T>));
  return {v.data, wide, v.n, static_cast<Index>(v.h), static_cast<Index>(v.w), static_cast<Index>(v.c)};
}

template <class E>
Images<E> images_of(const View& v) {
  return {reinterpret_cast<E*>(v.data), v.n};
}

template <class T, class Index>
Geometry<T, Index> geometry_of(const Problem& p, const StagedViews& staged) {
  const auto index = [](std::int64_t i) { return static_cast<Index>(i); };
  const auto pixels = [&](const View& v) { return Pixels<Index>{index(v.h), index(v.w)}; };
  Geometry<T, Index> q;
  q.images = p.n, q.h = index(p.h), q.w = index(p.w);
  q.ho = index(p.ho), q.wo = index(p.wo), q.groups = index(p.groups), q.kh = index(p.kh), q.kw = index(p.kw);
  q.channels = index(p.group_channels()), q.pitch = index(pitch_of(p));
  q.stride_h = index(p.stride_h), q.stride_w = index(p.stride_w);
  q.dil_h = index(p.dil_h), q.dil_w = index(p.dil_w), q.top = index(p.top), q.left = index(p.left);
  q.modulated = p.modulated, q.closed = p.closed;
  q.by_kw = Divisor(p.kw);
  q.x = pixels(staged.x), q.gg_x = pixels(staged.gg_x), q.sums = pixels(staged.sums);
  const auto samples = [&](const View& v) {
    return Samples<Index>{index(p.kh * v.h), index(p.kw * v.w), index(v.h), index(v.w)};
  };
  q.read = samples(staged.read), q.written = samples(staged.written);
  q.offsets = scalars_of<T, Index>(p.offsets);
  q.gg_offsets = scalars_of<T, Index>(p.gg_offsets);
  q.grad_offsets = scalars_of<T, Index>(p.grad_offsets);
  return q;
}

}  // namespace tapfield::cuda
