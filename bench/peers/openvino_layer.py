# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's DeformableConvolution as a call."""

import numpy as np
import openvino
from openvino import opset8

NAME = "OpenVINO " + openvino.__version__.split("-")[0]


def prepare(
    x,  # [N, C, H, W]
    offset,  # [N, 2*G*Kh*Kw, Ho, Wo], along H and along W in turn
    weight,  # [Co, C/groups, Kh, Kw]
    mask,  # [N, G*Kh*Kw, Ho, Wo]
    *,
    strides,
    pads,  # top, bottom, left, right
    dilations,
    groups,
    deformable_groups,
    threads,
):
    """float32 arrays -> (call, outputs): call() computes [N, Co, Ho, Wo], outputs() is [what the last call did]."""
    top, bottom, left, right = pads
    inputs = [x, offset, weight, mask]
    parameters = [opset8.parameter(a.shape, np.float32) for a in inputs]
    y = opset8.deformable_convolution(
        *parameters[:3],
        strides=list(strides),
        pads_begin=[top, left],
        pads_end=[bottom, right],
        dilations=list(dilations),
        mask=parameters[3],
        group=groups,
        deformable_group=deformable_groups,
        bilinear_interpolation_pad=True,
    )
    # float32 throughout: by default it may compute in bfloat16.
    how = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Model([y], parameters)
    request = openvino.Core().compile_model(model, "CPU", how).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True), lambda: [request.get_output_tensor().data]
