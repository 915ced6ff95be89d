// SPDX-License-Identifier: Apache-2.0
// The library's entry: what a call needs around its kernels. Memory is checked, the tensors' device made
// current and restored, scratch taken from a pool.
#include "cuda/library.h"

#include <cstdint>
#include <initializer_list>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>

#include "cuda/host.h"
#include "cuda/kernels.h"

#ifndef TAPFIELD_VERSION
#error "the build defines TAPFIELD_VERSION"
#endif

namespace tapfield::cuda {
namespace {

// ------ Devices

constexpr int kLeastMajor = 8;  // sm_80

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string why_unavailable(std::string* devices) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorInsufficientDriver)
    return "no NVIDIA driver, or one older than CUDA " + std::to_string(CUDART_VERSION / 1000);
  if (code == cudaErrorNoDevice || (code == cudaSuccess && count == 0)) return "no NVIDIA GPU";
  if (code != cudaSuccess) return std::string("CUDA does not start: ") + cudaGetErrorString(code);
  bool usable = false;
  std::string names;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    usable |= properties.major >= kLeastMajor;
    names += (names.empty() ? "" : ", ") + std::string(properties.name) + " (sm_" +
             std::to_string(properties.major) + std::to_string(properties.minor) + ")";
  }
  if (devices) *devices = names;
  return usable ? "" : "needs a GPU of sm_80 or later; here: " + names;
}

// Makes a device current while it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~CurrentDevice() { cudaSetDevice(before_); }
  CurrentDevice(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

// ------ Memory

void check_memory(const char* name, const void* data, int device) {
  if (!data) return;
  cudaPointerAttributes at{};
  check(cudaPointerGetAttributes(&at, data), "cudaPointerGetAttributes");
  if (at.type == cudaMemoryTypeManaged) return;
  const std::string must =
      std::string(name) + " must be in memory of cuda:" + std::to_string(device) + " but its pointer is ";
  if (at.type != cudaMemoryTypeDevice) throw std::invalid_argument(must + "the host's");
  if (at.device != device) throw std::invalid_argument(must + "of cuda:" + std::to_string(at.device));
}

void check_memory(const Problem& p, const void* workspace) {
  const struct {
    const char* name;
    const View& view;
  } tensors[] = {{"x", p.x},
                 {"offsets", p.offsets},
                 {"grad", p.grad},
                 {"gg_x", p.gg_x},
                 {"gg_offsets", p.gg_offsets},
                 {"y", p.y},
                 {"grad_grad", p.grad_grad},
                 {"grad_x", p.grad_x},
                 {"grad_offsets", p.grad_offsets}};
  for (const auto& t : tensors) check_memory(t.name, t.view.data, p.device);
  check_memory("execution.workspace", workspace, p.device);
}

// One pool a device. It keeps what calls give back until release_scratch.
class Pools {
 public:
  cudaMemPool_t of(int device) {
    const std::lock_guard lock(mutex_);
    const auto found = pools_.find(device);
    if (found != pools_.end()) return found->second;
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    cudaMemPool_t pool = nullptr;
    check(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
    std::uint64_t keep = UINT64_MAX;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
    return pools_[device] = pool;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    for (const auto& [device, pool] : pools_) cudaMemPoolTrimTo(pool, 0);
  }

 private:
  std::mutex mutex_;
  std::map<int, cudaMemPool_t> pools_;
};

Pools& pools() {
  static Pools& p = *new Pools;  // never destroyed: the driver may be gone before static objects are
  return p;
}

// A call's scratch: the caller's, or from the pool in the stream's order: the next call on it may have the
// same memory without anyone waiting.
class DeviceScratch {
 public:
  DeviceScratch(const Problem& p, std::size_t bytes, void* workspace)
      : block_(workspace), stream_(stream_of(p)) {
    if (workspace || bytes == 0) return;
    const cudaError_t code = cudaMallocFromPoolAsync(&block_, bytes, pools().of(p.device), stream_);
    if (code == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    check(code, "cudaMallocFromPoolAsync");
    owned_ = true;
  }
  ~DeviceScratch() {
    if (owned_) cudaFreeAsync(block_, stream_);
  }
  DeviceScratch(const DeviceScratch&) = delete;
  void* block() const { return block_; }

 private:
  void* block_;
  cudaStream_t stream_;
  bool owned_ = false;
};

// ------ Calls

using Workspace = std::size_t(const Problem&);
using Run = void(const Problem&, void*);

template <Workspace workspace>
std::size_t measured(const Problem& p) {
  const CurrentDevice current(p.device);
  return workspace(p);
}

template <Workspace workspace, Run run>
void queued(const Problem& p, void* caller_workspace) {
  const CurrentDevice current(p.device);
  check_memory(p, caller_workspace);
  const DeviceScratch scratch(p, caller_workspace ? 0 : workspace(p), caller_workspace);
  run(p, scratch.block());
}

const char* why_not(const Problem& p) {
  if (p.device < 0 || p.device >= device_count()) return "there is no such CUDA device";
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, p.device),
        "cudaDeviceGetAttribute");
  if (major < kLeastMajor) return "the device is older than sm_80";
  if (p.offsets_planes[0].data) return "a layer's offsets and mask are tensors of their own";
  if (items_of_image(p) > kMostItems) return "an image with 2^31 taps, cells or 32 channels of pixels";
  return nullptr;
}

template <Workspace workspace, Run run>
constexpr Schedule kSchedule{measured<workspace>, queued<workspace, run>};

constexpr Library kLibrary{TAPFIELD_VERSION,
                           sizeof(Problem),
                           why_unavailable,
                           why_not,
                           [] { pools().release(); },
                           kSchedule<forward_workspace, forward>,
                           kSchedule<grad_tiles_workspace, grad_tiles>,
                           kSchedule<grad_sweep_workspace, grad_sweep>,
                           kSchedule<grad_grad_tiles_workspace, grad_grad_tiles>,
                           kSchedule<grad_grad_sweep_workspace, grad_grad_sweep>};

}  // namespace
}  // namespace tapfield::cuda

extern "C" __attribute__((visibility("default"))) const tapfield::cuda::Library* tapfield_cuda_library() {
  return &tapfield::cuda::kLibrary;
}
