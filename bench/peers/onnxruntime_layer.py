# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's DeformConv as a call."""

import onnxruntime
from onnx import TensorProto, helper

NAME = "ONNX Runtime " + onnxruntime.__version__


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
    inputs = {"x": x, "w": weight, "offset": offset, "mask": mask}
    node = helper.make_node(
        "DeformConv",
        ["x", "w", "offset", "", "mask"],
        ["y"],
        kernel_shape=list(weight.shape[2:]),
        strides=list(strides),
        pads=[top, left, bottom, right],
        dilations=list(dilations),
        group=groups,
        offset_group=deformable_groups,
    )
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    y = value("y", [x.shape[0], weight.shape[0], *offset.shape[2:]])
    graph = helper.make_graph([node], "deform", [value(name, a.shape) for name, a in inputs.items()], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for some 50 ms after a call would run into the time of the next one, which is ours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = {}
    return lambda: results.update(y=session.run(None, inputs)), lambda: results["y"]
