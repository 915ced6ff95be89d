// SPDX-License-Identifier: Apache-2.0
// What kernels are made of: elements and vectors of any dtype, shared memory, teams of lanes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cassert>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/tuning.h"
#include "problem.h"

namespace tapfield::cuda {

// ------ Elements: computed in float, double in double

template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline float widen(__half v) { return __half2float(v); }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }

// Rounds to nearest even.
template <class T>
__device__ T narrow(Compute<T> v) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(v);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(v);
  else
    return v;
}

// An element as it is in memory, of T or of Compute<T>: what is loaded is under way until it is converted.
template <class T>
using Loaded = std::conditional_t<std::is_same_v<T, double>, double, unsigned>;

// Calls load(p), p being `data` as a pointer to such elements' bits.
template <class T, class Load>
__device__ void with_raw(const void* data, bool wide, const Load& load) {
  if constexpr (std::is_same_v<T, double>)
    load(static_cast<const double*>(data));
  else if (sizeof(T) == 4 || wide)
    load(static_cast<const unsigned*>(data));
  else
    load(static_cast<const unsigned short*>(data));
}
template <class T>
__device__ Compute<T> converted(Loaded<T> raw, bool wide) {
  if constexpr (std::is_same_v<T, double>) {
    return raw;
  } else {
    if (sizeof(T) == 4 || wide) return __uint_as_float(raw);
    T v;
    memcpy(&v, &raw, sizeof v);  // its lower bytes
    return widen(v);
  }
}

// Loads of a thread that are under way together, where it has several things to do.
constexpr int kAtATime = 4;

// ------ Vectors: V elements side by side, aligned to their size

template <int kBytes>
struct RawOf;
template <>
struct RawOf<16> {
  using type = uint4;
};
template <>
struct RawOf<8> {
  using type = uint2;
};
template <>
struct RawOf<4> {
  using type = unsigned;
};
template <>
struct RawOf<2> {
  using type = unsigned short;
};
template <class T, int V>
using Raw = typename RawOf<static_cast<int>(sizeof(T)) * V>::type;

// Elements of one access, of V.
template <class T, int V>
inline constexpr int kAtOnce = static_cast<int>(sizeof(T)) * V > 16 ? 16 / static_cast<int>(sizeof(T)) : V;

