// SPDX-License-Identifier: Apache-2.0
// The device's 16-bit types, by the conversions of the other stand-in.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"

struct half : __half {
  half() = default;
  half(__half h) : __half(h) {}
  explicit half(float v) : __half(__float2half_rn(v)) {}
  explicit operator float() const { return __half2float(*this); }
};

struct bfloat16_t : __nv_bfloat16 {
  bfloat16_t() = default;
  bfloat16_t(__nv_bfloat16 b) : __nv_bfloat16(b) {}
  explicit bfloat16_t(float v) : __nv_bfloat16(__float2bfloat16_rn(v)) {}
  explicit operator float() const { return __bfloat162float(*this); }
};
