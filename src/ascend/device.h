// SPDX-License-Identifier: Apache-2.0
// One tap on the device. Functions take and return builtin scalars alone: all that a function called from
// SIMT code may. Not for the host.
#pragma once

#include "kernel_operator.h"

// Who calls: the threads of a SIMT function on the 950, the scalar unit of a vector core elsewhere.
#if defined(__NPU_ARCH__) && __NPU_ARCH__ == 3510
#define TAPFIELD_DEVICE __simt_callee__ inline
#else
#define TAPFIELD_DEVICE __aicore__ inline
#endif

#include "ascend/arguments.h"
#include "math.h"

namespace tapfield::ascend {

// Taps in one cell that are summed before they are added to grad_x, where sums are long: 7,000 terms of one
// sign are then 220, off by 1.7 eps.
constexpr std::int32_t kRun = 32;

// Memory of the device as an array.
template <class E>
TAPFIELD_DEVICE __gm__ E* at(Address a) {
  return reinterpret_cast<__gm__ E*>(a);
}

// The greatest integer that is not above v; NaN and infinities as they are. From 2^23 on every float is one.
TAPFIELD_DEVICE float floor_of(float v) {
  if (!(v > -8388608.0f && v < 8388608.0f)) return v;
  const float cut = static_cast<float>(static_cast<std::int32_t>(v));
  return cut > v ? cut - 1.0f : cut;
}

// Along one axis, from a tap's integer base and its offset: the cell, and the weights of its lower and upper
// corner. False, and the cell is 0, where the tap is dead.
template <class Index>
TAPFIELD_DEVICE bool locate_along(float offset, Index base, Index size, bool closed, Index& cell,
                                  float& lower, float& upper) {
  const float below = floor_of(offset);
  cell = 0, lower = 0, upper = 0;
  if (!math::reaches(below)) return false;
  const std::int64_t found = math::cell(static_cast<std::int64_t>(base), below);
  upper = offset - below;
  lower = math::complement(offset, below, below + 1.0f);
  const bool live = math::live(found, upper, static_cast<std::int64_t>(size), closed);
  if (live) cell = static_cast<Index>(found);
  return live;
}

// The remainder of i, which becomes the quotient.
template <class Index>
TAPFIELD_DEVICE Index take(Index& i, Index by) {
  const Index rest = i % by;
  i /= by;
  return rest;
}

}  // namespace tapfield::ascend
