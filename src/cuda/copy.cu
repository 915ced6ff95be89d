// SPDX-License-Identifier: Apache-2.0
#include "cuda/copy.h"

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/transpose.h"

namespace tapfield::cuda {

struct RowsArguments {
  View from, added, to;
  std::int64_t pixels, channels;
  int pixels_of_block, vectors;  // vectors: of a pixel
  Divisor by_vectors;
  PixelNumbers numbers;
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
      const auto at = [&](const View& view) {
        return a.numbers.begin_of(static_cast<int>(first) + p, view) + channel;
      };
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
  a.numbers = PixelNumbers(e);
  constexpr int kV = 16 / static_cast<int>(sizeof(To));
  if (e.c % kV == 0 && aligned(from, kV) && aligned(added, kV) && aligned(to, kV))
    copy_rows_of<From, To, kV>(a, stream);
  else
    copy_rows_of<From, To, 1>(a, stream);
}

template <class From, class To>
void copy_as(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream) {
  if (from.adjacent() && to.adjacent())
    copy_rows<From, To>(from, added, to, e, stream);
  else
    transpose<From, To>(from, added, to, e, stream);
}

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
  View nothing = to;  // copy_rows takes it for zeros
  nothing.data = nullptr;
  copy(nothing, View{}, to, e, stream);
}

}  // namespace tapfield::cuda
