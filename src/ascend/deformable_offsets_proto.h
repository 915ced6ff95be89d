// SPDX-License-Identifier: Apache-2.0
// The operators' prototypes for graphs: names, order and defaults are those of CANN's built-in operators.
// Tensors are NHWC; data_format is the order of strides and dilations alone, and its defaults differ, as in
// CANN.
#pragma once

#include "graph/operator_reg.h"

namespace ge {

REG_OP(DeformableOffsets)
    .INPUT(x, TensorType({DT_FLOAT16, DT_FLOAT, DT_BF16}))        // [N, H, W, C]
    .INPUT(offsets, TensorType({DT_FLOAT16, DT_FLOAT, DT_BF16}))  // [N, Ho, Wo, P*G*Kh*Kw]
    .OUTPUT(y, TensorType({DT_FLOAT16, DT_FLOAT, DT_BF16}))       // [N, Ho*Kh, Wo*Kw, C]
    .REQUIRED_ATTR(strides, ListInt)                              // 4, in data_format's order
    .REQUIRED_ATTR(pads, ListInt)                                 // top, bottom, left, right
    .REQUIRED_ATTR(ksize, ListInt)                                // Kh, Kw
    .ATTR(dilations, ListInt, {1, 1, 1, 1})                       // 4, in data_format's order
    .ATTR(data_format, String, "NHWC")
    .ATTR(deformable_groups, Int, 1)
    .ATTR(modulated, Bool, true)
    .OP_END_FACTORY_REG(DeformableOffsets);

REG_OP(DeformableOffsetsGrad)
    .INPUT(grad, TensorType({DT_FLOAT16, DT_FLOAT, DT_BF16}))           // [N, Ho*Kh, Wo*Kw, C]
    .INPUT(x, TensorType({DT_FLOAT16, DT_FLOAT, DT_BF16}))              // [N, H, W, C]
    .INPUT(offsets, TensorType({DT_FLOAT16, DT_FLOAT, DT_BF16}))        // [N, Ho, Wo, P*G*Kh*Kw]
    .OUTPUT(grad_x, TensorType({DT_FLOAT16, DT_FLOAT, DT_BF16}))        // as x
    .OUTPUT(grad_offsets, TensorType({DT_FLOAT16, DT_FLOAT, DT_BF16}))  // as offsets
    .REQUIRED_ATTR(strides, ListInt)
    .REQUIRED_ATTR(pads, ListInt)
    .REQUIRED_ATTR(ksize, ListInt)
    .ATTR(dilations, ListInt, {1, 1, 1, 1})
    .ATTR(data_format, String, "NCHW")
    .ATTR(deformable_groups, Int, 1)
    .ATTR(modulated, Bool, true)
    .OP_END_FACTORY_REG(DeformableOffsetsGrad);

}  // namespace ge