// By value: of a reference into global memory, memcpy would become a load for each byte.
template <class T, int V>
__device__ void unpack(Raw<T, V> raw, Compute<T> (&out)[V]) {
  if constexpr (std::is_same_v<T, __nv_bfloat16> && V % 2 == 0) {
    unsigned pairs[V / 2];  // a bfloat16 is the upper half of a float: one instruction each
    memcpy(pairs, &raw, sizeof raw);
#pragma unroll
    for (int i = 0; i < V / 2; ++i)
      out[2 * i] = __uint_as_float(pairs[i] << 16), out[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  } else {
    T e[V];
    memcpy(e, &raw, sizeof raw);
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = widen(e[i]);
  }
}

// A struct aligned to 16 bytes, by so many at a time even if some of its members are not wanted in the end.
template <class E>
__device__ E load_whole(const E& from) {
  static_assert(alignof(E) >= 16);
  E to;
  uint4 raw[sizeof(E) / 16];
#pragma unroll
  for (std::size_t i = 0; i < sizeof(E) / 16; ++i) raw[i] = reinterpret_cast<const uint4*>(&from)[i];
  memcpy(&to, raw, sizeof to);
  return to;
}

template <class E>
__device__ void store_whole(E& to, const E& from) {
  uint4 raw[sizeof(E) / 16];
  memcpy(raw, &from, sizeof from);
#pragma unroll
  for (std::size_t i = 0; i < sizeof(E) / 16; ++i) reinterpret_cast<uint4*>(&to)[i] = raw[i];
}

// For what is read again, such as x.
template <class T, int V>
__device__ void load(const T* p, Compute<T> (&out)[V]) {
  constexpr int kPart = kAtOnce<T, V>;
#pragma unroll
  for (int at = 0; at < V; at += kPart) {
    Compute<T> part[kPart];
    unpack<T, kPart>(*reinterpret_cast<const Raw<T, kPart>*>(p + at), part);
#pragma unroll
    for (int i = 0; i < kPart; ++i) out[at + i] = part[i];
  }
}

// The same, or zeros, without a branch: several are under way at once.
template <class T, int V>
__device__ void load_if(bool reads, const T* p, Compute<T> (&out)[V]) {
  constexpr int kPart = kAtOnce<T, V>;
#pragma unroll
  for (int at = 0; at < V; at += kPart) {
    Raw<T, kPart> raw{};
    if (reads) raw = *reinterpret_cast<const Raw<T, kPart>*>(p + at);
    Compute<T> part[kPart];
    unpack<T, kPart>(raw, part);
#pragma unroll
    for (int i = 0; i < kPart; ++i) out[at + i] = part[i];
  }
}

// Calls put(vector, bits) for each access.
template <class T, int V, class Put>
__device__ void store_by(T* p, const Compute<T> (&v)[V], const Put& put) {
  constexpr int kPart = kAtOnce<T, V>;
#pragma unroll
  for (int at = 0; at < V; at += kPart) {
    T e[kPart];
#pragma unroll
    for (int i = 0; i < kPart; ++i) e[i] = narrow<T>(v[at + i]);
    Raw<T, kPart> raw;
    memcpy(&raw, e, sizeof raw);
    put(reinterpret_cast<Raw<T, kPart>*>(p + at), raw);
  }
}
template <class T, int V>
__device__ void store(T* p, const Compute<T> (&v)[V]) {
  store_by<T, V>(p, v, [](auto* to, auto raw) { *to = raw; });
}
// Past the caches: for what is not read again soon.
template <class T, int V>
__device__ void store_once(T* p, const Compute<T> (&v)[V]) {
  store_by<T, V>(p, v, [](auto* to, auto raw) { __stcs(to, raw); });
}

// ------ Multiply-adds: two in one instruction from sm_100 on

#if __CUDA_ARCH__ >= 1000
constexpr bool kInPairs = true;
#else
constexpr bool kInPairs = false;
#endif

// sums[i] += factor * v[i]
template <class F, int V>
__device__ void add_scaled(F (&sums)[V], F factor, const F (&v)[V]) {
  if constexpr (kInPairs && std::is_same_v<F, float> && V % 2 == 0) {
#pragma unroll
    for (int i = 0; i < V; i += 2) {
      const float2 sum = __ffma2_rn(make_float2(factor, factor), make_float2(v[i], v[i + 1]),
                                    make_float2(sums[i], sums[i + 1]));
      sums[i] = sum.x, sums[i + 1] = sum.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) sums[i] += factor * v[i];
  }
}

// The sum of a[i] * b[i].
template <class F, int V>
__device__ F dot(const F (&a)[V], const F (&b)[V]) {
  F sum = 0;
  if constexpr (kInPairs && std::is_same_v<F, float> && V % 2 == 0) {
    float2 pair = make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < V; i += 2)
      pair = __ffma2_rn(make_float2(a[i], a[i + 1]), make_float2(b[i], b[i + 1]), pair);
    sum = pair.x + pair.y;
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) sum += a[i] * b[i];
  }
  return sum;
}

// p[i] += v[i], whoever else adds there. By 16 bytes at a time from sm_90 on.
template <class F, int V>
__device__ void add_atomically(F* p, const F (&v)[V]) {
#if __CUDA_ARCH__ >= 900
  constexpr bool kByFour = std::is_same_v<F, float> && V % 4 == 0;
#else
  constexpr bool kByFour = false;
#endif
  if constexpr (kByFour) {
#pragma unroll
    for (int i = 0; i < V; i += 4)
      atomicAdd(reinterpret_cast<float4*>(p + i), make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) atomicAdd(p + i, v[i]);
  }
}

// p[i] += v[i], where nobody else does.
template <class F, int V>
__device__ void add(F* p, const F (&v)[V]) {
  F sum[V];
  load<F, V>(p, sum);
#pragma unroll
  for (int i = 0; i < V; ++i) sum[i] += v[i];
  store_once<F, V>(p, sum);
}

// A pointer that the compiler shall keep in registers: an index is then added to it in one instruction, where
// it would add it to the parts that the pointer is the sum of, in four.
template <class E>
__device__ E* settled(E* p) {
#if defined(__CUDA_ARCH__) && defined(__CUDACC__)
  std::size_t address = __cvta_generic_to_global(p);  // and it shall still know that this is global memory
  asm("" : "+l"(address));
  return static_cast<E*>(__cvta_global_to_generic(address));
#else
  return p;
#endif
}

// ------ Division

