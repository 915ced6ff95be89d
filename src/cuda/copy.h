// SPDX-License-Identifier: Apache-2.0
// Copies between views of any strides and dtypes. The channel loops want adjacent channels: other tensors are
// packed into scratch, or results stored from it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "problem.h"

namespace tapfield::cuda {

struct Extent {
  std::int64_t n, h, w, c;
  std::int64_t elements() const { return n * h * w * c; }
};

// A dense [n, h, w, c] view of scratch.
View dense(void* data, DType dtype, const Extent& e);

// May vectors of v elements, or of 16 bytes, be loaded from it, if its channels are adjacent?
inline bool aligned(const View& t, int v) {
  const std::int64_t bytes = std::min<std::int64_t>(v * size_of(t.dtype), 16);
  return reinterpret_cast<std::uintptr_t>(t.data) % static_cast<std::uintptr_t>(bytes) == 0 && t.n % v == 0 &&
         t.h % v == 0 && t.w % v == 0;
}

// to = from (+ added, of from's dtype, unless that is absent), rounded to to's dtype. Views of the same
// dtype, or float32 and a 16-bit one. Queued on the stream.
void copy(const View& from, const View& added, const View& to, const Extent& e, cudaStream_t stream);

// to = 0; its channels are adjacent. Queued on the stream.
void zero(const View& to, const Extent& e, cudaStream_t stream);

}  // namespace tapfield::cuda
