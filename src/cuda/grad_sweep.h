// SPDX-License-Identifier: Apache-2.0
// The deterministic schedule of the gradient and the second derivative.
//
//  1. Keys: every tap's cell. 2. A stable sort of the taps by cell (sort.h); where each cell begins.
//  3. Sweep: a team takes a row of cells, a strip of columns of it and a piece of the channels, and walks its
//     taps. It alone adds to its pixels: to `upper` for the pixels above a cell (corners 00, 01), to `lower`
//     for those below (10, 11).
//  4. Finish: grad_offsets from the dots, pieces in order; and grad_x = upper + lower (copy.h).
//
// Deterministic: the sort's order depends on the offsets alone; a pixel of `upper` and of `lower` is one sum
// in that order, whatever team makes it and when; dots are summed by a fixed tree of shuffles.
#pragma once

#include "cuda/host.h"
#include "cuda/sort.h"
#include "cuda/walk.h"

namespace tapfield::cuda {

template <class T, class Index>
struct GradSweepArguments {
  using F = Compute<T>;
  Geometry<T, Index> geometry;
  WalkMaps<T, Index> maps;
  Channels channels;
  std::int64_t taps, cells;  // of all images
  std::int64_t strips;       // of a row
  int strip;                 // columns of a strip
  std::uint32_t* keys;   // [taps]: cell (((n * groups + g) * (h+1) + h0+1) * (w+1) + w0+1); `cells` if dead
  std::uint32_t* order;  // [taps]: number of a tap, ((n * ho + ..) * wo + ..) * groups * kh * kw + ..
  const std::uint32_t* sorted_keys;   // [taps]
  const std::uint32_t* sorted_order;  // [taps]
  std::uint32_t* begins;              // [cells + 1]: a cell's first place in the sorted order
  F* dots;                            // [pieces][taps][4 or 8]
  Map<F, Index> upper, lower;         // [n, h, w, c], zeroed
};

template <class T, class Index>
__device__ Place<Index> place_of(const Geometry<T, Index>& q, std::int64_t tap) {
  auto i = static_cast<std::uint32_t>(tap);  // below 2^31, as all that it is divided by (host.h)
  const auto take = [&](Index size) {
    const auto n = static_cast<std::uint32_t>(size), rest = i % n;
    i /= n;
    return static_cast<Index>(rest);
  };
  Place<Index> at;
  at.k = take(q.kh * q.kw), at.g = take(q.groups), at.wo = take(q.wo), at.ho = take(q.ho), at.n = i;
  return at;
}

__device__ inline std::int64_t thread_in_grid() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// A thread: a tap.
template <class T, class Index>
__global__ void __launch_bounds__(kMaxThreads) sweep_keys_kernel(GradSweepArguments<T, Index> a) {
  const std::int64_t tap = thread_in_grid();
  if (tap >= a.taps) return;
  const auto& q = a.geometry;
  const Place<Index> at = place_of(q, tap);
  const auto t = locate(q, at);
  const std::int64_t row = (at.n * q.groups + at.g) * (q.h + 1) + t.h0 + 1;
  a.keys[tap] = static_cast<std::uint32_t>(t.live ? row * (q.w + 1) + t.w0 + 1 : a.cells);
  a.order[tap] = static_cast<std::uint32_t>(tap);
}

// A thread: a cell. It looks for its first tap.
template <class T, class Index>
__global__ void __launch_bounds__(kMaxThreads) sweep_begins_kernel(GradSweepArguments<T, Index> a) {
  const std::int64_t cell = thread_in_grid();
  if (cell > a.cells) return;
  std::int64_t begin = 0, end = a.taps;
  while (begin < end) {
    const std::int64_t middle = (begin + end) / 2;
    if (a.sorted_keys[middle] < cell)
      begin = middle + 1;
    else
      end = middle;
  }
  a.begins[cell] = static_cast<std::uint32_t>(begin);
}

template <class F, class Index, int kDerivative>
struct GradSweepShared {
  Array<Record<F, Index, kDerivative>> records;  // [thread]
  int bytes;
  __host__ __device__ explicit GradSweepShared(int threads) {
    SharedCarver carver;
    records = carver.take<Record<F, Index, kDerivative>>(threads);
    bytes = carver.used();
  }
};

// A team: a strip of a row of cells, a piece of the channels. Its lanes locate a tap each, then walk them.
template <class T, int V, class Index, int kDerivative>
__global__ void __launch_bounds__(kMaxThreads, kLeastBlocks) sweep_kernel(GradSweepArguments<T, Index> a) {
  using F = Compute<T>;
  constexpr int kDots = 4 * kDerivative;
  const GradSweepShared<F, Index, kDerivative> shared(static_cast<int>(blockDim.x));
  const Team team(a.channels.lanes);
  const auto& q = a.geometry;

  std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / team.size) + team.index;
  const int piece = static_cast<int>(unit % a.channels.pieces);
  unit /= a.channels.pieces;
  const Index first_column = static_cast<Index>(unit % a.strips * a.strip);
  const Index last_column = min(first_column + a.strip, q.w);  // one past
  unit /= a.strips;
  const std::int64_t row_of_cells = unit, n = unit / (q.h + 1) / q.groups;
  const bool has_strip = n < q.images;
  // Its cells: those whose right corners are its first column of pixels, to those whose left are its last.
  const std::int64_t cell = row_of_cells * (q.w + 1) + first_column;
  std::uint32_t begin = has_strip ? a.begins[cell] : 0,
                end = has_strip ? a.begins[cell + last_column - first_column + 1] : 0;

