// SPDX-License-Identifier: Apache-2.0
// The launches, one function a kernel: queued on a stream, not waited for. Defined in the .asc files, which
// CANN's compiler takes; called by C++ that knows nothing of it.
#pragma once

#include <cstdint>

#include "ascend/arguments.h"

namespace tapfield::ascend {

struct Plan;  // tiling.h

enum class Element { float16, bfloat16, float32 };  // x's type

struct Launch {
  Element type;
  std::uint32_t cores;  // vector cores: not more than the device has
  void* stream;
};

// ------ launch_simt.asc: dav-3510. Index: std::int32_t, std::int64_t.

// team: threads that share a tap.
template <class Index>
void launch_forward_simt(const Launch& l, const Arguments<Index>& a, std::int32_t team);
template <class Index>
void launch_grad_simt(const Launch& l, const Arguments<Index>& a, std::int32_t team);
// rows: of a band of grad_x.
template <class Index>
void launch_grad_simt_deterministic(const Launch& l, const Arguments<Index>& a, std::int32_t rows);

// ------ launch_vector.asc: dav-2201

void launch_forward_vector(const Launch& l, const Arguments<std::int64_t>& a, const Plan& plan);
void launch_grad_vector(const Launch& l, const Arguments<std::int64_t>& a, const Plan& plan);
// The deterministic gradient's two: they write different outputs.
void launch_grad_offsets_vector(const Launch& l, const Arguments<std::int64_t>& a, const Plan& plan);
void launch_grad_bands(const Launch& l, const Arguments<std::int64_t>& a, const Plan& plan);

}  // namespace tapfield::ascend
