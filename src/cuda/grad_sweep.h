// SPDX-License-Identifier: Apache-2.0
// The deterministic schedule of the gradient and the second derivative.
//
//  1. Keys: every tap's cell. 2. A stable sort of the taps by cell (sort.h); where each cell begins.
//  3. Sweep: a team takes a row of cells, a strip of columns of it and a piece of the channels, and walks its
//     taps. It alone writes its pixels: in `upper` those above a cell (corners 00, 01), in `lower` those
//     below (10, 11).
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
  WalkMaps<T> maps;
  Channels channels;
  std::int64_t taps, cells;  // of all images
  int strip;                 // columns of a strip
  int batch;                 // taps that a team locates, then walks
  Divisor by_pieces, by_strips, by_rows, by_groups, by_taps, by_wo, by_ho;  // by_rows: of cells, h+1
  std::uint32_t* keys;   // [taps]: cell (((n * groups + g) * (h+1) + h0+1) * (w+1) + w0+1); `cells` if dead
  std::uint32_t* order;  // [taps]: number of a tap, ((n * ho + ..) * wo + ..) * groups * kh * kw + ..
  const std::uint32_t* sorted_keys;   // [taps]
  const std::uint32_t* sorted_order;  // [taps]
  std::uint32_t* begins;              // [cells + 1]: a cell's first place in the sorted order
  F* dots;                            // [pieces][taps][4 or 8]
  Images<F> upper, lower;             // [n, h, w, c], dense
};

