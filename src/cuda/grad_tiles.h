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
  WalkMaps<T> maps;
  Images<Compute<T>> sums;  // [n, h, w, c], zeroed: grad_x itself or what will be stored to it
  TileShape tile;
  Channels channels;
  Torus torus;
};

// Where in its cell a tap is.
template <class F>
struct alignas(16) Fractions {
  F hh, lh, hw, lw;
};

// A block's shared memory: 74 bytes a tap in float32, where a team has all channels.
template <class T, class Index, int kDerivative>
struct GradTilesShared {
  using F = Compute<T>;
  static constexpr int kDots = 4 * kDerivative;
  int buckets, teams, rows_of_dots;              // rows_of_dots: a team adds to that of its piece of channels
  Array<Record<F, Index, kDerivative>> records;  // [tap]
  Array<Fractions<F>> fractions;                 // [tap]
  Array<F> masks;                                // [tap]
  Array<F> dots;                                 // [row][tap][kDots], of live taps
  Array<int> places;                             // [tap]: its bucket * 2^16 + its place there, if it is live
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
    fractions = carver.take<Fractions<F>>(taps);
    masks = carver.take<F>(taps);
    dots = carver.take<F>(rows_of_dots * taps * kDots);
    places = carver.take<int>(taps);
    sorted = carver.take<unsigned short>(taps);
    begins = carver.take<int>(buckets + 1);
    bytes = carver.used();
  }
};

