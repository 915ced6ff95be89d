// SPDX-License-Identifier: Apache-2.0
// A team's walk over taps that are sorted by cell: the channel loops of the gradient and, below each line of
// it, of the second derivative. While taps stay in a cell, its four corner vectors of x and four sums for
// grad_x stay in registers; when they move one column on, the right ones become the left ones.
#pragma once

#include "cuda/geometry.h"
#include "cuda/host.h"

namespace tapfield::cuda {

template <class T, class Index>
struct WalkMaps {
  Map<const T, Index> x;  // [n, h, w, c]
  Images<const T> grad;   // [n, ho*kh, wo*kw, c]
  // second derivative
  Map<const T, Index> gg_x;  // as x; may be absent
  bool gg_x_wide;            // its elements are of Compute<T>; strides count those
  Images<T> grad_grad;       // out: as grad
};

template <class T, class Index>
WalkMaps<T, Index> walk_maps_of(const View& x, const View& grad, const View& gg_x, const View& grad_grad) {
  return {map_of<const T, Index>(x), images_of<const T>(grad), map_of<const T, Index>(gg_x),
          size_of(gg_x.dtype) == static_cast<std::int64_t>(sizeof(Compute<T>)), images_of<T>(grad_grad)};
}

template <class T, int V, class Index, int kDerivative>
class Walk {
 public:
  using F = Compute<T>;
  using Tap = Record<F, Index, kDerivative>;
  static constexpr int kDots = 4 * kDerivative;

  // Of image n, in the lane's channels.
  __device__ Walk(const WalkMaps<T, Index>& maps, const Geometry<T, Index>& q, std::int64_t n,
                  Lane<V, Index> lane)
      : h_(q.h), w_(q.w), lane_(lane), x_(maps.x.image(n)), grad_(maps.grad.image(n)) {
    if constexpr (kDerivative == 2) {
      gg_x_wide_ = maps.gg_x_wide;
      gg_x_ = maps.gg_x;
      if (gg_x_.data) gg_x_.data += n * gg_x_.n * (gg_x_wide_ ? sizeof(F) / sizeof(T) : 1);
      grad_grad_ = maps.grad_grad.image(n);
    }
  }

  // The tap's vector of grad. Asked for one tap ahead, it comes while the last one is worked on.
  __device__ Raw<T, V> fetch(const Tap& t) const {
    return lane_.works ? load_once<T, V>(grad_ + t.read + lane_.first) : Raw<T, V>{};
  }

  // Moves to the tap's cell. What the last one has summed for a corner goes to add(corner, h, w, channel,
  // sums), once for each corner in the map.
  template <class Add>
  __device__ void move(const Tap& t, const Add& add) {
    const bool row_stays = t.h0 == h0_ && t.channel == channel_;
    if (row_stays && t.w0 == w0_ && terms_ < kTerms) {
      ++terms_;
      return;
    }
    const bool next_column = row_stays && t.w0 == w0_ + 1;
    pass_on(0, add);
    if (next_column)
      shift();
    else
      pass_on(1, add);
    h0_ = t.h0, w0_ = t.w0, channel_ = t.channel, terms_ = 1;
    if (!next_column) enter(0);
    enter(1);
  }

  // One tap of the cell: grad_x's sums, the lane's part of its dots. `writes`: and its row of grad_grad.
  __device__ void tap(const Tap& t, const Raw<T, V>& fetched, F (&dots)[kDots], bool writes) {
    F g[V];
    unpack<T, V>(fetched, g);
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sums_[k][i] += t.weight[k] * g[i];
        dots[k] += g[i] * v_[k][i];
        if constexpr (kDerivative == 2) dots[4 + k] += g[i] * u_[k][i];
      }
    if constexpr (kDerivative == 2) {
      F out[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        out[i] = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) out[i] += t.weight[k] * v_[k][i] + t.weight[4 + k] * u_[k][i];
      }
      if (writes && lane_.works) store_once<T, V>(grad_grad_ + t.written + lane_.first, out);
    }
  }

  // Passes on the last cell's sums.
  template <class Add>
  __device__ void leave(const Add& add) {
    pass_on(0, add), pass_on(1, add);
  }

 private:
  __device__ bool in_map(int k) const {
    return math::inside(h0_ + k / 2, h_) && math::inside(w0_ + k % 2, w_);
  }

  // The corners of a column of the cell: 00 and 10 of the left one, 01 and 11 of the right one.
  template <class Add>
  __device__ void pass_on(int column, const Add& add) const {
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (k % 2 == column && lane_.works && in_map(k))
        add(k, h0_ + k / 2, w0_ + k % 2, channel_ + lane_.first, sums_[k]);
  }

  __device__ void enter(int column) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k % 2 != column) continue;
#pragma unroll
      for (int i = 0; i < V; ++i) sums_[k][i] = v_[k][i] = 0;
      const bool reads = lane_.works && in_map(k);
      if (reads) load<T, V>(x_.at(h0_ + k / 2, w0_ + k % 2, channel_ + lane_.first), v_[k]);
      if constexpr (kDerivative == 2) {
#pragma unroll
        for (int i = 0; i < V; ++i) u_[k][i] = 0;
        if (reads && gg_x_.data) enter_gg_x(k);
      }
    }
  }

  __device__ void enter_gg_x(int k) {
    const Index at = (h0_ + k / 2) * gg_x_.h + (w0_ + k % 2) * gg_x_.w + channel_ + lane_.first;
    if (gg_x_wide_)
      load<F, V>(reinterpret_cast<const F*>(gg_x_.data) + at, u_[k]);
    else
      load<T, V>(gg_x_.data + at, u_[k]);
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

  Index h_, w_;
  Lane<V, Index> lane_;
  Map<const T, Index> x_, gg_x_;
  const T* grad_;
  T* grad_grad_;
  bool gg_x_wide_ = false;

  Index h0_ = -2, w0_ = -2, channel_ = 0;  // the cell; at first one without corners in the map
  int terms_ = 0;                          // taps in the sums
  F v_[4][V], sums_[4][V], u_[4][V];       // x, grad_x, gg_x at its corners
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
