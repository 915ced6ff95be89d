// SPDX-License-Identifier: Apache-2.0
// The fast schedule of the gradient and the second derivative. A block takes a tile of taps, sorts them by
// cell in shared memory and walks them: grad is read once, grad_x gets one atomic addition a run and corner
// instead of one a tap and corner, grad_offsets are written by the block that has their dots.
//
// Not deterministic: taps of a cell, and tiles, add to grad_x in whatever order they come.
#pragma once

#include "cuda/host.h"
#include "cuda/tile.h"
#include "cuda/walk.h"

namespace tapfield::cuda {

// The sort tells cells apart by their row and column modulo two powers of two: cells that share a bucket are
// only walked in turns, which costs time and nothing else.
struct Torus {
  int log_h = 0, log_w = 0;
  int cells() const { return 1 << (log_h + log_w); }

  // As large as what a tile's taps reach with offsets of some pixels, within `buckets` for all its groups.
  static Torus of(const Problem& p, const TileShape& s, int buckets) {
    const auto log_of = [](std::int64_t reach) {
      int log = 0;
      while (log < 10 && (std::int64_t{1} << log) < reach) ++log;
      return log;
    };
    constexpr std::int64_t kSpread = 6;  // three standard deviations each way
    Torus t{log_of(s.rows * p.stride_h + p.dil_h * (p.kh - 1) + kSpread),
            log_of(s.columns * p.stride_w + p.dil_w * (p.kw - 1) + kSpread)};
    while (t.cells() * s.groups > buckets && t.cells() > 1) --(t.log_h > t.log_w ? t.log_h : t.log_w);
    return t;
  }
};

template <class T, class Index>
struct GradTilesArguments {
  Geometry<T, Index> geometry;
  WalkMaps<T, Index> maps;
  Map<Compute<T>, Index> grad_x;  // [n, h, w, c], zeroed: the tensor itself or sums that will be stored to it
  TileShape tile;
  Channels channels;
  Torus torus;
};

// A block's shared memory.
template <class F, class Index, int kDerivative>
struct GradTilesShared {
  static constexpr int kDots = 4 * kDerivative;
  int buckets, teams, rows_of_dots;              // rows_of_dots: a team adds to that of its piece of channels
  Array<Record<F, Index, kDerivative>> records;  // [tap]
  Array<F> dots;                                 // [row][tap][kDots]
  Array<unsigned short> sorted;                  // [live tap]
  Array<int> begins;                             // [bucket], then the number of live taps
  int bytes;

  __host__ __device__ GradTilesShared(int taps, int groups, const Torus& torus, const Channels& c,
                                      int threads)
      : buckets(groups << (torus.log_h + torus.log_w)),
        teams(threads / c.lanes),
        rows_of_dots(teams < c.pieces ? teams : c.pieces) {
    SharedCarver carver;
    records = carver.take<Record<F, Index, kDerivative>>(taps);
    dots = carver.take<F>(rows_of_dots * taps * kDots);
    sorted = carver.take<unsigned short>(taps);
    begins = carver.take<int>(buckets + 1);
    bytes = carver.used();
  }
};

// counts[0 .. n) become the sums of all before each, counts[n] the sum of all. One warp does it.
__device__ inline void sum_before(const Array<int>& counts, int n) {
  if (threadIdx.x >= kWarp) return;
  const int lane = static_cast<int>(threadIdx.x), share = (n + kWarp - 1) / kWarp;
  const int begin = min(lane * share, n), end = min(begin + share, n);
  int mine = 0;
  for (int i = begin; i < end; ++i) mine += counts[i];
  int before = mine;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, before, distance);
    if (lane >= distance) before += other;
  }
  if (lane == kWarp - 1) counts[n] = before;
  before -= mine;
  for (int i = begin; i < end; ++i) {
    const int count = counts[i];
    counts[i] = before;
    before += count;
  }
}

