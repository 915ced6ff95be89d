// SPDX-License-Identifier: Apache-2.0
// The CUDA backend is a library of its own, tapfield_cuda, which the CPU library loads when it is first asked
// for: without a GPU it needs nothing of CUDA. This is what one gives the other.
#pragma once

#include <cstddef>
#include <string>

#include "problem.h"

namespace tapfield::cuda {

struct Schedule {
  std::size_t (*workspace)(const Problem& p);
  // Queues p on p.stream and returns. workspace: device memory, or null: from a pool that is kept. Throws
  // std::invalid_argument for memory that is not the device's, before anything is queued; std::bad_alloc;
  // std::runtime_error with the function that failed and CUDA's words.
  void (*run)(const Problem& p, void* workspace);
};

struct Library {
  const char* version;
  std::size_t problem_bytes;  // sizeof(Problem): both were built from the same sources
  // Why no GPU can be used, or an empty text; then the GPUs are in *devices.
  std::string (*why_unavailable)(std::string* devices);
  const char* (*why_not)(const Problem& p);
  void (*release_scratch)();
  Schedule forward, grad_tiles, grad_sweep, grad_grad_tiles, grad_grad_sweep;
};

// The library's only export.
using Entry = const Library*();
inline constexpr const char* kEntry = "tapfield_cuda_library";

}  // namespace tapfield::cuda
