// SPDX-License-Identifier: Apache-2.0
// A team's walk over taps that are sorted by cell: the channel loops of the gradient and, below each line of
// it, of the second derivative. While taps stay in a cell, its four corner vectors of x and four sums for
// grad_x stay in registers; when they move one column on, so do those of the column that both cells have.
#pragma once

#include "cuda/geometry.h"
#include "cuda/host.h"

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

// Elements of a walk's vector: of 8, gradients take some 150 registers and nothing spills.
template <class T, int kDerivative>
inline constexpr int kWalkWidth = kWidth<T, 8 / kDerivative>;

template <class T, int V, class Index, int kDerivative>
class Walk {
 public:
  using F = Compute<T>;
  using Tap = Record<F, Index, kDerivative>;
  // Taps whose dots are summed over a team at once, and whose vectors of grad are under way. By Little's law
  // an H200's 4.3 TB/s at some 0.7 us want 23 KB from each of 132 SMs; 12 warps of 512 bytes four times
  // are 24.
  static constexpr int kTogether = 4 / kDerivative;

  // Of image n, in the lane's channels.
  __device__ Walk(const WalkMaps<T>& maps, const Geometry<T, Index>& q, std::int64_t n, Lane<V, Index> lane)
      : works_(lane.works),
        x_steps_(q.x),
        gg_x_steps_(q.gg_x),
        sums_steps_(q.sums),
        x_(settled(maps.x.image(n) + lane.first)),
        grad_(settled(maps.grad.image(n) + lane.first)) {
    if constexpr (kDerivative == 2) {
      gg_x_wide_ = maps.gg_x_wide;
      gg_x_ = maps.gg_x.data;
      if (gg_x_) gg_x_ += (n * maps.gg_x.n + lane.first) * (gg_x_wide_ ? sizeof(F) / sizeof(T) : 1);
      gg_x_ = settled(gg_x_), grad_grad_ = settled(maps.grad_grad.image(n) + lane.first);
    }
  }

  // Asks for the tap's vector of grad, which comes while others are worked on. A lane that does not work
  // leaves `to`, which should be zeros.
  __device__ void fetch(const Tap& t, Raw<T, V>& to) const {
    if (works_) to = __ldcs(reinterpret_cast<const Raw<T, V>*>(grad_ + t.sample));
  }

  // Moves to the tap's cell. What a column of the last one has summed goes to add(row, number, at, vector),
  // once for each of its two corners in the map: number: of the cell whose left column it is; at: where the
  // corner is in grad_x's sums, at the group's first channel.
  template <class Add>
  __device__ __forceinline__ void move(const Tap& t, const Add& add) {
    const Addresses<Index> addresses = load_whole<Addresses<Index>>(t);
    const Index cell = addresses.cell;
    if (cell == cell_ && terms_ < kTerms) {
      ++terms_;
      return;
    }
    const Index number = cell >> 4;
    const bool next_column = number == (cell_ >> 4) + 1;
    const int odd = odd_of(number);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (next_column && i == odd) continue;  // it was the right one, and is the left one
      pass_on(columns_[i], add);
      enter(columns_[i], i, odd, addresses, t);
    }
    cell_ = cell, terms_ = 1;
  }

  // One tap of the cell: grad_x's sums, the lane's part of its dots. `writes`: and its row of grad_grad.
  __device__ __forceinline__ void tap(const Tap& t, Raw<T, V> fetched, F* dots, bool writes) {
    F g[V], weight[4 * kDerivative];
    unpack<T, V>(fetched, g);
    load<F, 4 * kDerivative>(t.weight, weight);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      Column& c = columns_[k % 2];
      add_scaled(c.sums[k / 2], weight[k], g);
      dots[k] = dot(g, c.v[k / 2]);
      if constexpr (kDerivative == 2) dots[4 + k] = dot(g, c.u[k / 2]);
    }
    if constexpr (kDerivative == 2) {
      F out[V] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        add_scaled(out, weight[k], columns_[k % 2].v[k / 2]);
        add_scaled(out, weight[4 + k], columns_[k % 2].u[k / 2]);
      }
      if (writes && works_) store_once<T, V>(grad_grad_ + t.written, out);
    }
  }

  // Passes on the last cell's sums.
  template <class Add>
  __device__ void leave(const Add& add) {
    pass_on(columns_[0], add), pass_on(columns_[1], add);
  }

 private:
  // Of the cell, its even or odd column: x, grad_x and gg_x at the upper and the lower corner.
  struct Column {
    int in_map = 0;  // corners 0 and 2 as bits, for a lane that works
    Index number = 0, sums_at = 0;
    F v[2][V], sums[2][V], u[2][V];
  };

  template <class Add>
  __device__ __forceinline__ void pass_on(const Column& c, const Add& add) const {
#pragma unroll
    for (int row = 0; row < 2; ++row)
      if (c.in_map >> 2 * row & 1) add(row, c.number, c.sums_at + row * sums_steps_.h, c.sums[row]);
  }

  __device__ __forceinline__ void enter(Column& c, int i, int odd, const Addresses<Index>& addresses,
                                        const Tap& t) {
    // From corner 0 to that of this column.
    const auto across = [&](Index w) { return i == 0 ? 0 : odd ? -w : w; };
    c.in_map = works_ ? addresses.cell >> i : 0;
    c.number = (addresses.cell >> 4) + (i ^ odd);
    c.sums_at = addresses.sums + across(sums_steps_.w);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const bool reads = c.in_map >> 2 * row & 1;
#pragma unroll
      for (int e = 0; e < V; ++e) c.sums[row][e] = 0;
      load_if<T, V>(reads, x_ + (addresses.x + across(x_steps_.w) + row * x_steps_.h), c.v[row]);
      if constexpr (kDerivative == 2) {
        const Index at = t.gg_x + across(gg_x_steps_.w) + row * gg_x_steps_.h;
        if (gg_x_wide_)
          load_if<F, V>(reads && gg_x_, reinterpret_cast<const F*>(gg_x_) + at, c.u[row]);
        else
          load_if<T, V>(reads && gg_x_, gg_x_ + at, c.u[row]);
      }
    }
  }

  bool works_, gg_x_wide_ = false;
  Pixels<Index> x_steps_, gg_x_steps_, sums_steps_;
  const T *x_, *gg_x_ = nullptr, *grad_;
  T* grad_grad_ = nullptr;

  Index cell_ = -32;  // the cell; at first one that none is or is next to
  int terms_ = 0;     // taps in the sums
  Column columns_[2];
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
