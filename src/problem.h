// SPDX-License-Identifier: Apache-2.0
// Problem: one checked call as plain sizes, strides and pointers, passed by reference to every kernel.
// Layout lives in the strides alone: kernels see one logical order, [N, H, W, C]. Nothing below the API
// checks an argument again.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tapfield/tapfield.hpp"

namespace tapfield {

enum class Pass { forward, grad, grad_grad };

inline bool is_16bit(DType t) { return t == DType::float16 || t == DType::bfloat16; }
inline std::int64_t size_of(DType t) { return is_16bit(t) ? 2 : t == DType::float32 ? 4 : 8; }
const char* name_of(DType t);

// A tensor in logical [N, H, W, C] order; for offsets and grad_offsets C is the P*G*Kh*Kw channel axis.
struct View {
  char* data = nullptr;  // null: absent
  DType dtype = DType::float32;
  std::int64_t n = 0, h = 0, w = 0,
               c = 0;           // strides in elements, of any sign; c is 1 where there is one channel
  std::int64_t ho = 0, wo = 0;  // y, grad, grad_grad: of an output pixel's block of taps; Kh*h and Kw*w, but
                                // in columns (layer.h)

  bool adjacent() const { return c == 1; }  // a pixel's channels lie side by side
  char* at(std::int64_t in, std::int64_t ih, std::int64_t iw, std::int64_t ic) const {
    return data + (in * n + ih * h + iw * w + ic * c) * size_of(dtype);
  }
  // y, grad, grad_grad: tap (kh, kw) of output pixel (ho, wo)
  char* tap(std::int64_t in, std::int64_t iho, std::int64_t ikh, std::int64_t iwo, std::int64_t ikw,
            std::int64_t ic) const {
    return data + (in * n + iho * ho + ikh * h + iwo * wo + ikw * w + ic * c) * size_of(dtype);
  }
};

struct Problem {
  Pass pass = Pass::forward;
  std::int64_t n = 0, h = 0, w = 0, c = 0;  // of x
  std::int64_t ho = 0, wo = 0;              // output pixels; y and grad are [n, ho*kh, wo*kw, c]
  std::int64_t kh = 1, kw = 1, groups = 1;
  std::int64_t stride_h = 1, stride_w = 1, dil_h = 1, dil_w = 1, top = 0, left = 0;
  bool modulated = true;
  bool closed = false;  // border "closed"

  // in
  View x;           // [n, h, w, c]
  View offsets;     // [n, ho, wo, planes*groups*kh*kw]
  View grad;        // [n, ho*kh, wo*kw, c]       grad, grad_grad
  View gg_x;        // as x, may be absent        grad_grad
  View gg_offsets;  // as offsets, may be absent  grad_grad
  // out
  View y;             // as grad                  forward
  View grad_grad;     // as grad                  grad_grad
  View grad_x;        // as x                     grad, grad_grad
  View grad_offsets;  // as offsets               grad, grad_grad

  // Where the planes of offsets, or of grad_offsets, are tensors of their own (layer.h): [n, ho, wo, lanes()]
  // along W, along H, mask. Absent: they are those of offsets, of grad_offsets.
  View offsets_planes[3], grad_offsets_planes[3];

  // A layer's gradient, band after band: grad_x, whose channels are adjacent and which no dtype of 16 bits
  // rounds, is added to instead of written.
  bool adds = false;
  // A layer's gradient: samples, y, take grad's place in its memory.
  bool samples = false;
  // A layer's forward: y is read at once, so it is not written past the cache.
  bool soon = false;

  // how: CUDA alone looks at these
  std::int32_t device = 0;
  void* stream = nullptr;
  bool deterministic = false;

  // Can kernels read a pixel's offsets side by side, where they lie?
  bool offsets_adjacent() const { return offsets.adjacent() && !offsets_planes[0].data; }
  std::int64_t planes() const { return modulated ? 3 : 2; }
  std::int64_t taps() const { return kh * kw; }            // per group
  std::int64_t lanes() const { return groups * kh * kw; }  // taps of one output pixel; one plane of offsets
  std::int64_t group_channels() const { return c / groups; }
  std::int64_t y_elements() const { return n * ho * wo * kh * kw * c; }
  std::int64_t base_h(std::int64_t iho, std::int64_t ikh) const { return iho * stride_h - top + ikh * dil_h; }
  std::int64_t base_w(std::int64_t iwo, std::int64_t ikw) const {
    return iwo * stride_w - left + ikw * dil_w;
  }
};

// The operators' arguments by name; null where the pass has no such tensor.
struct Arguments {
  const Tensor* x = nullptr;
  const Tensor* offsets = nullptr;
  const Tensor* grad = nullptr;
  const Tensor* gg_x = nullptr;
  const Tensor* gg_offsets = nullptr;
  const Tensor* y = nullptr;
  const Tensor* grad_grad = nullptr;
  const Tensor* grad_x = nullptr;
  const Tensor* grad_offsets = nullptr;
};

// Checks everything that docs/operators.md, "Errors", lists, and throws as tapfield.hpp says. With
// `with_data` false, pointers are neither required nor compared (workspace_size).
Problem make_problem(Pass pass, const Arguments& arguments, const Attributes& attributes, bool with_data);

}  // namespace tapfield