  const Lane<V, Index> lane(a.channels, team, piece);
  Walk<T, V, Index, kDerivative> walk(a.maps, q, has_strip ? n : 0, lane);
  const auto upper = a.upper.image(n), lower = a.lower.image(n);
  const auto add_to_mine = [&](int corner, Index h, Index w, Index c, const F(&sums)[V]) {
    if (w >= first_column && w < last_column) add<F, V>((corner < 2 ? upper : lower).at(h, w, c), sums);
  };
  const int mine = static_cast<int>(threadIdx.x), first_of_team = mine - team.rank;
  for (; __any_sync(kAllLanes, begin < end); begin += team.size) {
    const std::uint32_t i = begin + team.rank;
    std::uint32_t tap = 0;
    shared.records[mine].state = State::absent;
    if (i < end) {
      tap = a.sorted_order[i];
      fill_record(q, place_of(q, tap), shared.records[mine]);
    }
    __syncwarp();
    Raw<T, V> next{};
    if (begin < end) next = walk.fetch(shared.records[first_of_team]);
    for (int k = 0; k < team.size && __any_sync(kAllLanes, begin + k < end); ++k) {
      const auto& record = shared.records[first_of_team + k];
      const bool has_tap = record.state == State::live;
      // A tap left of the strip is its neighbour's, but for the right corners.
      const bool is_mine = has_tap && (record.w0 >= first_column || first_column == 0);
      const Raw<T, V> grad = next;
      if (k + 1 < team.size && begin + k + 1 < end) next = walk.fetch(shared.records[first_of_team + k + 1]);
      F dots[kDots] = {};
      if (has_tap) {
        walk.move(record, add_to_mine);
        walk.tap(record, grad, dots, is_mine);
      }
      const Held held = sum_over_team(team, dots);
      const std::uint32_t number = __shfl_sync(kAllLanes, tap, k, team.size);
      if (is_mine && team.rank % max(team.size * held.count / kDots, 1) == 0)
#pragma unroll
        for (int d = 0; d < kDots; ++d)
          if (d < held.count) a.dots[(piece * a.taps + number) * kDots + held.first + d] = dots[d];
    }
    __syncwarp();
  }
  walk.leave(add_to_mine);
}

// A thread: a tap's grad_offsets. Then, in the second derivative, a team: a dead tap's row.
template <class T, int V, class Index, int kDerivative>
__global__ void __launch_bounds__(kMaxThreads) sweep_finish_kernel(GradSweepArguments<T, Index> a) {
  using F = Compute<T>;
  constexpr int kDots = 4 * kDerivative;
  const auto& q = a.geometry;
  const std::int64_t tap = thread_in_grid();
  if (tap < a.taps) {
    F dots[kDots] = {};
    for (int piece = 0; piece < a.channels.pieces; ++piece)
#pragma unroll
      for (int k = 0; k < kDots; ++k) dots[k] += a.dots[(piece * a.taps + tap) * kDots + k];
    write_grad_offsets<kDerivative>(q, place_of(q, tap), dots);
  }
  if constexpr (kDerivative == 2) {
    const GradSweepShared<F, Index, kDerivative> shared(static_cast<int>(blockDim.x));
    const int mine = static_cast<int>(threadIdx.x);
    shared.records[mine].state = State::absent;
    if (tap < a.taps) fill_record(q, place_of(q, tap), shared.records[mine]);
    __syncthreads();
    const Team team(a.channels.lanes);
    for (int i = team.index; i < shared.records.size; i += static_cast<int>(blockDim.x) / team.size) {
      const auto& record = shared.records[i];
      if (record.state != State::dead) continue;
      const std::int64_t n = place_of(q, tap - mine + i).n;
      zero_row<T, V, Index>(a.channels, team, a.maps.grad_grad.image(n) + record.written);
    }
  }
}

// ------ Launch

