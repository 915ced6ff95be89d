// SPDX-License-Identifier: Apache-2.0
// Finds races. A library whose kernels are compiled with -fsanitize=thread tells races.cpp of every load and
// store; two of one place by different threads, at least one a store and not both atomic, must have a barrier
// of the block between them, or a __syncwarp of their warp. Threads of different blocks have none.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

#if CUDA_ON_CPU_RACES
void atomic_access(const void* p, std::size_t bytes);
// Loads and stores that were checked, of all grids so far.
long long accesses_checked();
#else
inline void atomic_access(const void*, std::size_t) {}
#endif

// *p += v behind the checker's back, and what *p was.
template <class T>
__attribute__((no_sanitize("thread"), noinline)) T add_unseen(T* p, T v) {
  const T before = *p;
  *p = before + v;
  return before;
}

}  // namespace cuda_on_cpu
