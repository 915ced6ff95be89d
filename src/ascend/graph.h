// SPDX-License-Identifier: Apache-2.0
// The operators as nodes of a graph: what the IR says of them, in the library's words. Knows nothing of CANN,
// so that it is tested anywhere; package.cpp is between the two.
//
// Everything is checked by make_problem, with its messages: std::invalid_argument, tapfield::dtype_error.
#pragma once

#include <optional>

#include "problem.h"

namespace tapfield::ascend {

// The attributes as the IR has them. In CANN data_format is the order of strides and dilations alone: tensors
// are NHWC whatever it says.
struct NodeAttributes {
  Ints strides, pads, ksize, dilations{1, 1, 1, 1};
  const char* data_format = nullptr;
  std::int64_t deformable_groups = 1;
  bool modulated = true;
};

// ------ Shapes. An axis may be -1: not known yet; then nothing is checked, and -1 is inferred from it.

Ints infer_y(const Ints& x, const Ints& offsets, const NodeAttributes& attributes);

struct GradShapes {
  Ints grad_x, grad_offsets;
};
GradShapes infer_grad(const Ints& grad, const Ints& x, const Ints& offsets, const NodeAttributes& attributes);

// ------ Types: an output has its input's, or float32 where `asked` says so.

DType infer_dtype(DType input, std::optional<DType> asked);

// ------ Calls: checked, and such that the kernels can run them (run.h)

Problem forward_call(const Tensor& x,        // [N, H, W, C]
                     const Tensor& offsets,  // [N, Ho, Wo, P*G*Kh*Kw]
                     const Tensor& y,        // out: [N, Ho*Kh, Wo*Kw, C]
                     const NodeAttributes& attributes);

Problem grad_call(const Tensor& grad,          // [N, Ho*Kh, Wo*Kw, C]
                  const Tensor& x,             // [N, H, W, C]
                  const Tensor& offsets,       // [N, Ho, Wo, P*G*Kh*Kw]
                  const Tensor& grad_x,        // out: as x
                  const Tensor& grad_offsets,  // out: as offsets
                  const NodeAttributes& attributes);

}  // namespace tapfield::ascend