struct GradSweepScratch {
  Staged x, grad, gg_x, grad_grad;
  std::int64_t taps, cells;
  std::uint32_t *keys, *order, *sorted_keys, *sorted_order;  // [taps]
  std::uint32_t* begins;                                     // [cells + 1]
  char* sort;
  char* dots;  // [pieces][taps][4 or 8] of Compute<T>
  Extent both;
  View upper, lower, upper_and_lower;

  GradSweepScratch(const Problem& p, Carver& carver)
      : x(p.x, extent_of_x(p), carver),
        grad(p.grad, extent_of_y(p), carver),
        gg_x(p.gg_x, extent_of_x(p), carver),
        grad_grad(p.grad_grad, extent_of_y(p), carver),
        taps(p.n * p.ho * p.wo * p.lanes()),
        cells(p.n * p.groups * (p.h + 1) * (p.w + 1)),
        keys(carver.take<std::uint32_t>(taps)),
        order(carver.take<std::uint32_t>(taps)),
        sorted_keys(carver.take<std::uint32_t>(taps)),
        sorted_order(carver.take<std::uint32_t>(taps)),
        begins(carver.take<std::uint32_t>(cells + 1)),
        sort(carver.take<char>(static_cast<std::int64_t>(sort_bytes(taps)))),
        both(extent_of_x(p)) {
    const DType sums = dtype_of_sums(p);
    // The most pieces there can be, whatever the alignment of tensors.
    const int pieces = Channels::of(p.group_channels(), 1).pieces, kinds = p.pass == Pass::grad ? 4 : 8;
    dots = carver.take<char>(pieces * taps * kinds * size_of(sums));
    both.n = 2 * p.n;
    upper_and_lower = upper = lower = dense(carver.take<char>(both.elements() * size_of(sums)), sums, both);
    lower.data += p.n * lower.n * size_of(sums);
  }
};

template <class T, int kDerivative>
void grad_sweep_of(const Problem& p, const GradSweepScratch& scratch) {
  using F = Compute<T>;
  constexpr int kV = kWidth<T, 4>;  // 8 would spill
  const cudaStream_t stream = stream_of(p);
  scratch.x.pack(stream), scratch.grad.pack(stream), scratch.gg_x.pack(stream);
  zero(scratch.upper_and_lower, scratch.both, stream);
  const View &x = scratch.x.view, &grad = scratch.grad.view, &gg_x = scratch.gg_x.view,
             &grad_grad = scratch.grad_grad.view;
  with_widths<kV>(
      aligned(p, {x, grad, gg_x, grad_grad, scratch.upper}, kV),
      fit_32_bits(p, {x, gg_x, scratch.upper}, {grad, grad_grad}), [&]<int V, class Index>(Vector<V>, Index) {
        GradSweepArguments<T, Index> a;
        a.geometry = geometry_of<T, Index>(p, grad, grad_grad);
        a.maps = walk_maps_of<T, Index>(x, grad, gg_x, grad_grad);
        a.channels = Channels::of(p.group_channels(), V);
        a.taps = scratch.taps, a.cells = scratch.cells;
        a.strip = tuning().strip, a.strips = (p.w + a.strip - 1) / a.strip;
        a.keys = scratch.keys, a.order = scratch.order;
        a.sorted_keys = scratch.sorted_keys, a.sorted_order = scratch.sorted_order, a.begins = scratch.begins;
        a.dots = reinterpret_cast<F*>(scratch.dots);
        a.upper = map_of<F, Index>(scratch.upper), a.lower = map_of<F, Index>(scratch.lower);

        const int threads = tuning().threads;
        const auto shared = static_cast<std::size_t>(GradSweepShared<F, Index, kDerivative>(threads).bytes);
        const Grid a_tap_a_thread{blocks_of(a.taps, threads), threads},
            a_cell_a_thread{blocks_of(a.cells + 1, threads), threads};
        launch("sweep_keys_kernel", sweep_keys_kernel<T, Index>, a_tap_a_thread, stream, a);
        sort_pairs(scratch.sort, a.keys, a.order, scratch.sorted_keys, scratch.sorted_order, a.taps,
                   static_cast<std::uint32_t>(a.cells), stream);
        launch("sweep_begins_kernel", sweep_begins_kernel<T, Index>, a_cell_a_thread, stream, a);
        const std::int64_t teams = p.n * p.groups * (p.h + 1) * a.strips * a.channels.pieces;
        launch("sweep_kernel", sweep_kernel<T, V, Index, kDerivative>,
               {blocks_of(teams, threads / a.channels.lanes), threads, shared}, stream, a);
        launch("sweep_finish_kernel", sweep_finish_kernel<T, V, Index, kDerivative>,
               {a_tap_a_thread.blocks, threads, kDerivative == 2 ? shared : 0}, stream, a);
      });
  scratch.grad_grad.store(stream);
  copy(scratch.upper, scratch.lower, p.grad_x, extent_of_x(p), stream);
}

}  // namespace tapfield::cuda
