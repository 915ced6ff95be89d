// SPDX-License-Identifier: Apache-2.0
// Stands in for CANN's header of this name: SIMT functions, whose threads run one after another, each to its
// end.
#pragma once

#include "kernel_operator.h"

#define __simt_vf__
#define __simt_callee__
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

template <auto function, class... Arguments>
void asc_vf_call(dim3 threads, const Arguments&... arguments) {
  ascend_on_cpu::pause();
  const ascend_on_cpu::Core& core = ascend_on_cpu::core();
  // Threads do not wait, so no other core runs in between.
  blockIdx = {static_cast<unsigned>(core.number)}, gridDim = {static_cast<unsigned>(core.cores)};
  blockDim = threads;
  for (unsigned i = 0; i < threads.x; ++i) {
    threadIdx = {ascend_on_cpu::options().threads_backward ? threads.x - 1 - i : i};
    function(arguments...);
  }
  ascend_on_cpu::note_simt_threads(threads.x);
}

inline float asc_ldcg(const float* p) { return *p; }
