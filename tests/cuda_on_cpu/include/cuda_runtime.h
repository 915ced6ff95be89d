// SPDX-License-Identifier: Apache-2.0
// Stands in for CUDA's header of this name: what src/cuda uses of the language and of the runtime, on
// machine.h. Device memory is any memory but what Device::host_memory names.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>

#include "machine.h"
#include "races.h"

#define __CUDA_ARCH__ 1000
#define CUDART_VERSION 13000
#define __global__
#define __device__
#define __host__
#define __shared__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __forceinline__ inline

// ------ Types

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ------ Functions of the language

template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
inline float __uint_as_float(unsigned bits) {
  float f;
  return std::memcpy(&f, &bits, sizeof f), f;
}
inline float2 __ffma2_rn(float2 x, float2 y, float2 z) {
  return {std::fmaf(x.x, y.x, z.x), std::fmaf(x.y, y.y, z.y)};
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(std::uint64_t{a} * b >> 32); }

// No other thread runs meanwhile.
template <class T>
T atomicAdd(T* p, T v) {
  cuda_on_cpu::atomic_access(p, sizeof(T));
  return cuda_on_cpu::add_unseen(p, v);
}
inline float4 atomicAdd(float4* p, float4 v) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16)
    cuda_on_cpu::fail("an atomicAdd of 16 bytes is not aligned to them");
  auto* f = reinterpret_cast<float*>(p);
  return {atomicAdd(f, v.x), atomicAdd(f + 1, v.y), atomicAdd(f + 2, v.z), atomicAdd(f + 3, v.w)};
}

#define __syncthreads() ::cuda_on_cpu::block_barrier(__LINE__)
inline void __syncwarp(unsigned mask = ~0u) { cuda_on_cpu::meet(cuda_on_cpu::Kind::sync, mask, 0, 0); }
inline int __any_sync(unsigned mask, int predicate) {
  return static_cast<int>(cuda_on_cpu::meet(cuda_on_cpu::Kind::vote, mask, predicate != 0, 0));
}
namespace cuda_on_cpu {
template <class T>
T shuffle(unsigned mask, T v, int source) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof v);
  bits = meet(Kind::shuffle, mask, bits, source);
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
}  // namespace cuda_on_cpu
template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  return cuda_on_cpu::shuffle(mask, v, cuda_on_cpu::lane() / width * width + source % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int lanes) {
  return cuda_on_cpu::shuffle(mask, v, cuda_on_cpu::lane() ^ lanes);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned distance) {
  const int lane = cuda_on_cpu::lane(), source = lane - static_cast<int>(distance);
  return cuda_on_cpu::shuffle(mask, v, source < 0 ? lane : source);
}

// ------ The runtime (runtime.cpp)

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorAssert = 710,
};
enum cudaMemoryType {
  cudaMemoryTypeUnregistered,
  cudaMemoryTypeHost,
  cudaMemoryTypeDevice,
  cudaMemoryTypeManaged
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout
};
enum cudaSharedCarveout { cudaSharedmemCarveoutMaxShared = 100 };
enum cudaMemAllocationType { cudaMemAllocationTypePinned };
enum cudaMemLocationType { cudaMemLocationTypeDevice };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
struct cudaDeviceProp {
  char name[256];
  int major, minor;
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
struct cudaMemLocation {
  cudaMemLocationType type;
  int id;
};
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  cudaMemLocation location;
};
using cudaStream_t = struct CUstream_st*;
using cudaMemPool_t = struct CUmemPoolHandle_st*;

const char* cudaGetErrorString(cudaError_t);  // of cudaErrorAssert: what run_grid found
const char* cudaGetErrorName(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaGetDevice(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int);
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes*, const void*);
cudaError_t cudaMemPoolCreate(cudaMemPool_t*, const cudaMemPoolProps*);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t);
cudaError_t cudaMallocFromPoolAsync(void**, std::size_t, cudaMemPool_t, cudaStream_t);
cudaError_t cudaFreeAsync(void*, cudaStream_t);
cudaError_t cudaMemsetAsync(void*, int, std::size_t, cudaStream_t);

namespace cuda_on_cpu {

// The machine that the runtime describes, and what was asked of it. Tests change and read it.
struct Device {
  int count = 2, major = 9, minor = 0, multiprocessors = 1;
  int shared_bytes = 228 << 10;        // of a multiprocessor; a block may have 1 KiB less
  cudaError_t start = cudaSuccess;     // of cudaGetDeviceCount
  const void* host_memory = nullptr;   // a pointer that is not the device's
  const void* other_device = nullptr;  // a pointer that is of device 1
  bool of_all_devices = false;         // every other pointer is of whatever device is current
  bool out_of_memory = false;
  cudaError_t launch = cudaSuccess;  // what a launch returns instead of running
  int current = 0;
  std::int64_t allocated = 0, launches = 0;  // blocks of memory not yet freed; kernels run
  cudaStream_t last_stream = nullptr;
  int last_device = -1;  // current when the last kernel ran
};
Device& device();

// Kernels that nvcc has compiled (ptx/), by the host's kernel. Where there are any, they run instead, and a
// kernel without one is refused.
using Translation = void (*)(std::uint64_t arguments);
std::map<const void*, Translation>& translations();

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared, cudaStream_t stream,
                   const void* arguments, const std::function<void()>& body);

}  // namespace cuda_on_cpu

template <class Arguments>
cudaError_t cudaLaunchKernel(void (*kernel)(Arguments), dim3 grid, dim3 block, void** list,
                             std::size_t shared, cudaStream_t stream) {
  return cuda_on_cpu::launch(reinterpret_cast<const void*>(kernel), grid, block, shared, stream, list[0],
                             [&] { kernel(*static_cast<Arguments*>(list[0])); });
}
