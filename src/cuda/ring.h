// SPDX-License-Identifier: Apache-2.0
// Vectors of grad on their way: a lane asks for those of its next taps, which come to shared memory while it
// works, and past the registers and L1. Only the lane itself reads what it asked for: no barrier.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "cuda/device.h"

namespace tapfield::cuda {

// Taps whose vectors are under way. By Little's law an H200's 4.3 TB/s at some 0.7 us want 23 KB from each
// of 132 SMs; 16 warps of 512 bytes three times are 24.
constexpr int kAhead = 3;

template <class T, int V>
class Ring {
 public:
  using Vector = Raw<T, V>;

  // All threads of the block take the same part of its shared memory: `at` is of threads * kSlots vectors.
  __device__ explicit Ring(const Array<Vector>& at) : mine_(at.data + threadIdx.x), stride_(blockDim.x) {}

  // Calls are numbered from 0 on, one for each tap, none left out: it is how arrivals are counted. A lane
  // that does not work gets zeros; without a tap nothing is read or written.
  __device__ void ask(int number, bool has_tap, const T* p, bool works) const {
    if (has_tap) {
      Vector* to = mine_ + number % kSlots * stride_;
      if constexpr (sizeof(Vector) >= 4) {
        __pipeline_memcpy_async(to, p, sizeof(Vector), works ? 0 : sizeof(Vector));
      } else {
        *to = works ? *reinterpret_cast<const Vector*>(p) : Vector{};
      }
    }
    __pipeline_commit();
  }

  // What was asked for by that number; those up to number + kAhead have been.
  __device__ Vector take(int number) const {
    __pipeline_wait_prior(kAhead);
    asm volatile("" ::: "memory");  // the load below stays below
    return mine_[number % kSlots * stride_];
  }

  static constexpr int kSlots = kAhead + 1;  // the slot to be filled was read one tap ago

 private:
  Vector* mine_;
  unsigned stride_;
};

}  // namespace tapfield::cuda