// Division by a number that the host knows, for numerators below 2^31.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(std::int64_t d) : d_(static_cast<unsigned>(d)) {
    while ((1ull << shift_) < d_) ++shift_;
    factor_ = static_cast<unsigned>(((1ull << 32) * ((1ull << shift_) - d_)) / d_ + 1);
  }
  __device__ int quotient(int n) const {
    return static_cast<int>((__umulhi(static_cast<unsigned>(n), factor_) + static_cast<unsigned>(n)) >>
                            shift_);
  }
  __device__ int remainder(int n, int quotient) const { return n - quotient * static_cast<int>(d_); }

 private:
  unsigned d_ = 1, factor_ = 1, shift_ = 0;
};

// i becomes i / d; its remainder.
__device__ inline int take(int& i, const Divisor& d) {
  const int all = i;
  i = d.quotient(all);
  return d.remainder(all, i);
}

// ------ Shared memory

template <class E>
struct Array {
  E* data;
  int size;
  __device__ E& operator[](int i) const {
    assert(i >= 0 && i < size);
    return data[i];
  }
};

extern __shared__ __align__(16) unsigned char shared_block[];

// Cuts arrays off a block's dynamic shared memory. The host measures with the same calls.
class SharedCarver {
 public:
  template <class E>
  __host__ __device__ Array<E> take(int size) {
    const int at = used_;
    used_ += (size * static_cast<int>(sizeof(E)) + 15) / 16 * 16;
#if defined(__CUDA_ARCH__)
    return {reinterpret_cast<E*>(shared_block + at), size};
#else
    return (void)at, Array<E>{nullptr, size};
#endif
  }
  __host__ __device__ int used() const { return used_; }

 private:
  int used_ = 0;
};

// ------ Teams: 2^k neighbouring lanes of a warp that share a tap, each with its own channels

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Team {
  int size, index, rank;  // lanes; number in the block; this lane's number in it
  __device__ explicit Team(int size_)
      : size(size_),
        index(static_cast<int>(threadIdx.x) / size_),
        rank(static_cast<int>(threadIdx.x) % size_) {}
};

// Sums each of K values over kLanes lanes. Calls deliver(number, sums) in one of them for each run of at most
// kTogether sums: an array of a power of two, the first of which has that number. While lanes last, a lane
// hands half of its values to its partner and keeps the sum of the others: 16 values over 32 lanes take 16
// shuffles, not 80. All lanes of the warp must call it.
template <int kTogether, int kLanes, class F, int K, class Deliver>
__device__ __forceinline__ void sum_over_lanes(int rank, F (&v)[K], const Deliver& deliver) {
  constexpr int kSteps = kLanes < K ? kLanes : K;  // lanes whose values differ in the end
  int first = 0;
#pragma unroll
  for (int distance = 1; distance < kSteps; distance *= 2) {
    const bool upper = rank & distance;
    const int half = K / 2 / distance;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const F given = upper ? v[i] : v[i + half], kept = upper ? v[i + half] : v[i];
      v[i] = kept + __shfl_xor_sync(kAllLanes, given, distance);
    }
    first += upper ? half : 0;
  }
#pragma unroll
  for (int distance = kSteps; distance < kLanes; distance *= 2)
    v[0] += __shfl_xor_sync(kAllLanes, v[0], distance);
  if (rank >= kSteps) return;
  constexpr int kAll = K / kSteps, kRun = kAll < kTogether ? kAll : kTogether;
#pragma unroll
  for (int i = 0; i < kAll; i += kRun) {
    F sums[kRun];
#pragma unroll
    for (int j = 0; j < kRun; ++j) sums[j] = v[i + j];
    deliver(first + i, sums);
  }
}

// The same over the lanes of every team of the warp.
template <int kTogether, class F, int K, class Deliver>
__device__ __forceinline__ void sum_over_team(const Team& team, F (&v)[K], const Deliver& deliver) {
  switch (team.size) {
    case 1: return sum_over_lanes<kTogether, 1>(team.rank, v, deliver);
    case 2: return sum_over_lanes<kTogether, 2>(team.rank, v, deliver);
    case 4: return sum_over_lanes<kTogether, 4>(team.rank, v, deliver);
    case 8: return sum_over_lanes<kTogether, 8>(team.rank, v, deliver);
    case 16: return sum_over_lanes<kTogether, 16>(team.rank, v, deliver);
    default: return sum_over_lanes<kTogether, 32>(team.rank, v, deliver);
  }
}

}  // namespace tapfield::cuda
