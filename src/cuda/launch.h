// SPDX-License-Identifier: Apache-2.0
// The one place that launches kernels, and the error that a CUDA function's failure becomes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/tuning.h"

namespace tapfield::cuda {

// What failed, and CUDA's own words.
class Error : public std::runtime_error {
 public:
  Error(const std::string& what, cudaError_t code)
      : std::runtime_error("CUDA: " + what + " failed: " + cudaGetErrorString(code) + " (" +
                           cudaGetErrorName(code) + ")") {}
};

inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // reported here; a later call shall not find it again
  throw Error(what, code);
}

// Of the current device.
inline int attribute(cudaDeviceAttr of) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, of, device), "cudaDeviceGetAttribute");
  return value;
}

// Blocks that it should be given, at least.
inline std::int64_t blocks_to_fill_device() {
  return std::int64_t{attribute(cudaDevAttrMultiProcessorCount)} * tuning().blocks_an_sm;
}

// Shared memory of a block, at most, on it: an SM keeps 1 KiB of each block's for itself.
inline int shared_bytes_of_block() {
  return attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / tuning().blocks_by_shared - (1 << 10);
}

// Where a kernel runs.
struct Grid {
  std::int64_t blocks;  // of one dimension; none: nothing is launched
  int threads;
  std::size_t shared_bytes = 0;
};

constexpr std::size_t kSharedUnasked = 48 << 10;  // more shared memory must be asked for

// Queues kernel(arguments) and returns at once.
template <class Arguments>
void launch(const char* name, void (*kernel)(Arguments), const Grid& grid, cudaStream_t stream,
            Arguments arguments) {
  if (grid.blocks == 0) return;
  if (grid.blocks > 0x7fffffff) throw Error(name, cudaErrorInvalidConfiguration);
  if (grid.shared_bytes > kSharedUnasked) {
    const auto set = [&](cudaFuncAttribute attribute, int value) {
      check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value), name);
    };
    // As much as there is, whatever this launch needs: another thread may launch it with more.
    set(cudaFuncAttributeMaxDynamicSharedMemorySize, attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  void* list[] = {&arguments};
  check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(grid.blocks)), dim3(grid.threads), list,
                         grid.shared_bytes, stream),
        name);
}

// Blocks of `threads` that have one for each of `items`.
inline std::int64_t blocks_of(std::int64_t items, int threads) { return (items + threads - 1) / threads; }

}  // namespace tapfield::cuda
