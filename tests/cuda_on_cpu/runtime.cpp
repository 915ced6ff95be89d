// SPDX-License-Identifier: Apache-2.0
#include "include/cuda_runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <map>

namespace cuda_on_cpu {
namespace {

std::string assertion;  // what the last grid was given up for

constexpr std::size_t kSharedUnasked = 48 << 10;
int shared_at_most() { return device().shared_bytes - (1 << 10); }
std::map<const void*, std::size_t> shared_asked;  // by kernel

// Blocks that end where a page begins that cannot be touched, full of ones.
std::map<void*, std::pair<void*, std::size_t>> blocks;  // by address: what was mapped

}  // namespace

Device& device() {
  static Device d;
  return d;
}

std::map<const void*, Translation>& translations() {
  static std::map<const void*, Translation> t;
  return t;
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared, cudaStream_t stream,
                   const void* arguments, const std::function<void()>& body) {
  Device& d = device();
  if (d.launch != cudaSuccess) return d.launch;
  if (grid.x == 0 || block.x > 1024) return cudaErrorInvalidConfiguration;
  if (shared > kSharedUnasked && shared > shared_asked[kernel]) return cudaErrorInvalidValue;
  ++d.launches, d.last_stream = stream, d.last_device = d.current;
  if (translations().empty()) {
    assertion = run_grid(grid, block, shared, body);
  } else if (const auto found = translations().find(kernel); found != translations().end()) {
    const auto address = reinterpret_cast<std::uint64_t>(arguments);
    assertion = run_grid(grid, block, shared, [&] { found->second(address); });
  } else {
    assertion = "nvcc has not compiled this kernel";
  }
  return assertion.empty() ? cudaSuccess : cudaErrorAssert;
}

}  // namespace cuda_on_cpu

using cuda_on_cpu::device;

const char* cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaSuccess: return "no error";
    case cudaErrorAssert: return cuda_on_cpu::assertion.c_str();
    default: return "an error of the stand-in";
  }
}
const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorAssert: return "cudaErrorAssert";
    default: return "another cudaError";
  }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = device().start == cudaSuccess ? device().count : 0;
  return device().start;
}
cudaError_t cudaGetDevice(int* current) { return *current = device().current, cudaSuccess; }
cudaError_t cudaSetDevice(int current) {
  if (current < 0 || current >= device().count) return cudaErrorInvalidDevice;
  return device().current = current, cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::strcpy(p->name, "CPU");
  p->major = device().major, p->minor = device().minor;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrMultiProcessorCount: return *value = device().multiprocessors, cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: return *value = device().major, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return *value = device().shared_bytes, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return *value = cuda_on_cpu::shared_at_most(), cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int bytes) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (bytes < 0 || bytes > cuda_on_cpu::shared_at_most()) return cudaErrorInvalidValue;
  cuda_on_cpu::shared_asked[kernel] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* at, const void* p) {
  at->type = p == device().host_memory ? cudaMemoryTypeUnregistered : cudaMemoryTypeDevice;
  at->device = p == device().other_device ? 1 : device().of_all_devices ? device().current : 0;
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  return *pool = nullptr, cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) { return cudaSuccess; }
cudaError_t cudaMallocFromPoolAsync(void** p, std::size_t bytes, cudaMemPool_t, cudaStream_t) {
  if (device().out_of_memory) return cudaErrorMemoryAllocation;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  bytes = (bytes + 63) / 64 * 64;
  const std::size_t room = (bytes + page - 1) / page * page;
  auto* mapped = static_cast<char*>(
      mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(mapped + room, page, PROT_NONE);
  *p = mapped + room - bytes;
  std::memset(*p, 0xff, bytes);
  cuda_on_cpu::blocks[*p] = {mapped, room + page};
  ++device().allocated;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  const auto block = cuda_on_cpu::blocks.extract(p);
  if (block.empty()) return cudaErrorInvalidValue;
  munmap(block.mapped().first, block.mapped().second);
  --device().allocated;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream) {
  if (device().launch != cudaSuccess) return device().launch;
  device().last_stream = stream;
  return std::memset(p, value, bytes), cudaSuccess;
}
