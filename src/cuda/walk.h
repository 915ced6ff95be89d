// SPDX-License-Identifier: Apache-2.0
// A team's walk over taps that are sorted by cell: the channel loops of the gradient and, below each line of
// it, of the second derivative. While taps stay in a cell, its four corner vectors of x and four sums for
// grad_x stay in registers; when they move one column on, the right ones become the left ones.
#pragma once

#include "cuda/geometry.h"
#include "cuda/host.h"
#include "cuda/ring.h"

namespace tapfield::cuda {

template <class T>
struct WalkMaps {
  Images<const T> x;     // [n, h, w, c]
  Images<const T> grad;  // [n, ho*kh, wo*kw, c]
  // second derivative
  Images<const T> gg_x;  // as x; may be absent
  bool gg_x_wide;        // its elements are of Compute<T>; strides count those
  Images<T> grad_grad;   // out: as grad
};

template <class T>
WalkMaps<T> walk_maps_of(const StagedViews& staged) {
  return {images_of<const T>(staged.x), images_of<const T>(staged.read), images_of<const T>(staged.gg_x),
          size_of(staged.gg_x.dtype) == static_cast<std::int64_t>(sizeof(Compute<T>)),
          images_of<T>(staged.written)};
}

template <class T, int V, class Index, int kDerivative>
class Walk {
 public:
  using F = Compute<T>;
  using Tap = Record<F, Index, kDerivative>;
  static constexpr int kDots = 4 * kDerivative;

  // Of image n, in the lane's channels.
  __device__ Walk(const WalkMaps<T>& maps, const Geometry<T, Index>& q, std::int64_t n, Lane<V, Index> lane)
      : works_(lane.works),
        x_steps_(q.x),
        gg_x_steps_(q.gg_x),
        x_(settled(maps.x.image(n) + lane.first)),
        grad_(settled(maps.grad.image(n) + lane.first)) {
    if constexpr (kDerivative == 2) {
      gg_x_wide_ = maps.gg_x_wide;
      gg_x_ = maps.gg_x.data;
      if (gg_x_) gg_x_ += (n * maps.gg_x.n + lane.first) * (gg_x_wide_ ? sizeof(F) / sizeof(T) : 1);
      gg_x_ = settled(gg_x_), grad_grad_ = settled(maps.grad_grad.image(n) + lane.first);
    }
  }

  // Asks for the vector of grad of the walk's tap of that number.
  __device__ void ask(const Ring<T, V>& ring, int number, bool has_tap, const Array<Tap>& taps, int i) const {
    ring.ask(number, has_tap, has_tap ? grad_ + taps[i].sample : nullptr, works_);
  }

  // Moves to the tap's cell. What the last one has summed for a corner goes to add(corner, cell, sums of its
  // corner 00, vector), once for each corner in the map.
  template <class Add>
  __device__ void move(const Tap& t, const Add& add) {
    const Index cell = t.cell;
    if (cell == cell_ && terms_ < kTerms) {
      ++terms_;
      return;
    }
    const bool next_column = (cell >> 4) == (cell_ >> 4) + 1;
    pass_on(0, add);
    if (next_column)
      shift();
    else
      pass_on(1, add);
    cell_ = cell, corners_ = works_ ? cell & kCorners : 0, sums_at_ = t.sums, terms_ = 1;
    if (!next_column) enter(0, t);
    enter(1, t);
  }

  // One tap of the cell: grad_x's sums, the lane's part of its dots. `writes`: and its row of grad_grad.
  __device__ void tap(const Tap& t, Raw<T, V> fetched, F (&dots)[kDots], bool writes) {
    F g[V];
    unpack<T, V>(fetched, g);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const F weight = t.weight[k];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sums_[k][i] += weight * g[i];
        dots[k] += g[i] * v_[k][i];
        if constexpr (kDerivative == 2) dots[4 + k] += g[i] * u_[k][i];
      }
    }
    if constexpr (kDerivative == 2) {
      F out[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        out[i] = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) out[i] += t.weight[k] * v_[k][i] + t.weight[4 + k] * u_[k][i];
      }
      if (writes && works_) store_once<T, V>(grad_grad_ + t.written, out);
    }
  }

  // Passes on the last cell's sums.
  template <class Add>
  __device__ void leave(const Add& add) {
    pass_on(0, add), pass_on(1, add);
  }

 private:
  __device__ bool in_map(int k) const { return corners_ & 1 << k; }

  // The corners of a column of the cell: 00 and 10 of the left one, 01 and 11 of the right one.
  template <class Add>
  __device__ void pass_on(int column, const Add& add) const {
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (k % 2 == column && in_map(k)) add(k, cell_ >> 4, sums_at_, sums_[k]);
  }

  __device__ void enter(int column, const Tap& t) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k % 2 != column) continue;
#pragma unroll
      for (int i = 0; i < V; ++i) sums_[k][i] = 0;
      load_if<T, V>(in_map(k), x_ + (t.x + x_steps_.to_corner(k)), v_[k]);
      if constexpr (kDerivative == 2) {
        const bool reads = in_map(k) && gg_x_;
        const Index at = t.gg_x + gg_x_steps_.to_corner(k);
        if (gg_x_wide_)
          load_if<F, V>(reads, reinterpret_cast<const F*>(gg_x_) + at, u_[k]);
        else
          load_if<T, V>(reads, gg_x_ + at, u_[k]);
      }
    }
  }

  __device__ void shift() {
#pragma unroll
    for (int k = 0; k < 4; k += 2)
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sums_[k][i] = sums_[k + 1][i], v_[k][i] = v_[k + 1][i];
        if constexpr (kDerivative == 2) u_[k][i] = u_[k + 1][i];
      }
  }

  bool works_, gg_x_wide_ = false;
  Pixels<Index> x_steps_, gg_x_steps_;
  const T *x_, *gg_x_ = nullptr, *grad_;
  T* grad_grad_ = nullptr;

  Index cell_ = -32, sums_at_ = 0;    // the cell; at first one that none is or is next to
  int corners_ = 0;                   // its corners in the map, for a lane that works
  int terms_ = 0;                     // taps in the sums
  F v_[4][V], sums_[4][V], u_[4][V];  // x, grad_x, gg_x at its corners
};

// Zeros in a group's row of grad_grad, for a dead tap.
template <class T, int V, class Index>
__device__ void zero_row(const Channels& channels, const Team& team, T* row) {
  for (int piece = 0; piece < channels.pieces; ++piece) {
    const Lane<V, Index> lane(channels, team, piece);
    const Compute<T> zeros[V] = {};
    if (lane.works) store_once<T, V>(row + lane.first, zeros);
  }
}

}  // namespace tapfield::cuda
