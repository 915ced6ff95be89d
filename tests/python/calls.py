# SPDX-License-Identifier: Apache-2.0
"""Runs a Case through the library: Tensors in logical NHWC order in, results in logical NHWC order out."""

import functools
import re

import numpy as np
import tapfield

from cases import case_named, from_layout, to_layout

PASSES = ["forward", "grad", "grad_grad"]
OUTPUTS = {
    "forward": ["y"],
    "grad": ["grad_x", "grad_offsets"],
    "grad_grad": ["grad_grad", "grad_x", "grad_offsets"],
}


def call(which, case, tensors, layout="NHWC", backend=None, run=None, **more):
    """One pass, as a tuple of outputs. run: raw or able, defined below."""
    t = tensors.map(lambda a: to_layout(a, layout))
    outputs = (run or raw)(which, t, case.attributes(layout) | more, backend)
    return outputs and tuple(from_layout(a, layout) for a in outputs)


def raw(which, t, attributes, backend=None):
    """One pass on tensors as they are, in the attributes' layout."""
    if backend:
        attributes = attributes | {"backend": backend}
    if which == "forward":
        return (tapfield.deformable_offsets(t.x, t.offsets, **attributes),)
    if which == "grad":
        return tapfield.deformable_offsets_grad(t.grad, t.x, t.offsets, **attributes)
    return tapfield.deformable_offsets_grad_grad(t.grad, t.x, t.offsets, t.gg_x, t.gg_offsets, **attributes)


def able(which, tensors, attributes, row):
    """raw, or None where a schedule says why it cannot run this call. The library's own choice always can."""
    try:
        return raw(which, tensors, attributes, row)
    except ValueError as e:
        if row is None or "no backend can run this call" not in str(e):
            raise
        return None


def truth(which, oracle, t):
    """The same from the Oracle, as a tuple of Sums."""
    if which == "forward":
        return (oracle.forward(t.x),)
    if which == "grad":
        return oracle.grad(t.grad, t.x)
    return oracle.grad_grad(t.grad, t.x, t.gg_x, t.gg_offsets)


@functools.cache
def rows(which):
    """The rows of the library's table for a pass: the CPU's, as the error of a call that none of them can run lists
    them, and the reference."""
    case = case_named("pixel_1x1-open")
    wide = dict(pads=[2**29, 0, 0, 0], strides=[1, 2**30, 1, 1], backend="cpu")
    try:
        call(which, case, case.tensors(np.float32), **wide)
    except ValueError as e:
        return [*re.findall(r"(cpu\.\w+): ", str(e)), "reference"]
    raise AssertionError("a padded side of 2^29 pixels must be refused by every row of the CPU")
