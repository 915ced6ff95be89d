# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's DeformConv: sampling and a convolution to G channels."""

import common
import onnxruntime
from onnx import TensorProto, helper


def forward(problem):
    case = problem.case
    top, bottom, left, right = case.pads
    inputs = {"x": problem.x, "w": problem.weights, "offset": problem.offset, "mask": problem.mask}
    node = helper.make_node(
        "DeformConv",
        ["x", "w", "offset", "", "mask"],
        ["y"],
        kernel_shape=case.ksize,
        strides=case.strides,
        pads=[top, left, bottom, right],
        dilations=case.dilations,
        group=case.groups,
        offset_group=case.groups,
    )
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    values = [value(name, a.shape) for name, a in inputs.items()]
    graph = helper.make_graph([node], "deform", values, [value("y", problem.grad_out.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = common.THREADS
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = {}
    return lambda: results.update(y=session.run(None, inputs)), lambda: results["y"]


common.main("ONNX Runtime", onnxruntime.__version__, {"forward": forward}, samples=False)
