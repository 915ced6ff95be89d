// SPDX-License-Identifier: Apache-2.0
#include "cuda/copy.h"

#include "cuda/device.h"
#include "cuda/host.h"
#include "cuda/launch.h"

namespace tapfield::cuda {
namespace {

constexpr int kAtATime = 4;  // loads of a thread that are under way together

// ------ Between tensors whose channels are adjacent

struct RowsArguments {
  View from, added, to;
  std::int64_t pixels, channels;
  int pixels_of_block, vectors;  // vectors: of a pixel
  Divisor by_vectors, by_w, by_h;
};

// A block: some pixels. Vectors of V.
template <class From, class To, int V>
__global__ void __launch_bounds__(kMaxThreads) copy_rows_kernel(RowsArguments a) {
  using Sum = Compute<From>;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * a.pixels_of_block;
  const int count = static_cast<int>(min(a.pixels - first, std::int64_t{a.pixels_of_block})) * a.vectors;
  const int step = static_cast<int>(blockDim.x);
  for (int begin = static_cast<int>(threadIdx.x); begin < count; begin += kAtATime * step) {
    Sum v[kAtATime][V];
    std::int64_t to[kAtATime];
#pragma unroll
    for (int t = 0; t < kAtATime; ++t) {
      const int i = begin + t * step;
      if (i >= count) continue;
      const int p = a.by_vectors.quotient(i), channel = a.by_vectors.remainder(i, p) * V;
      const int pixel = static_cast<int>(first) + p, row = a.by_w.quotient(pixel), n = a.by_h.quotient(row);
      const int h = a.by_h.remainder(row, n), w = a.by_w.remainder(pixel, row);
      const auto at = [&](const View& view) { return n * view.n + h * view.h + w * view.w + channel; };
      load_if<From, V>(a.from.data, reinterpret_cast<const From*>(a.from.data) + at(a.from), v[t]);
      if (a.added.data) {
        Sum added[V];
        load<From, V>(reinterpret_cast<const From*>(a.added.data) + at(a.added), added);
#pragma unroll
        for (int e = 0; e < V; ++e) v[t][e] += added[e];
      }
      to[t] = at(a.to);
    }
#pragma unroll
    for (int t = 0; t < kAtATime; ++t)
      if (begin + t * step < count) store_once<To, V>(reinterpret_cast<To*>(a.to.data) + to[t], v[t]);
  }
}

// Are vectors of v elements of it aligned?
bool aligned(const View& t, int v) {
  const std::int64_t bytes = std::min<std::int64_t>(v * size_of(t.dtype), 16);
  return reinterpret_cast<std::uintptr_t>(t.data) % static_cast<std::uintptr_t>(bytes) == 0 && t.n % v == 0 &&
         t.h % v == 0 && t.w % v == 0;
}

template <class From, class To, int V>
void copy_rows_of(RowsArguments a, cudaStream_t stream) {
  const int threads = tuning().threads;
  a.vectors = static_cast<int>(a.channels / V), a.by_vectors = Divisor(a.vectors);
  a.pixels_of_block = std::max(kAtATime * threads / a.vectors, 1);
  launch("copy_rows_kernel", copy_rows_kernel<From, To, V>, {blocks_of(a.pixels, a.pixels_of_block), threads},
         stream, a);
}

template <class From, class To>
void copy_rows(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream) {
  RowsArguments a{};
  a.from = from, a.added = added, a.to = to;
  a.pixels = e.n * e.h * e.w, a.channels = e.c;
  a.by_w = Divisor(e.w), a.by_h = Divisor(e.h);
  constexpr int kV = 16 / static_cast<int>(sizeof(To));
  if (e.c % kV == 0 && aligned(from, kV) && aligned(added, kV) && aligned(to, kV))
    copy_rows_of<From, To, kV>(a, stream);
  else
    copy_rows_of<From, To, 1>(a, stream);
}

// ------ Between one whose channels are adjacent and one whose columns are, as a rule

constexpr int kSide = 32;  // a block copies a square: so many pixels, so many channels

struct SquaresArguments {
  View from, added, to;
  std::int64_t pixels, channels;
  Divisor by_across, by_w, by_h;  // across: squares of a pixel's channels
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

// Reads along the axis in which `from` is adjacent, writes along that of `to`.
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

