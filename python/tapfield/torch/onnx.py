# SPDX-License-Identifier: Apache-2.0
"""torch.onnx.export(..., dynamo=True, custom_translation_table=tapfield.torch.onnx.translations()).

deform_conv2d becomes ai.onnx DeformConv (opset 19), whose border makes no difference to its result. Needs onnxscript.
"""

import torch


def translations():
    """The operators that ONNX has, as torch.onnx.export's custom_translation_table."""
    import onnxscript

    op = onnxscript.opset19

    def deform_conv2d(
        input,
        offset,
        weight,
        bias=None,
        mask=None,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        border="closed",
    ):
        ksize = [int(k) for k in weight.shape[2:]]
        top, left = padding
        return op.DeformConv(
            input,
            weight,
            offset,
            bias,
            mask,
            dilations=list(dilation),
            group=int(input.shape[1]) // int(weight.shape[1]),
            kernel_shape=ksize,
            offset_group=int(offset.shape[1]) // (2 * ksize[0] * ksize[1]),
            pads=[top, left, top, left],
            strides=list(stride),
        )

    return {torch.ops.tapfield.deform_conv2d.default: deform_conv2d}
