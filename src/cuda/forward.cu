// SPDX-License-Identifier: Apache-2.0
// Forward: y = the masked blend of x at every tap. A block locates a tile of taps, then its teams blend them
// in the order of y's memory. x is read where taps fall, through the caches; y is written once, past them.
#include "cuda/host.h"
#include "cuda/kernels.h"
#include "cuda/tile.h"

namespace tapfield::cuda {
namespace {

template <class T, class Index>
struct ForwardArguments {
  Geometry<T, Index> geometry;
  Map<const T, Index> x;  // [n, h, w, c]
  Images<T> y;            // out: [n, ho*kh, wo*kw, c]
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
  tile.fill(a.geometry, shared.records);
  __syncthreads();

  const Team team(a.channels.lanes);
  const auto x = a.x.image(tile.first.n);
  T* y = a.y.image(tile.first.n);
  for (int i = team.index; i < tile.size(); i += static_cast<int>(blockDim.x) / team.size) {
    const auto& tap = shared.records[i];
    if (tap.state == State::absent) continue;
    const bool live = tap.state == State::live;
    for (int piece = 0; piece < a.channels.pieces; ++piece) {
      const Lane<V, Index> lane(a.channels, team, piece);
      if (!lane.works) continue;
      F sum[V] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Index h = tap.h0 + k / 2, w = tap.w0 + k % 2;
        F v[V] = {};
        if (live && h >= 0 && h < a.geometry.h && w >= 0 && w < a.geometry.w)
          load<T, V>(x.at(h, w, tap.channel + lane.first), v);
        const F weight = live ? tap.weight[k] : F(0);
#pragma unroll
        for (int e = 0; e < V; ++e) sum[e] += weight * v[e];
      }
      store_once<T, V>(y + tap.written + lane.first, sum);
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
  const View &x = scratch.x.view, &y = scratch.y.view;
  constexpr int kV = kWidth<T, 8>;
  with_widths<kV>(
      aligned(p, {x, y}, kV), fit_32_bits(p, {x}, {y}), [&]<int V, class Index>(Vector<V>, Index) {
        ForwardArguments<T, Index> a;
        a.geometry = geometry_of<T, Index>(p, View{}, y);
        a.x = map_of<const T, Index>(x), a.y = images_of<T>(y);
        const int most =
            std::min(tuning().tile_taps,
                     tuning().shared_bytes / static_cast<int>(sizeof(Record<Compute<T>, Index, 1>)));
        a.tile = shape_tile(p, p.n, most, tuning().write_bytes, blocks_to_fill_device());
        a.channels = Channels::of(p.group_channels(), V);
        const std::size_t shared = ForwardShared<Compute<T>, Index>(a.tile.size()).bytes;
        launch("forward_kernel", forward_kernel<T, V, Index>, {a.tile.count(p.n), tuning().threads, shared},
               stream, a);
      });
  scratch.y.store(stream);
}

}  // namespace

std::size_t forward_workspace(const Problem& p) { return scratch_bytes<ForwardScratch>(p); }

void forward(const Problem& p, void* workspace) {
  for_each_slice<ForwardScratch>(p, workspace, [](const Problem& q, const ForwardScratch& scratch) {
    with_type(q, [&]<class T>(T) { forward_of<T>(q, scratch); });
  });
}

}  // namespace tapfield::cuda
