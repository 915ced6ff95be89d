# SPDX-License-Identifier: Apache-2.0
"""torchvision's deform_conv2d: sampling and a convolution to G channels. Its gradient computes the weights' too."""

import common
import torch
import torchvision

torch.set_num_threads(common.THREADS)


def prepare(problem, requires_grad):
    case = problem.case
    top, bottom, left, right = case.pads
    if (top, left) != (bottom, right):
        raise ValueError("asymmetric pads")
    inputs = [
        torch.from_numpy(a).requires_grad_(requires_grad) for a in (problem.x, problem.offset, problem.mask)
    ]
    x, offset, mask = inputs
    how = dict(stride=case.strides, padding=(top, left), dilation=case.dilations, mask=mask)
    return inputs, lambda: torchvision.ops.deform_conv2d(x, offset, torch.from_numpy(problem.weights), **how)


def forward(problem):
    _, run = prepare(problem, requires_grad=False)
    results = {}
    return lambda: results.update(out=run()), lambda: [results["out"].numpy()]


def grad(problem):
    inputs, run = prepare(problem, requires_grad=True)
    out, grad_out = run(), torch.from_numpy(problem.grad_out)
    results = {}

    def call():
        results["grads"] = torch.autograd.grad(out, inputs, grad_out, retain_graph=True)

    def outputs():
        grad_x, offset, mask = (g.numpy() for g in results["grads"])
        return [grad_x, problem.offsets_planes(offset, mask)]

    return call, outputs


version = torchvision.__version__.split("+")[0]
common.main("torchvision", version, {"grad": grad, "forward": forward}, samples=False)