// Sorts the tile's live taps by bucket. All threads of the block; begins with counts of 0.
template <class F, class Index, int kDerivative>
__device__ void sort_tile(const Tile<Index>& tile, const Torus& torus,
                          const GradTilesShared<F, Index, kDerivative>& shared) {
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  for (int i = first; i < tile.size(); i += step) {
    auto& r = shared.records[i];
    if (r.state != State::live) continue;
    const int h = static_cast<int>(r.h0) & ((1 << torus.log_h) - 1);
    const int w = static_cast<int>(r.w0) & ((1 << torus.log_w) - 1);
    r.bucket = (((tile.group(i) << torus.log_h) + h) << torus.log_w) + w;
    r.place = atomicAdd(&shared.begins[r.bucket], 1);
  }
  __syncthreads();
  sum_before(shared.begins, shared.buckets);
  __syncthreads();
  for (int i = first; i < tile.size(); i += step) {
    const auto& r = shared.records[i];
    if (r.state == State::live)
      shared.sorted[shared.begins[r.bucket] + r.place] = static_cast<unsigned short>(i);
  }
}

// The teams' walks: each takes a piece of the channels and a part of the sorted taps.
template <class T, int V, class Index, int kDerivative, class F = Compute<T>>
__device__ void walk_tile(const GradTilesArguments<T, Index>& a, const Tile<Index>& tile,
                          const GradTilesShared<F, Index, kDerivative>& shared) {
  constexpr int kDots = 4 * kDerivative;
  const Team team(a.channels.lanes);
  const int live = shared.begins[shared.buckets];
  const int parts = max(shared.teams / a.channels.pieces, 1), part = team.index / a.channels.pieces;
  const int steps = (live + parts - 1) / parts;  // the same for all teams of a warp: they shuffle together
  const int begin = min(part * steps, live), end = part < parts ? min(begin + steps, live) : begin;
  const auto grad_x = a.grad_x.image(tile.first.n);
  const auto add = [&](int, Index h, Index w, Index c, const F(&sums)[V]) {
    add_atomically(grad_x.at(h, w, c), sums);
  };
  for (int piece = team.index % a.channels.pieces; piece < a.channels.pieces; piece += shared.teams) {
    const int row = piece % shared.rows_of_dots;
    Walk<T, V, Index, kDerivative> walk(a.maps, a.geometry, tile.first.n,
                                        Lane<V, Index>(a.channels, team, piece));
    Raw<T, V> next{};
    if (begin < end) next = walk.fetch(shared.records[shared.sorted[begin]]);
    for (int i = begin; i < begin + steps; ++i) {
      const bool has_tap = i < end;
      const Raw<T, V> grad = next;
      if (i + 1 < end) next = walk.fetch(shared.records[shared.sorted[i + 1]]);
      F dots[kDots] = {};
      if (has_tap) {
        const auto& tap = shared.records[shared.sorted[i]];
        walk.move(tap, add);
        walk.tap(tap, grad, dots, true);
      }
      const Held held = sum_over_team(team, dots);
      // Of the lanes that hold the same sums, the first.
      if (has_tap && team.rank % max(team.size * held.count / kDots, 1) == 0)
#pragma unroll
        for (int k = 0; k < kDots; ++k)
          if (k < held.count)
            shared.dots[(row * tile.size() + shared.sorted[i]) * kDots + held.first + k] += dots[k];
    }
    walk.leave(add);
  }
}

template <class T, int V, class Index, int kDerivative>
__global__ void __launch_bounds__(kMaxThreads, kLeastBlocks)
    grad_tiles_kernel(GradTilesArguments<T, Index> a) {
  using F = Compute<T>;
  const Tile<Index> tile(a.tile);
  const GradTilesShared<F, Index, kDerivative> shared(tile.size(), a.tile.groups, a.torus, a.channels,
                                                      static_cast<int>(blockDim.x));
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  for (int i = first; i <= shared.buckets; i += step) shared.begins[i] = 0;
  for (int i = first; i < shared.dots.size; i += step) shared.dots[i] = 0;
  tile.fill(a.geometry, shared.records);
  __syncthreads();
  sort_tile(tile, a.torus, shared);
  __syncthreads();
  walk_tile<T, V>(a, tile, shared);
  __syncthreads();
  for (int i = first; i < tile.size(); i += step) {
    Place<Index> at;
    if (!tile.place(a.geometry, i, &at)) continue;
    F dots[4 * kDerivative] = {};
    for (int row = 0; row < shared.rows_of_dots; ++row)
#pragma unroll
      for (int k = 0; k < 4 * kDerivative; ++k)
        dots[k] += shared.dots[(row * tile.size() + i) * 4 * kDerivative + k];
    write_grad_offsets<kDerivative>(a.geometry, at, dots);
  }
  if constexpr (kDerivative == 2) {
    const Team team(a.channels.lanes);
    T* grad_grad = a.maps.grad_grad.image(tile.first.n);
    for (int i = team.index; i < tile.size(); i += shared.teams) {
      const auto& tap = shared.records[i];
      if (tap.state == State::dead) zero_row<T, V, Index>(a.channels, team, grad_grad + tap.written);
    }
  }
}

