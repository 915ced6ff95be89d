# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's DeformableConvolution: sampling and a convolution to G channels."""

import common
import numpy as np
import openvino
from openvino import opset8


def forward(problem):
    case = problem.case
    top, bottom, left, right = case.pads
    inputs = [problem.x, problem.offset, problem.weights, problem.mask]
    x, offset, weights, mask = (opset8.parameter(a.shape, np.float32) for a in inputs)
    y = opset8.deformable_convolution(
        x,
        offset,
        weights,
        strides=list(case.strides),
        pads_begin=[top, left],
        pads_end=[bottom, right],
        dilations=list(case.dilations),
        mask=mask,
        group=case.groups,
        deformable_group=case.groups,
        bilinear_interpolation_pad=True,
    )
    model = openvino.Model([y], [x, offset, weights, mask])
    # float32 throughout: by default it may compute in bfloat16.
    how = {"INFERENCE_NUM_THREADS": common.THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", how).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True), lambda: [request.get_output_tensor().data]


version = openvino.__version__.split("-")[0]
common.main("OpenVINO", version, {"forward": forward}, samples=False)