template <class T, class Index>
__device__ Place<Index> place_of(const GradSweepArguments<T, Index>& a, std::int64_t tap) {
  int i = static_cast<int>(tap);  // below 2^31 (host.h)
  Place<Index> at;
  at.k = take(i, a.by_taps), at.g = take(i, a.by_groups), at.wo = take(i, a.by_wo), at.ho = take(i, a.by_ho);
  at.n = i;
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
  const Place<Index> at = place_of(a, tap);
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

template <class T, class Index, int kDerivative>
struct GradSweepShared {
  Array<Record<Compute<T>, Index, kDerivative>> records;  // [team][batch]
  Array<std::uint32_t> taps;                              // [team][batch]
  int bytes;
  __host__ __device__ GradSweepShared(int threads, int lanes, int batch) {
    SharedCarver carver;
    records = carver.take<Record<Compute<T>, Index, kDerivative>>(threads / lanes * batch);
    taps = carver.take<std::uint32_t>(threads / lanes * batch);
    bytes = carver.used();
  }
};

// What a team writes: columns [first, last) of the row of pixels above its cells and of that below, from left
// to right and zeros where nothing came. A column that comes late (its neighbour was passed on first, or its
// cell has more than kTerms taps) is added to what is there.
template <class F, int V, class Index>
class StripOfPixels {
 public:
  __device__ StripOfPixels(F* upper, F* lower, Index step, Index first, Index last, bool works)
      : rows_{upper, lower}, step_(step), first_(first), last_(last), next_{first, first} {
    if (!works || !upper) next_[0] = last;
    if (!works || !lower) next_[1] = last;
  }
  __device__ void add(int row, Index column, const F (&sums)[V]) {
    if (column < first_ || column >= last_) return;
    if (column < next_[row]) return cuda::add<F, V>(rows_[row] + column * step_, sums);
    fill(row, column);
    store_once<F, V>(rows_[row] + column * step_, sums);
    next_[row] = column + 1;
  }
  __device__ void finish() { fill(0, last_), fill(1, last_); }

 private:
  __device__ void fill(int row, Index end) {
    const F zeros[V] = {};
    for (; next_[row] < end; ++next_[row]) store_once<F, V>(rows_[row] + next_[row] * step_, zeros);
  }

  F* rows_[2];  // null: outside the map
  Index step_, first_, last_, next_[2];
};

// A team: a strip of a row of cells, a piece of the channels.
template <class T, int V, class Index, int kDerivative>
__global__ void __launch_bounds__(kMaxThreads, kLeastBlocks) sweep_kernel(GradSweepArguments<T, Index> a) {
  using F = Compute<T>;
  constexpr int kDots = 4 * kDerivative;
  const GradSweepShared<T, Index, kDerivative> shared(static_cast<int>(blockDim.x), a.channels.lanes,
                                                      a.batch);
  const Team team(a.channels.lanes);
  const auto& q = a.geometry;

  int rest = static_cast<int>(blockIdx.x) * static_cast<int>(blockDim.x / team.size) + team.index;
  const int piece = take(rest, a.by_pieces);
  const Index first_column = static_cast<Index>(take(rest, a.by_strips)) * a.strip;
  const Index last_column = min(first_column + a.strip, q.w);  // one past
  const std::int64_t row_of_cells = rest;
  const Index h0 = static_cast<Index>(take(rest, a.by_rows)) - 1, g = take(rest, a.by_groups);
  const std::int64_t n = rest;
  const bool has_strip = n < q.images;
  // Its cells: those whose right corners are its first column of pixels, to those whose left are its last.
  const std::int64_t cell = row_of_cells * (q.w + 1) + first_column;
  std::uint32_t begin = has_strip ? a.begins[cell] : 0;
  const std::uint32_t end = has_strip ? a.begins[cell + last_column - first_column + 1] : 0;
  const Index column_0 = (g * (q.h + 1) + h0 + 1) * q.pitch + 1;  // number of the row's cell whose w0 is 0

  const Lane<V, Index> lane(a.channels, team, piece);
  const auto row = [&](const Images<F>& to, Index h) -> F* {
    if (h < 0 || h >= q.h) return nullptr;
    return to.image(n) + (h * q.sums.h + g * q.channels + lane.first);
  };
  StripOfPixels<F, V, Index> pixels(row(a.upper, h0), row(a.lower, h0 + 1), q.sums.w, first_column,
                                    last_column, has_strip && lane.works);
  Walk<T, V, Index, kDerivative> walk(a.maps, q, has_strip ? n : 0, lane);
  const auto add_to_mine = [&](int row, Index number, Index, const F(&sums)[V]) {
    pixels.add(row, number - column_0, sums);
  };
  const int first = team.index * a.batch;
  constexpr int kTogether = Walk<T, V, Index, kDerivative>::kTogether;
  // A tap left of the strip is its neighbour's, but for the right corners.
  const auto is_mine = [&](int i) {
    return (shared.records[first + i].cell >> 4) - column_0 >= first_column || first_column == 0;
  };
  for (; __any_sync(kAllLanes, begin < end); begin += a.batch) {
    for (int i = team.rank; i < a.batch; i += team.size) {
      if (begin + i >= end) continue;
      const std::uint32_t tap = a.sorted_order[begin + i];
      const Place<Index> at = place_of(a, tap);
      fill_record(q, at, locate(q, at), q.read, shared.records[first + i]);
      shared.taps[first + i] = tap;
    }
    __syncwarp();
    const int count =
        begin < end ? static_cast<int>(min(end - begin, static_cast<std::uint32_t>(a.batch))) : 0;
    Raw<T, V> next[kTogether] = {};
#pragma unroll
    for (int t = 0; t < kTogether; ++t)
      if (t < count) walk.fetch(shared.records[first + t], next[t]);
    for (int four = 0; __any_sync(kAllLanes, four < count); four += kTogether) {
      F dots[kTogether * kDots] = {};
#pragma unroll
      for (int t = 0; t < kTogether; ++t) {
        const int i = four + t;
        if (i < count) {
          const auto& record = shared.records[first + i];
          walk.move(record, add_to_mine);
          walk.tap(record, next[t], dots + t * kDots, is_mine(i));
        }
        if (i + kTogether < count) walk.fetch(shared.records[first + i + kTogether], next[t]);
      }
      sum_over_team<kDots>(team, dots, [&]<int N>(int number, const F(&sums)[N]) {
        const int i = four + number / kDots;
        if (i < count && is_mine(i))
          store<F, N>(a.dots + (piece * a.taps + shared.taps[first + i]) * kDots + number % kDots, sums);
      });
    }
    __syncwarp();
  }
  walk.leave(add_to_mine);
  pixels.finish();
}

template <class T>
struct DeadRows {
  Array<T*> rows;  // [thread]: its tap's row of grad_grad if the tap is dead, else null
  int bytes;
  __host__ __device__ explicit DeadRows(int threads) {
    SharedCarver carver;
    rows = carver.take<T*>(threads);
    bytes = carver.used();
  }
};

// A thread: a tap's grad_offsets. Then, in the second derivative, a team: a dead tap's row.
template <class T, int V, class Index, int kDerivative>
__global__ void __launch_bounds__(kMaxThreads) sweep_finish_kernel(GradSweepArguments<T, Index> a) {
  using F = Compute<T>;
  constexpr int kDots = 4 * kDerivative;
  const auto& q = a.geometry;
  const std::int64_t tap = thread_in_grid();
  const bool has_tap = tap < a.taps;
  const Place<Index> at = place_of(a, has_tap ? tap : 0);
  const Tap<F, Index> t = locate(q, at);
  if (has_tap) {
    F dots[kDots] = {};
    for (int piece = 0; piece < a.channels.pieces; ++piece)
#pragma unroll
      for (int k = 0; k < kDots; ++k) dots[k] += a.dots[(piece * a.taps + tap) * kDots + k];
    write_grad_offsets<kDerivative>(q, at, t, dots);
  }
  if constexpr (kDerivative == 2) {
    const DeadRows<T> shared(static_cast<int>(blockDim.x));
    const int mine = static_cast<int>(threadIdx.x);
    shared.rows[mine] = nullptr;
    if (has_tap && !t.live) {
      Record<F, Index, 2> r;
      fill_record(q, at, t, q.read, r);
      shared.rows[mine] = a.maps.grad_grad.image(at.n) + r.written;
    }
    __syncthreads();
    const Team team(a.channels.lanes);
    for (int i = team.index; i < shared.rows.size; i += static_cast<int>(blockDim.x) / team.size)
      if (shared.rows[i]) zero_row<T, V, Index>(a.channels, team, shared.rows[i]);
  }
}

// ------ Launch

struct GradSweepScratch {
  StagedGradient staged;
  std::int64_t taps, cells;
  std::uint32_t *keys, *order, *sorted_keys, *sorted_order;  // [taps]
  std::uint32_t* begins;                                     // [cells + 1]
  char* sort;
  char* dots;  // [pieces][taps][4 or 8] of Compute<T>
  View upper, lower;

  GradSweepScratch(const Problem& p, Carver& carver)
      : staged(p, carver),
        taps(p.n * p.ho * p.wo * p.lanes()),
        cells(p.n * p.groups * (p.h + 1) * (p.w + 1)),
        keys(carver.take<std::uint32_t>(taps)),
        order(carver.take<std::uint32_t>(taps)),
        sorted_keys(carver.take<std::uint32_t>(taps)),
        sorted_order(carver.take<std::uint32_t>(taps)),
        begins(carver.take<std::uint32_t>(cells + 1)),
        sort(carver.take<char>(static_cast<std::int64_t>(sort_bytes(taps)))) {
    const DType sums = dtype_of_sums(p);
    // The most pieces there can be, whatever the alignment of tensors.
    const int pieces = Channels::of(p.group_channels(), 1).pieces, kinds = p.pass == Pass::grad ? 4 : 8;
    dots = carver.take<char>(pieces * taps * kinds * size_of(sums));
    const Extent e = extent_of_x(p);
    upper = lower = dense(carver.take<char>(2 * e.elements() * size_of(sums)), sums, e);
    lower.data += p.n * lower.n * size_of(sums);
  }
};

template <class T, int kDerivative>
void grad_sweep_of(const Problem& p, const GradSweepScratch& scratch) {
  using F = Compute<T>;
  const cudaStream_t stream = stream_of(p);
  const StagedViews staged = scratch.staged.pack(scratch.upper, stream);
  with_widths<kWalkWidth<T, kDerivative>>(p, staged, [&]<int V, class Index>(Vector<V>, Index) {
    GradSweepArguments<T, Index> a;
    a.geometry = geometry_of<T, Index>(p, staged);
    a.maps = walk_maps_of<T>(staged);
    a.channels = Channels::of(p.group_channels(), V);
    a.taps = scratch.taps, a.cells = scratch.cells;
    const int threads = tuning().threads, lanes = a.channels.lanes;
    const auto teams = [&](int strip) {
      return p.n * p.groups * (p.h + 1) * strips_of(p, strip) * a.channels.pieces;
    };
    a.strip = tuning().strip;
    while (a.strip > tuning().least_strip && teams(a.strip) * lanes < blocks_to_fill_device() * threads)
      a.strip = std::max(a.strip / 2, tuning().least_strip);
    const std::int64_t strips = strips_of(p, a.strip);
    a.by_pieces = Divisor(a.channels.pieces), a.by_strips = Divisor(strips), a.by_rows = Divisor(p.h + 1);
    a.by_groups = Divisor(p.groups), a.by_taps = Divisor(p.taps());
    a.by_wo = Divisor(p.wo), a.by_ho = Divisor(p.ho);
    a.keys = scratch.keys, a.order = scratch.order;
    a.sorted_keys = scratch.sorted_keys, a.sorted_order = scratch.sorted_order, a.begins = scratch.begins;
    a.dots = reinterpret_cast<F*>(scratch.dots);
    a.upper = images_of<F>(scratch.upper), a.lower = images_of<F>(scratch.lower);

    const auto bytes = [&](int batch) {
      return GradSweepShared<T, Index, kDerivative>(threads, lanes, batch).bytes;
    };
    const int room = shared_bytes_of_block();
    a.batch = std::max(lanes, tuning().least_batch);
    while (a.batch > lanes && bytes(a.batch) > room) a.batch /= 2;
    const std::size_t bytes_of_rows = kDerivative == 2 ? DeadRows<T>(threads).bytes : 0;
    const Grid a_tap_a_thread{blocks_of(a.taps, threads), threads},
        a_cell_a_thread{blocks_of(a.cells + 1, threads), threads};
    launch("sweep_keys_kernel", sweep_keys_kernel<T, Index>, a_tap_a_thread, stream, a);
    sort_pairs(scratch.sort, a.keys, a.order, scratch.sorted_keys, scratch.sorted_order, a.taps,
               static_cast<std::uint32_t>(a.cells), stream);
    launch("sweep_begins_kernel", sweep_begins_kernel<T, Index>, a_cell_a_thread, stream, a);
    launch("sweep_kernel", sweep_kernel<T, V, Index, kDerivative>,
           {blocks_of(teams(a.strip), threads / lanes), threads, static_cast<std::size_t>(bytes(a.batch))},
           stream, a);
    launch("sweep_finish_kernel", sweep_finish_kernel<T, V, Index, kDerivative>,
           {a_tap_a_thread.blocks, threads, bytes_of_rows}, stream, a);
  });
  scratch.staged.grad_grad.store(stream);
  copy(scratch.upper, scratch.lower, p.grad_x, extent_of_x(p), stream);
}

}  // namespace tapfield::cuda
