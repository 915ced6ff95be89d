// SPDX-License-Identifier: Apache-2.0
// Stands in for CANN's header of this name.
#pragma once

#include "machine.h"

inline float asc_atomic_add(float* p, float v) {
  ascend_on_cpu::touch(p, sizeof *p, ascend_on_cpu::Access::add);
  return ascend_on_cpu::add_atomically(p, v);
}
