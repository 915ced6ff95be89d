# SPDX-License-Identifier: Apache-2.0
"""Peers that are whole layers, as calls. Each function of LAYERS takes a Layer and returns (call, outputs): call()
computes [N, Co, Ho, Wo], outputs() is [what the last call computed]. Needs its own package alone.
"""

from dataclasses import dataclass
from importlib import metadata

import numpy as np


@dataclass
class Layer:
    """float32, on so many threads."""

    x: np.ndarray  # [N, C, H, W]
    offset: np.ndarray  # [N, 2*G*Kh*Kw, Ho, Wo], along H and along W in turn
    weight: np.ndarray  # [Co, C/groups, Kh, Kw]
    mask: np.ndarray  # [N, G*Kh*Kw, Ho, Wo]
    strides: list
    pads: list  # top, bottom, left, right
    dilations: list
    groups: int
    deformable_groups: int
    threads: int


def openvino(layer):
    import openvino
    from openvino import opset8

    top, bottom, left, right = layer.pads
    inputs = [layer.x, layer.offset, layer.weight, layer.mask]
    parameters = [opset8.parameter(a.shape, np.float32) for a in inputs]
    y = opset8.deformable_convolution(
        *parameters[:3],
        strides=list(layer.strides),
        pads_begin=[top, left],
        pads_end=[bottom, right],
        dilations=list(layer.dilations),
        mask=parameters[3],
        group=layer.groups,
        deformable_group=layer.deformable_groups,
        bilinear_interpolation_pad=True,
    )
    # float32 throughout: by default it may compute in bfloat16.
    how = {"INFERENCE_NUM_THREADS": layer.threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Model([y], parameters)
    request = openvino.Core().compile_model(model, "CPU", how).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True), lambda: [request.get_output_tensor().data]


def onnxruntime(layer):
    import onnxruntime
    from onnx import TensorProto, helper

    top, bottom, left, right = layer.pads
    inputs = {"x": layer.x, "w": layer.weight, "offset": layer.offset, "mask": layer.mask}
    node = helper.make_node(
        "DeformConv",
        ["x", "w", "offset", "", "mask"],
        ["y"],
        kernel_shape=list(layer.weight.shape[2:]),
        strides=list(layer.strides),
        pads=[top, left, bottom, right],
        dilations=list(layer.dilations),
        group=layer.groups,
        offset_group=layer.deformable_groups,
    )
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    y = value("y", [layer.x.shape[0], layer.weight.shape[0], *layer.offset.shape[2:]])
    graph = helper.make_graph([node], "deform", [value(name, a.shape) for name, a in inputs.items()], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = layer.threads
    # Threads that wait for some 50 ms after a call would run into the time of the next one, which is ours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = {}
    return lambda: results.update(y=session.run(None, inputs)), lambda: results["y"]


LAYERS = {"OpenVINO": openvino, "ONNX Runtime": onnxruntime}


def version(name):
    """Of the installed package; raises metadata.PackageNotFoundError."""
    return metadata.version(LAYERS[name].__name__)