  if (warp == 0 && lane < pixels) {
    const int pixel = static_cast<int>(first_pixel) + lane, row = a.by_w.quotient(pixel);
    const int n = a.by_h.quotient(row), h = a.by_h.remainder(row, n), w = a.by_w.remainder(pixel, row);
    const auto begin = [&](const View& v) { return n * v.n + h * v.h + w * v.w + first_channel * v.c; };
    shared.from[lane] = begin(a.from), shared.added[lane] = begin(a.added), shared.to[lane] = begin(a.to);
  }
  __syncthreads();

  // Lines of 32 elements along pixels or channels, kAtATime of them together. Calls each(pixel, channel,
  // which of the lines) for this thread's elements.
  const auto for_lines = [&](int line, bool by_pixels, const auto& each) {
#pragma unroll
    for (int t = 0; t < kAtATime; ++t) {
      const int i = line + t * warps, pixel = by_pixels ? lane : i, c = by_pixels ? i : lane;
      if (pixel < pixels && c < channels) each(pixel, c, t);
    }
  };
  for (int line = warp; line < kSide; line += kAtATime * warps) {
    Sum v[kAtATime];
    for_lines(line, a.from_by_pixels, [&](int pixel, int c, int t) {
      v[t] = widen(reinterpret_cast<const From*>(a.from.data)[shared.from[pixel] + c * a.from.c]);
      if (a.added.data)
        v[t] += widen(reinterpret_cast<const From*>(a.added.data)[shared.added[pixel] + c * a.added.c]);
    });
    for_lines(line, a.from_by_pixels,
              [&](int pixel, int c, int t) { shared.square[pixel * (kSide + 1) + c] = v[t]; });
  }
  __syncthreads();
  for (int line = warp; line < kSide; line += kAtATime * warps)
    for_lines(line, !a.from_by_pixels, [&](int pixel, int c, int) {
      reinterpret_cast<To*>(a.to.data)[shared.to[pixel] + c * a.to.c] =
          narrow<To>(shared.square[pixel * (kSide + 1) + c]);
    });
}

template <class From, class To>
void copy_squares(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream) {
  SquaresArguments a{};
  a.from = from, a.added = added, a.to = to;
  a.pixels = e.n * e.h * e.w, a.channels = e.c;
  const std::int64_t across = blocks_of(e.c, kSide);
  a.by_across = Divisor(across), a.by_w = Divisor(e.w), a.by_h = Divisor(e.h);
  a.from_by_pixels = !from.adjacent();
  launch("copy_squares_kernel", copy_squares_kernel<From, To>,
         {blocks_of(a.pixels, kSide) * across, tuning().threads,
          static_cast<std::size_t>(SquareShared<Compute<From>>().bytes)},
         stream, a);
}

template <class From, class To>
void copy_as(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream) {
  if (from.adjacent() && to.adjacent())
    copy_rows<From, To>(from, added, to, e, stream);
  else
    copy_squares<From, To>(from, added, to, e, stream);
}

}  // namespace

View dense(void* data, DType dtype, const Extent& e) {
  View v;
  v.data = static_cast<char*>(data), v.dtype = dtype;
  v.c = 1, v.w = e.c, v.h = e.w * v.w, v.n = e.h * v.h;
  return v;
}

void copy(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream) {
  const auto pair = [](DType f, DType t) constexpr { return static_cast<int>(f) * 4 + static_cast<int>(t); };
  switch (pair(from.dtype, to.dtype)) {
    case pair(DType::float16, DType::float16): return copy_as<__half, __half>(from, added, to, e, stream);
    case pair(DType::bfloat16, DType::bfloat16):
      return copy_as<__nv_bfloat16, __nv_bfloat16>(from, added, to, e, stream);
    case pair(DType::float32, DType::float32): return copy_as<float, float>(from, added, to, e, stream);
    case pair(DType::float64, DType::float64): return copy_as<double, double>(from, added, to, e, stream);
    case pair(DType::float32, DType::float16): return copy_as<float, __half>(from, added, to, e, stream);
    case pair(DType::float32, DType::bfloat16):
      return copy_as<float, __nv_bfloat16>(from, added, to, e, stream);
    default: throw Error("copy between these dtypes", cudaErrorInvalidValue);
  }
}

void zero(const View& to, const Extent& e, cudaStream_t stream) {
  const View all = dense(to.data, to.dtype, e);
  if (to.n == all.n && to.h == all.h && to.w == all.w)
    return check(
        cudaMemsetAsync(to.data, 0, static_cast<std::size_t>(e.elements() * size_of(to.dtype)), stream),
        "cudaMemsetAsync");
  View nothing = to;
  nothing.data = nullptr;
  copy(nothing, View{}, to, e, stream);
}

}  // namespace tapfield::cuda