// counts[0 .. n) become the sums of all before each, counts[n] the sum of all. One warp does it.
__device__ inline void sum_before(const Array<int>& counts, int n) {
  if (threadIdx.x >= kWarp) return;
  // A lane's share begins in a bank of its own, as an odd number of words does.
  const int lane = static_cast<int>(threadIdx.x), share = (n + kWarp - 1) / kWarp | 1;
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

// Locates the tile's taps and sorts the live ones by bucket. All threads of the block; `begins` must be 0.
template <class T, class Index, int kDerivative>
__device__ void sort_tile(const GradTilesArguments<T, Index>& a, const Tile<Index>& tile,
                          const GradTilesShared<T, Index, kDerivative>& shared) {
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const auto visit = [&](int i, const Place<Index>& at, const Offsets<T>& offsets) {
    const auto tap = locate(a.geometry, at, offsets);
    fill_record(a.geometry, at, tap, a.geometry.read, shared.records[i]);
    if (!tap.live) return;
    shared.fractions[i] = {tap.hh, tap.lh, tap.hw, tap.lw}, shared.masks[i] = tap.m;
    const int h = static_cast<int>(tap.h0) & ((1 << a.torus.log_h) - 1);
    const int w = static_cast<int>(tap.w0) & ((1 << a.torus.log_w) - 1);
    const int bucket = ((static_cast<int>(at.g - tile.first.g) << a.torus.log_h | h) << a.torus.log_w) | w;
    shared.places[i] = bucket << 16 | atomicAdd(&shared.begins[bucket], 1);
  };
  for_each_tap(a.geometry, tile, visit, [&](int i) { shared.records[i].cell = kAbsent; });
  __syncthreads();
  sum_before(shared.begins, shared.buckets);
  __syncthreads();
  for (int i = first; i < tile.size(); i += step) {
    if (!is_live(shared.records[i].cell)) continue;
    const int place = shared.places[i];
    shared.sorted[shared.begins[place >> 16] + (place & 0xffff)] = static_cast<unsigned short>(i);
  }
}

// The teams' walks: each takes a piece of the channels and a part of the sorted taps.
template <class T, int V, class Index, int kDerivative, class F = Compute<T>>
__device__ void walk_tile(const GradTilesArguments<T, Index>& a, const Tile<Index>& tile,
                          const GradTilesShared<T, Index, kDerivative>& shared) {
  constexpr int kDots = 4 * kDerivative;
  const Team team(a.channels.lanes);
  const int live = shared.begins[shared.buckets];
  const int parts = max(shared.teams / a.channels.pieces, 1), part = team.index / a.channels.pieces;
  constexpr int kTogether = Walk<T, V, Index, kDerivative>::kTogether;
  const int steps = (live + parts - 1) / parts;  // the same for all teams of a warp: they shuffle together
  const int begin = min(part * steps, live), end = part < parts ? min(begin + steps, live) : begin;
  for (int piece = team.index % a.channels.pieces; piece < a.channels.pieces; piece += shared.teams) {
    const Lane<V, Index> lane(a.channels, team, piece);
    Walk<T, V, Index, kDerivative> walk(a.maps, a.geometry, tile.first.n, lane);
    const auto add = [sums = settled(a.sums.image(tile.first.n) + lane.first)](
                         int, Index, Index at, const F(&v)[V]) { add_atomically(sums + at, v); };
    const auto dots_of_row = shared.dots.data + piece % shared.rows_of_dots * tile.size() * kDots;
    Raw<T, V> next[kTogether] = {};
    int tap[kTogether] = {};  // whose vectors those are
    const auto fetch = [&](int t, int i) {
      if (i >= end) return;
      tap[t] = shared.sorted[i];
      walk.fetch(shared.records[tap[t]], next[t]);
    };
#pragma unroll
    for (int t = 0; t < kTogether; ++t) fetch(t, begin + t);
    for (int first = begin; first < begin + steps; first += kTogether) {
      F dots[kTogether * kDots] = {};
#pragma unroll
      for (int t = 0; t < kTogether; ++t) {
        if (first + t < end) {
          const auto& record = shared.records[tap[t]];
          walk.move(record, add);
          walk.tap(record, next[t], dots + t * kDots, true);
        }
        fetch(t, first + t + kTogether);
      }
      sum_over_team<kDots>(team, dots, [&]<int N>(int number, const F(&sums)[N]) {
        const int i = first + number / kDots;
        if (i >= end) return;
        F* to = dots_of_row + shared.sorted[i] * kDots + number % kDots;
        F all[N] = {};
        if (piece >= shared.rows_of_dots) load<F, N>(to, all);  // an earlier piece's
#pragma unroll
        for (int k = 0; k < N; ++k) all[k] += sums[k];
        store<F, N>(to, all);
      });
    }
    walk.leave(add);
  }
}

template <class T, int V, class Index, int kDerivative>
__global__ void __launch_bounds__(kMaxThreads, kLeastBlocks)
    grad_tiles_kernel(GradTilesArguments<T, Index> a) {
  using F = Compute<T>;
  const Tile<Index> tile(a.tile);
  const GradTilesShared<T, Index, kDerivative> shared(tile.size(), a.tile.groups, a.torus, a.channels,
                                                      static_cast<int>(blockDim.x));
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  for (int i = first; i < shared.begins.size; i += step) shared.begins[i] = 0;
  __syncthreads();
  sort_tile(a, tile, shared);
  __syncthreads();
  walk_tile<T, V>(a, tile, shared);
  __syncthreads();
  for (int i = first; i < tile.size(); i += step) {
    Place<Index> at;
    if (!tile.place(a.geometry, i, &at)) continue;
    const Index cell = shared.records[i].cell;
    Tap<F, Index> tap{};
    F dots[4 * kDerivative] = {};
    if (is_live(cell)) {
      const auto& f = shared.fractions[i];
      tap = {true, 0, static_cast<Index>(odd_of(cell >> 4)), f.hh, f.lh, f.hw, f.lw, shared.masks[i]};
#pragma unroll 1  // as a rule there is one
      for (int row = 0; row < shared.rows_of_dots; ++row)
#pragma unroll
        for (int k = 0; k < 4 * kDerivative; ++k)
          dots[k] += shared.dots[(row * tile.size() + i) * 4 * kDerivative + k];
    }
    write_grad_offsets<kDerivative>(a.geometry, at, tap, dots);
  }
  if constexpr (kDerivative == 2) {
    const Team team(a.channels.lanes);
    T* grad_grad = a.maps.grad_grad.image(tile.first.n);
    for (int i = team.index; i < tile.size(); i += shared.teams) {
      const auto& record = shared.records[i];
      if (record.cell != kAbsent && !is_live(record.cell))
        zero_row<T, V, Index>(a.channels, team, grad_grad + record.written);
    }
  }
}

// ------ Launch

struct GradTilesScratch {
  StagedGradient staged;
  View sums;  // what the kernel adds to: grad_x itself where it can be
  bool sums_are_grad_x;

  GradTilesScratch(const Problem& p, Carver& carver)
      : staged(p, carver),
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
  const cudaStream_t stream = stream_of(p);
  const StagedViews staged = scratch.staged.pack(scratch.sums, stream);
  zero(scratch.sums, extent_of_x(p), stream);
  with_widths<kWalkWidth<T, kDerivative>>(p, staged, [&]<int V, class Index>(Vector<V>, Index) {
    GradTilesArguments<T, Index> a;
    a.geometry = geometry_of<T, Index>(p, staged);
    a.maps = walk_maps_of<T>(staged);
    a.sums = images_of<F>(staged.sums);
    a.channels = Channels::of(p.group_channels(), V);
    const int threads = tuning().threads;
    const auto bytes = [&](int taps) {  // of a block whose tile has so many, and the most buckets
      return GradTilesShared<T, Index, kDerivative>(taps, tuning().buckets, Torus{}, a.channels, threads)
          .bytes;
    };
    const int room = shared_bytes_of_block();
    int most = tuning().tile_taps;
    while (most > 1 && bytes(most) > room) --most;
    a.tile = shape_tile(p, p.n, most, tuning().read_bytes, tuning().least_tile_taps, blocks_to_fill_device());
    a.torus = Torus::of(p, a.tile, tuning().buckets);
    const GradTilesShared<T, Index, kDerivative> shared(a.tile.size(), a.tile.groups, a.torus, a.channels,
                                                        threads);
    launch(kDerivative == 1 ? "grad_tiles_kernel" : "grad_grad_tiles_kernel",
           grad_tiles_kernel<T, V, Index, kDerivative>,
           {a.tile.count(p.n), threads, static_cast<std::size_t>(shared.bytes)}, stream, a);
  });
  scratch.staged.grad_grad.store(stream);
  if (!scratch.sums_are_grad_x) copy(scratch.sums, View{}, p.grad_x, extent_of_x(p), stream);
}

}  // namespace tapfield::cuda
