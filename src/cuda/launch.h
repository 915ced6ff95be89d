// SPDX-License-Identifier: Apache-2.0
// The one place that launches kernels, and the error that a CUDA function's failure becomes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

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
  if (grid.shared_bytes > kSharedUnasked)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          name);
  void* list[] = {&arguments};
  check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(grid.blocks)), dim3(grid.threads), list,
                         grid.shared_bytes, stream),
        name);
}

// Blocks of `threads` that have one for each of `items`.
inline std::int64_t blocks_of(std::int64_t items, int threads) { return (items + threads - 1) / threads; }

}  // namespace tapfield::cuda
