# SPDX-License-Identifier: Apache-2.0
"""MindSpore's DeformableOffsets and DeformableOffsetsGrad: the operators themselves."""

import common
import mindspore
from mindspore.ops.operations import _grad_ops, nn_ops

mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
mindspore.set_device("CPU")


def prepare(operator, problem, *inputs):
    attributes = problem.case.attributes("NCHW")
    del attributes["border"]
    geometry = [tuple(attributes.pop(k)) for k in ("strides", "pads", "ksize")]
    attributes["dilations"] = tuple(attributes["dilations"])
    run, tensors = operator(*geometry, **attributes), [mindspore.Tensor(a) for a in inputs]
    results = {}

    def call():
        results["all"] = run(*tensors)
        mindspore.runtime.synchronize()

    def outputs():
        r = results["all"]
        return [t.asnumpy() for t in (r if isinstance(r, tuple) else (r,))]

    return call, outputs


def forward(problem):
    return prepare(nn_ops.DeformableOffsets, problem, problem.x, problem.offsets)


def grad(problem):
    return prepare(_grad_ops.DeformableOffsetsGrad, problem, problem.grad, problem.x, problem.offsets)


common.main("MindSpore", mindspore.__version__, {"grad": grad, "forward": forward}, samples=True)
