// SPDX-License-Identifier: Apache-2.0
#include "cuda/copy.h"

#include "cuda/device.h"
#include "cuda/launch.h"

namespace tapfield::cuda {
namespace {

constexpr int kSide = 32;  // a block copies a square: so many pixels, so many channels

struct CopyArguments {
  View from, added, to;
  Extent e;
  bool from_by_pixels, to_by_pixels;  // lanes of a warp lie along pixels; else along channels
};

template <class Sum>
struct CopyShared {
  Array<std::int64_t> from, added, to;  // [pixel]: where it begins
  Array<Sum> square;                    // [pixel][channel], rows of one more: no bank is hit twice either way
  int bytes;
  __host__ __device__ CopyShared() {
    SharedCarver carver;
    from = carver.take<std::int64_t>(kSide), added = carver.take<std::int64_t>(kSide);
    to = carver.take<std::int64_t>(kSide), square = carver.take<Sum>(kSide * (kSide + 1));
    bytes = carver.used();
  }
};

// Reads along the axis in which `from` is adjacent, writes along that of `to`.
template <class From, class To>
__global__ void __launch_bounds__(kMaxThreads) copy_kernel(CopyArguments a) {
  using Sum = Compute<From>;
  const CopyShared<Sum> shared;
  const std::int64_t across = (a.e.c + kSide - 1) / kSide;
  const std::int64_t first_pixel = blockIdx.x / across * kSide, first_channel = blockIdx.x % across * kSide;
  const int pixels = static_cast<int>(min(a.e.n * a.e.h * a.e.w - first_pixel, std::int64_t{kSide}));
  const int channels = static_cast<int>(min(a.e.c - first_channel, std::int64_t{kSide}));
  const int lane = static_cast<int>(threadIdx.x) % kSide, warp = static_cast<int>(threadIdx.x) / kSide,
            warps = static_cast<int>(blockDim.x) / kSide;

  if (warp == 0 && lane < pixels) {
    const std::int64_t pixel = first_pixel + lane, row = pixel / a.e.w;
    const std::int64_t n = row / a.e.h, h = row % a.e.h, w = pixel % a.e.w;
    const auto begin = [&](const View& v) { return n * v.n + h * v.h + w * v.w + first_channel * v.c; };
    shared.from[lane] = begin(a.from), shared.added[lane] = begin(a.added), shared.to[lane] = begin(a.to);
  }
  __syncthreads();

  const auto read = [&](int pixel, int c) {
    if (!a.from.data) return Sum(0);
    Sum v = widen(reinterpret_cast<const From*>(a.from.data)[shared.from[pixel] + c * a.from.c]);
    if (a.added.data)
      v += widen(reinterpret_cast<const From*>(a.added.data)[shared.added[pixel] + c * a.added.c]);
    return v;
  };
  const auto write = [&](int pixel, int c, Sum v) {
    reinterpret_cast<To*>(a.to.data)[shared.to[pixel] + c * a.to.c] = narrow<To>(v);
  };
  // Calls visit(pixel, channel) for this thread's elements.
  const auto for_each = [&](bool by_pixels, const auto& visit) {
    for (int i = warp; i < kSide; i += warps) {
      const int pixel = by_pixels ? lane : i, c = by_pixels ? i : lane;
      if (pixel < pixels && c < channels) visit(pixel, c);
    }
  };
  if (a.from_by_pixels == a.to_by_pixels)
    return for_each(a.to_by_pixels, [&](int pixel, int c) { write(pixel, c, read(pixel, c)); });
  for_each(a.from_by_pixels,
           [&](int pixel, int c) { shared.square[pixel * (kSide + 1) + c] = read(pixel, c); });
  __syncthreads();
  for_each(a.to_by_pixels,
           [&](int pixel, int c) { write(pixel, c, shared.square[pixel * (kSide + 1) + c]); });
}

template <class From, class To>
void copy_as(const CopyArguments& a, cudaStream_t stream) {
  const std::int64_t squares = blocks_of(a.e.n * a.e.h * a.e.w, kSide) * blocks_of(a.e.c, kSide);
  launch("copy_kernel", copy_kernel<From, To>,
         {squares, tuning().threads, static_cast<std::size_t>(CopyShared<Compute<From>>().bytes)}, stream, a);
}

}  // namespace

View dense(void* data, DType dtype, const Extent& e) {
  View v;
  v.data = static_cast<char*>(data), v.dtype = dtype;
  v.c = 1, v.w = e.c, v.h = e.w * v.w, v.n = e.h * v.h;
  return v;
}

void copy(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream) {
  const CopyArguments a{from, added, to, e, !from.adjacent(), !to.adjacent()};
  const auto pair = [](DType f, DType t) constexpr { return static_cast<int>(f) * 4 + static_cast<int>(t); };
  switch (pair(from.dtype, to.dtype)) {
    case pair(DType::float16, DType::float16): return copy_as<__half, __half>(a, stream);
    case pair(DType::bfloat16, DType::bfloat16): return copy_as<__nv_bfloat16, __nv_bfloat16>(a, stream);
    case pair(DType::float32, DType::float32): return copy_as<float, float>(a, stream);
    case pair(DType::float64, DType::float64): return copy_as<double, double>(a, stream);
    case pair(DType::float32, DType::float16): return copy_as<float, __half>(a, stream);
    case pair(DType::float32, DType::bfloat16): return copy_as<float, __nv_bfloat16>(a, stream);
    default: throw Error("copy between these dtypes", cudaErrorInvalidValue);
  }
}

void zero(const View& to, const Extent& e, cudaStream_t stream) {
  View nothing = to;
  nothing.data = nullptr;
  copy(nothing, View{}, to, e, stream);
}

}  // namespace tapfield::cuda
