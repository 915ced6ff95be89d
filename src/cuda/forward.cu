// SPDX-License-Identifier: Apache-2.0
// Forward: y = the masked blend of x at every tap. A block locates a tile of taps, then its teams blend them
// in the order of y's memory. x is read where taps fall, through the caches; y is written once, past them.
#include "cuda/host.h"
#include "cuda/kernels.h"
#include "cuda/tile.h"

namespace tapfield::cuda {

template <class T, class Index>
struct ForwardArguments {
  Geometry<T, Index> geometry;
  Images<const T> x;  // [n, h, w, c]
  Images<T> y;        // out: [n, ho*kh, wo*kw, c]
  TileShape tile;
  Channels channels;
};

template <class F, class Index>
struct ForwardShared {
  Array<Record<F, Index, 1>> records;  // [tap]
  int bytes;
  __host__ __device__ explicit ForwardShared(int taps) {
    SharedCarver carver;
    records = carver.take<Record<F, Index, 1>>(taps);
    bytes = carver.used();
  }
};

template <class T, int V, class Index>
__global__ void __launch_bounds__(kMaxThreads) forward_kernel(ForwardArguments<T, Index> a) {
  using F = Compute<T>;
  const Tile<Index> tile(a.tile);
  const ForwardShared<F, Index> shared(tile.size());
  const auto visit = [&](int i, const Place<Index>& at, const Offsets<T>& offsets) {
    fill_record(a.geometry, at, locate(a.geometry, at, offsets), a.geometry.written, shared.records[i]);
  };
  for_each_tap(a.geometry, tile, visit, [&](int i) { shared.records[i].cell = kAbsent; });
  __syncthreads();

  const Team team(a.channels.lanes);
  const int teams = static_cast<int>(blockDim.x) / team.size;
  for (int piece = 0; piece < a.channels.pieces; ++piece) {
    const Lane<V, Index> lane(a.channels, team, piece);
    if (!lane.works) continue;
    const T* x = settled(a.x.image(tile.first.n) + lane.first);
    T* y = settled(a.y.image(tile.first.n) + lane.first);
    for (int i = team.index; i < tile.size(); i += teams) {
      const auto& record = shared.records[i];
      const auto tap = load_whole<Addresses<Index>>(record);
      if (tap.cell == kAbsent) continue;
      F v[4][V], weight[4], sum[V] = {};
      load<F, 4>(record.weight, weight);
      const Index across = odd_of(tap.cell >> 4) ? -a.geometry.x.w : a.geometry.x.w;
#pragma unroll
      for (int k = 0; k < 4; ++k)
        load_if<T, V>(tap.cell >> k & 1, x + (tap.x + k / 2 * a.geometry.x.h + k % 2 * across), v[k]);
#pragma unroll
      for (int k = 0; k < 4; ++k) add_scaled(sum, weight[k], v[k]);
      store_once<T, V>(y + tap.sample, sum);
    }
  }
}

struct ForwardScratch {
  Staged x, y;
  ForwardScratch(const Problem& p, Carver& carver)
      : x(p.x, extent_of_x(p), carver), y(p.y, extent_of_y(p), carver) {}
};

template <class T>
void forward_of(const Problem& p, const ForwardScratch& scratch) {
  const cudaStream_t stream = stream_of(p);
  scratch.x.pack(stream);
  const StagedViews staged{.x = scratch.x.view, .written = scratch.y.view};
  with_widths<kWidth<T, 8>>(p, staged, [&]<int V, class Index>(Vector<V>, Index) {
    ForwardArguments<T, Index> a;
    a.geometry = geometry_of<T, Index>(p, staged);
    a.x = images_of<const T>(staged.x), a.y = images_of<T>(staged.written);
    const int most = std::min(
        tuning().tile_taps, shared_bytes_of_block() / static_cast<int>(sizeof(Record<Compute<T>, Index, 1>)));
    a.tile =
        shape_tile(p, p.n, most, tuning().write_bytes, tuning().least_forward_taps, blocks_to_fill_device());
    a.channels = Channels::of(p.group_channels(), V);
    const std::size_t shared = ForwardShared<Compute<T>, Index>(a.tile.size()).bytes;
    launch("forward_kernel", forward_kernel<T, V, Index>, {a.tile.count(p.n), tuning().threads, shared},
           stream, a);
  });
  scratch.y.store(stream);
}

std::size_t forward_workspace(const Problem& p) { return scratch_bytes<ForwardScratch>(p); }

void forward(const Problem& p, void* workspace) {
  for_each_slice<ForwardScratch>(p, workspace, [](const Problem& q, const ForwardScratch& scratch) {
    with_type(q, [&]<class T>(T) { forward_of<T>(q, scratch); });
  });
}

}  // namespace tapfield::cuda
