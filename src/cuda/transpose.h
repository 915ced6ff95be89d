// SPDX-License-Identifier: Apache-2.0
// copy.h's copies where one tensor's channels are not adjacent: read along the axis in which `from` is
// adjacent, written along that of `to`, by way of shared memory. As a rule the other's planes are dense
// (NCHW), and both sides move 16 bytes at a time; else squares are copied by the element.
#pragma once

#include <algorithm>

#include "cuda/copy.h"
#include "cuda/device.h"
#include "cuda/launch.h"

namespace tapfield::cuda {

// Pixels numbered over all images: where one begins.
class PixelNumbers {
 public:
  PixelNumbers() = default;
  explicit PixelNumbers(const Extent& e) : by_w_(e.w), by_h_(e.h) {}
  __device__ std::int64_t begin_of(int pixel, const View& v) const {
    const int row = by_w_.quotient(pixel), n = by_h_.quotient(row);
    return n * v.n + by_h_.remainder(row, n) * v.h + by_w_.remainder(pixel, row) * v.w;
  }

 private:
  Divisor by_w_, by_h_;
};

// ------ Planes: one side dense planes, the other adjacent channels, of one dtype

constexpr int kPlanePixels = 64, kPlaneBytes = 128;  // of a block: pixels, and bytes of a pixel's channels

struct PlanesArguments {
  View planes, rows;           // [n, h, w, c]; planes: w is 1, h is the width; rows: c is 1
  int plane, width, channels;  // plane: pixels of one
  Divisor by_plane_tiles, by_channel_tiles, by_width;
};

// Elements as raw bits.
template <int kBytes>
using Bits = std::conditional_t<kBytes == 2, unsigned short,
                                std::conditional_t<kBytes == 4, unsigned, unsigned long long>>;

template <class E>
struct PlanesShared {
  static constexpr int kChannels = kPlaneBytes / static_cast<int>(sizeof(E));
  static constexpr int kPitch = kPlanePixels + (sizeof(E) == 2 ? 2 : 1);  // no bank is hit often either way
  Array<E> square;                                                        // [channel][kPitch]
  int bytes;
  __host__ __device__ PlanesShared() {
    SharedCarver carver;
    square = carver.take<E>(kChannels * kPitch);
    bytes = carver.used();
  }
};

// kPack: from planes to rows; else back. E: elements' bits.
template <class E, bool kPack>
__global__ void __launch_bounds__(kMaxThreads) copy_planes_kernel(PlanesArguments a) {
  constexpr int kV = 16 / static_cast<int>(sizeof(E)), kChannels = PlanesShared<E>::kChannels,
                kPitch = PlanesShared<E>::kPitch;
  constexpr int kAlongPixels = kPlanePixels / kV, kAlongChannels = kChannels / kV;  // vectors
  constexpr int kVectors = kPlanePixels * kAlongChannels;
  const PlanesShared<E> shared;
  int rest = static_cast<int>(blockIdx.x);
  const int first_channel = take(rest, a.by_channel_tiles) * kChannels,
            first_pixel = take(rest, a.by_plane_tiles) * kPlanePixels;
  const std::int64_t n = rest;
  const int step = static_cast<int>(blockDim.x);

  // Vector v of the tile, which lies along pixels in the planes, along channels in the rows: its first
  // element, and whether there is one; where it is; and where its element i is in the square.
  const auto place = [&](bool planes, int v, int& channel, int& pixel) {
    channel = planes ? v / kAlongPixels : v % kAlongChannels * kV;
    pixel = planes ? v % kAlongPixels * kV : v / kAlongChannels;
    return v < kVectors && first_channel + channel < a.channels && first_pixel + pixel < a.plane;
  };
  const auto at = [&](bool planes, int channel, int pixel) {
    const int c = first_channel + channel, p = first_pixel + pixel;
    const int h = a.by_width.quotient(p), w = a.by_width.remainder(p, h);
    const View& view = planes ? a.planes : a.rows;
    return reinterpret_cast<uint4*>(reinterpret_cast<E*>(view.data) + n * view.n +
                                    (planes ? c * view.c + p : h * view.h + w * view.w + c));
  };
  const auto slot = [&](bool planes, int channel, int pixel, int i) -> E& {
    return shared.square[planes ? channel * kPitch + pixel + i : (channel + i) * kPitch + pixel];
  };

  int channel, pixel;
  for (int begin = static_cast<int>(threadIdx.x); begin < kVectors; begin += kAtATime * step) {
    uint4 v[kAtATime];
#pragma unroll
    for (int t = 0; t < kAtATime; ++t) {
      v[t] = {};
      if (place(kPack, begin + t * step, channel, pixel)) v[t] = __ldcs(at(kPack, channel, pixel));
    }
#pragma unroll
    for (int t = 0; t < kAtATime; ++t) {
      if (!place(kPack, begin + t * step, channel, pixel)) continue;
      E e[kV];
      memcpy(e, &v[t], sizeof e);
#pragma unroll
      for (int i = 0; i < kV; ++i) slot(kPack, channel, pixel, i) = e[i];
    }
  }
  __syncthreads();
#pragma unroll 2
  for (int v = static_cast<int>(threadIdx.x); v < kVectors; v += step) {
    if (!place(!kPack, v, channel, pixel)) continue;
    E e[kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) e[i] = slot(!kPack, channel, pixel, i);
    uint4 raw;
    memcpy(&raw, e, sizeof raw);
    __stcs(at(!kPack, channel, pixel), raw);
  }
}

// Can it be copied so?
inline bool are_planes(const View& planes, const View& rows, const Extent& e) {
  const int v = static_cast<int>(16 / size_of(planes.dtype));
  const std::int64_t plane = e.h * e.w;
  return planes.dtype == rows.dtype && rows.adjacent() && aligned(rows, v) && planes.w == 1 &&
         planes.h == e.w && reinterpret_cast<std::uintptr_t>(planes.data) % 16 == 0 && planes.n % v == 0 &&
         planes.c % v == 0 && plane % v == 0 && e.c % v == 0 && plane < (std::int64_t{1} << 30) &&
         e.c < (std::int64_t{1} << 30);
}

template <class E, bool kPack>
void copy_planes(const View& planes, const View& rows, const Extent& e, cudaStream_t stream) {
  PlanesArguments a{};
  a.planes = planes, a.rows = rows;
  a.plane = static_cast<int>(e.h * e.w), a.width = static_cast<int>(e.w), a.channels = static_cast<int>(e.c);
  const std::int64_t plane_tiles = blocks_of(a.plane, kPlanePixels),
                     channel_tiles = blocks_of(e.c, PlanesShared<E>::kChannels);
  a.by_plane_tiles = Divisor(plane_tiles), a.by_channel_tiles = Divisor(channel_tiles),
  a.by_width = Divisor(e.w);
  launch("copy_planes_kernel", copy_planes_kernel<E, kPack>,
         {e.n * plane_tiles * channel_tiles, tuning().threads,
          static_cast<std::size_t>(PlanesShared<E>().bytes)},
         stream, a);
}

// ------ Squares, of any strides

constexpr int kSide = 32;  // pixels, and channels, of a block

struct SquaresArguments {
  View from, added, to;
  std::int64_t pixels, channels;
  Divisor by_across;  // squares of a pixel's channels
  PixelNumbers numbers;
  bool from_by_pixels;  // lanes of a warp read along pixels and write along channels; else vice versa
};

template <class Sum>
struct SquareShared {
  Array<std::int64_t> from, added, to;  // [pixel]: where it begins
  Array<Sum> square;                    // [pixel][channel], rows of one more: no bank is hit twice either way
  int bytes;
  __host__ __device__ SquareShared() {
    SharedCarver carver;
    from = carver.take<std::int64_t>(kSide), added = carver.take<std::int64_t>(kSide);
    to = carver.take<std::int64_t>(kSide), square = carver.take<Sum>(kSide * (kSide + 1));
    bytes = carver.used();
  }
};

template <class From, class To>
__global__ void __launch_bounds__(kMaxThreads) copy_squares_kernel(SquaresArguments a) {
  using Sum = Compute<From>;
  const SquareShared<Sum> shared;
  const int block = static_cast<int>(blockIdx.x), down = a.by_across.quotient(block);
  const std::int64_t first_pixel = std::int64_t{down} * kSide,
                     first_channel = std::int64_t{a.by_across.remainder(block, down)} * kSide;
  const int pixels = static_cast<int>(min(a.pixels - first_pixel, std::int64_t{kSide}));
  const int channels = static_cast<int>(min(a.channels - first_channel, std::int64_t{kSide}));
  const int lane = static_cast<int>(threadIdx.x) % kSide, warp = static_cast<int>(threadIdx.x) / kSide,
            warps = static_cast<int>(blockDim.x) / kSide;

  if (warp == 0) {
    const int pixel = static_cast<int>(first_pixel) + min(lane, pixels - 1);
    const auto begin = [&](const View& v) { return a.numbers.begin_of(pixel, v) + first_channel * v.c; };
    shared.from[lane] = begin(a.from), shared.added[lane] = begin(a.added), shared.to[lane] = begin(a.to);
  }
  __syncthreads();

  const auto is_inside = [&](int pixel, int c) { return pixel < pixels && c < channels; };
  for (int line = warp; line < kSide; line += kAtATime * warps) {
    Sum v[kAtATime][1];
    const auto read = [&](int t, const View& from, const Array<std::int64_t>& begins, Sum(&to)[1]) {
      const int i = line + t * warps, pixel = a.from_by_pixels ? lane : i, c = a.from_by_pixels ? i : lane;
      const bool inside = is_inside(pixel, c);
      const std::int64_t at = begins[inside ? pixel : 0] + c * from.c;
      load_if<From, 1>(inside, reinterpret_cast<const From*>(from.data) + at, to);
    };
#pragma unroll
    for (int t = 0; t < kAtATime; ++t) read(t, a.from, shared.from, v[t]);
    if (a.added.data) {
      Sum added[kAtATime][1];
#pragma unroll
      for (int t = 0; t < kAtATime; ++t) read(t, a.added, shared.added, added[t]);
#pragma unroll
      for (int t = 0; t < kAtATime; ++t) v[t][0] += added[t][0];
    }
#pragma unroll
    for (int t = 0; t < kAtATime; ++t) {
      const int i = line + t * warps, pixel = a.from_by_pixels ? lane : i, c = a.from_by_pixels ? i : lane;
      if (is_inside(pixel, c)) shared.square[pixel * (kSide + 1) + c] = v[t][0];
    }
  }
  __syncthreads();
#pragma unroll 4
  for (int i = warp; i < kSide; i += warps) {
    const int pixel = a.from_by_pixels ? i : lane, c = a.from_by_pixels ? lane : i;
    if (is_inside(pixel, c))
      reinterpret_cast<To*>(a.to.data)[shared.to[pixel] + c * a.to.c] =
          narrow<To>(shared.square[pixel * (kSide + 1) + c]);
  }
}

template <class From, class To>
void copy_squares(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream) {
  SquaresArguments a{};
  a.from = from, a.added = added, a.to = to;
  a.pixels = e.n * e.h * e.w, a.channels = e.c;
  const std::int64_t across = blocks_of(e.c, kSide);
  a.by_across = Divisor(across), a.numbers = PixelNumbers(e);
  a.from_by_pixels = !from.adjacent();
  launch("copy_squares_kernel", copy_squares_kernel<From, To>,
         {blocks_of(a.pixels, kSide) * across, tuning().threads,
          static_cast<std::size_t>(SquareShared<Compute<From>>().bytes)},
         stream, a);
}

template <class From, class To>
void transpose(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream) {
  using E = Bits<static_cast<int>(sizeof(To))>;
  if (!added.data && are_planes(from, to, e)) return copy_planes<E, true>(from, to, e, stream);
  if (!added.data && are_planes(to, from, e)) return copy_planes<E, false>(to, from, e, stream);
  copy_squares<From, To>(from, added, to, e, stream);
}

}  // namespace tapfield::cuda
