# SPDX-License-Identifier: Apache-2.0
"""torch_npu's deformable convolution, off the NPU."""

import torch
from torch.nn.functional import conv2d

from tapfield.torch.operators import deformable_offsets


def npu_deformable_conv2d(
    input,
    weight,
    offset,
    bias,
    kernel_size,
    stride,
    padding,
    dilation=(1, 1, 1, 1),
    groups=1,
    deformable_groups=1,
    modulated=True,
    *,
    keep_dtype=False,
):
    """torch_npu.npu_deformable_conv2d: (output [N, Co, Ho, Wo], sampled [N, C, Ho*Kh, Wo*Kw]).

    input    [N, C, H, W];  weight [Co, C/groups, Kh, Kw];  bias [Co] or None
    offset   [N, 3*G*Kh*Kw, Ho, Wo] (2*G*Kh*Kw if not modulated), planes [along W | along H | mask]
    kernel_size  Kh, Kw;  stride, dilation  4 ints in NCHW order;  padding  top, bottom, left, right

    Open border. Computed and returned in float32, torch_npu's default; keep_dtype: the results have input's dtype.
    """
    kept = input.dtype
    wide = torch.promote_types(kept, torch.float32)
    with torch.autocast(input.device.type, enabled=False):
        sampled = deformable_offsets(
            input.to(wide),
            offset.to(wide),
            ksize=kernel_size,
            strides=stride,
            pads=padding,
            dilations=dilation,
            data_format="NCHW",
            deformable_groups=deformable_groups,
            modulated=modulated,
        )
        output = conv2d(
            sampled,
            weight.to(wide),
            None if bias is None else bias.to(wide),
            stride=kernel_size,
            groups=groups,
        )
    return (output.to(kept), sampled.to(kept)) if keep_dtype else (output, sampled)
