// SPDX-License-Identifier: Apache-2.0
// A checked call on a device: which kernels it is, in which tiles. Knows nothing of CANN.
#pragma once

#include <cstddef>

#include "ascend/launch.h"
#include "ascend/tiling.h"
#include "problem.h"

namespace tapfield::ascend {

struct Device {
  std::int64_t cores;  // vector cores
  void* stream;
  bool deterministic = false;  // same bits on every run, for any number of cores
};

// Null where the kernels can run p, else the reason. p has passed make_problem.
const char* why_not(const Problem& p);

// Bytes of device memory for the float32 sums of a 16-bit grad_x (which run_vector does without if
// deterministic).
std::size_t scratch_bytes(const Problem& p);

// Queue p on d.stream and return. p has images, and why_not(p) is null; scratch: scratch_bytes(p).
void run_simt(const Problem& p, const Device& d, void* scratch);    // dav-3510: run_simt.cpp
void run_vector(const Problem& p, const Device& d, void* scratch);  // dav-2201: run_vector.cpp

// ------ Of these two, for them and for tests

template <class Index>
Arguments<Index> arguments_of(const Problem& p, void* scratch);
Launch launch_of(const Problem& p, const Device& d);

// Do 32 bits number every tensor's elements, with room for a step of all threads?
bool fits_32_bits(const Problem& p);

// Threads that share a tap: 2^k, at most a warp, not more than a group's channels need.
std::int32_t team_of(const Problem& p);

// Rows of a band of grad_x: every core has about one band.
std::int32_t band_rows(const Problem& p, std::int64_t cores);

// Every plan's buffers fit kUnifiedBuffer.
Plan plan_forward(const Problem& p);
Plan plan_grad(const Problem& p);
Plan plan_bands(const Problem& p, std::int64_t cores);

}  // namespace tapfield::ascend