// ------ Launch

struct GradTilesScratch {
  Staged x, grad, gg_x, grad_grad;
  View sums;  // what the kernel adds to: grad_x itself where it can be
  bool sums_are_grad_x;

  GradTilesScratch(const Problem& p, Carver& carver)
      : x(p.x, extent_of_x(p), carver),
        grad(p.grad, extent_of_y(p), carver),
        gg_x(p.gg_x, extent_of_x(p), carver),
        grad_grad(p.grad_grad, extent_of_y(p), carver),
        sums(p.grad_x),
        sums_are_grad_x(p.grad_x.adjacent() && p.grad_x.dtype == dtype_of_sums(p)) {
    if (sums_are_grad_x) return;
    const Extent e = extent_of_x(p);
    sums = dense(carver.take<char>(e.elements() * size_of(dtype_of_sums(p))), dtype_of_sums(p), e);
  }
};

template <class T, int kDerivative>
void grad_tiles_of(const Problem& p, const GradTilesScratch& scratch) {
  using F = Compute<T>;
  constexpr int kMost = kDerivative == 1 ? 8 : 4;  // 8: 140 registers, and no spills
  constexpr int kV = kWidth<T, kMost>;
  const cudaStream_t stream = stream_of(p);
  scratch.x.pack(stream), scratch.grad.pack(stream), scratch.gg_x.pack(stream);
  zero(scratch.sums, extent_of_x(p), stream);
  const View &x = scratch.x.view, &grad = scratch.grad.view, &gg_x = scratch.gg_x.view,
             &grad_grad = scratch.grad_grad.view;
  with_widths<kV>(
      aligned(p, {x, grad, gg_x, grad_grad, scratch.sums}, kV),
      fit_32_bits(p, {x, gg_x, scratch.sums}, {grad, grad_grad}), [&]<int V, class Index>(Vector<V>, Index) {
        GradTilesArguments<T, Index> a;
        a.geometry = geometry_of<T, Index>(p, grad, grad_grad);
        a.maps = walk_maps_of<T, Index>(x, grad, gg_x, grad_grad);
        a.grad_x = map_of<F, Index>(scratch.sums);
        a.channels = Channels::of(p.group_channels(), V);
        const int threads = tuning().threads,
                  rows_of_dots = std::min(threads / a.channels.lanes, a.channels.pieces);
        const int bytes_a_tap = static_cast<int>(sizeof(Record<F, Index, kDerivative>) + 2 +
                                                 rows_of_dots * 4 * kDerivative * sizeof(F));
        const int bytes_of_buckets = (tuning().buckets + 1) * 4 + 64;  // 64: four arrays' alignment
        const int most =
            std::min(tuning().tile_taps, (tuning().shared_bytes - bytes_of_buckets) / bytes_a_tap);
        a.tile = shape_tile(p, p.n, most, tuning().read_bytes, blocks_to_fill_device());
        a.torus = Torus::of(p, a.tile, tuning().buckets);
        const GradTilesShared<F, Index, kDerivative> shared(a.tile.size(), a.tile.groups, a.torus, a.channels,
                                                            threads);
        launch(kDerivative == 1 ? "grad_tiles_kernel" : "grad_grad_tiles_kernel",
               grad_tiles_kernel<T, V, Index, kDerivative>,
               {a.tile.count(p.n), threads, static_cast<std::size_t>(shared.bytes)}, stream, a);
      });
  scratch.grad_grad.store(stream);
  if (!scratch.sums_are_grad_x) copy(scratch.sums, View{}, p.grad_x, extent_of_x(p), stream);
}

}  // namespace tapfield::cuda
