# SPDX-License-Identifier: Apache-2.0
"""The operators are the library's: same bits as the NumPy functions, shapes and strides as promised, PyTorch's own
check of operators, errors, threads. The values themselves are judged elsewhere."""

import subprocess
import sys

import numpy as np
import pytest
import tapfield
import torch

import calls
from cases import CASES, case_named
from operands import LAYOUTS, NAMES, PASSES, TORCH, data_format, operator, tensors, to_numpy

SOME = [
    "c3_g1",
    "all_attributes-closed",
    "v1_g4",
    "batch_0",
    "pixel-open",
    "c64_g8",
    "c1_g1",
    "nonfinite-open",
]


def outputs(which, arguments, attributes):
    given = operator(which)(*arguments, **attributes)
    return (given,) if which == "forward" else given


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("dtype", TORCH)
def test_same_bits_as_numpy(which, dtype, layout):
    for case in CASES:
        arguments = tensors(which, case, dtype, layout)
        attributes = case.attributes(data_format(layout))
        numpy_call = {
            "forward": tapfield.deformable_offsets,
            "grad": tapfield.deformable_offsets_grad,
            "grad_grad": tapfield.deformable_offsets_grad_grad,
        }[which]
        got = outputs(which, arguments, attributes)
        out = tuple(to_numpy(torch.full_like(t, 77)) for t in got)  # same strides, hence same bits
        numpy_call(*map(to_numpy, arguments), **attributes, out=out[0] if which == "forward" else out)
        for g, want in zip(got, out):
            assert np.array_equal(to_numpy(g).astype(float), want.astype(float), equal_nan=True), case.name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_order_is_kept(layout):
    """Outputs are dense, and channels_last where the input that they are like is."""
    case = case_named("c3_g3")
    for which in PASSES:
        for t in outputs(
            which, tensors(which, case, "float32", layout), case.attributes(data_format(layout))
        ):
            order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
            assert t.is_contiguous(memory_format=order) and t.is_contiguous() == (layout != "channels_last")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("name", SOME)
def test_opcheck(which, name, dtype, layout):
    case = case_named(name)
    arguments = [t.requires_grad_() for t in tensors(which, case, dtype, layout)]
    tests = ["test_schema", "test_faketensor"]
    if which != "grad_grad" and name != "nonfinite-open":
        tests += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(operator(which), arguments, case.attributes(data_format(layout)), test_utils=tests)


def test_absent_cotangents():
    case = case_named("c6_g3")
    grad, x, offsets, gg_x, gg_offsets = tensors("grad_grad", case, "float64", "NHWC")
    attributes = case.attributes("NHWC")
    zero = outputs("grad_grad", (grad, x, offsets, gg_x, torch.zeros_like(gg_offsets)), attributes)
    none = outputs("grad_grad", (grad, x, offsets, gg_x, None), attributes)
    for a, b in zip(none, zero):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)  # eps 2.2e-16 x 60 terms of size up to 10
    assert none[0].abs().max() > 0 and none[2].abs().max() > 0  # grad_x has only gg_offsets' terms


@pytest.mark.parametrize(
    "change",
    [
        dict(offsets=torch.zeros(2, 5, 6, 26)),
        dict(x=torch.zeros(5, 6, 3)),
        dict(x=torch.zeros(2, 5, 6, 3, dtype=torch.float64)),
        dict(ksize=[3]),
        dict(strides=[1, 0, 1, 1]),
        dict(pads=[1, 1, 1, -1]),
        dict(deformable_groups=2),
        dict(data_format="NHCW"),
        dict(border="half"),
        dict(ksize=[9, 3]),
    ],
    ids=str,
)
def test_errors_are_runtime_errors_with_the_librarys_text(change):
    case = case_named("c3_g1")
    x, offsets = tensors("forward", case, "float32", "NHWC")
    given = dict(x=x, offsets=offsets) | case.attributes("NHWC") | change
    with pytest.raises((ValueError, TypeError)) as numpys:
        tapfield.deformable_offsets(
            **{k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        )
    with pytest.raises(RuntimeError) as ours:
        tapfield.torch.deformable_offsets(**given)
    assert str(ours.value) == str(numpys.value)


def test_wrong_dtype_is_named():
    with pytest.raises(RuntimeError, match="x must be float16, bfloat16, float32 or float64 but is Long"):
        case = case_named("c3_g1")
        x, offsets = tensors("forward", case, "float32", "NHWC")
        tapfield.torch.deformable_offsets(x.long(), offsets, **case.attributes("NHWC"))


def test_runs_on_pytorchs_threads():
    """torch.set_num_threads(1): no thread is made; (4): as many as OpenMP makes, and no other pool."""
    program = """
import os, torch, tapfield.torch
threads = lambda: len(os.listdir("/proc/self/task"))
x, offsets = torch.randn(1, 64, 64, 64), torch.randn(1, 64, 64, 27)
call = lambda: tapfield.torch.deformable_offsets(x, offsets, ksize=(3, 3), strides=(1, 1, 1, 1), pads=(1, 1, 1, 1))
counts = [threads()]
for n in 1, 4:
    torch.set_num_threads(n)
    last = call()
    counts.append(threads())
print(counts[1] - counts[0], counts[2] - counts[0])
"""
    given = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert given.split() == ["0", "3"]


def test_same_bits_for_any_number_of_threads():
    case = case_named("cann_grad_sample")
    arguments, before = tensors("grad", case, "float32", "NHWC"), torch.get_num_threads()
    try:
        given = []
        for n in 1, 2, 5:
            torch.set_num_threads(n)
            given.append(outputs("grad", arguments, case.attributes("NHWC")))
    finally:
        torch.set_num_threads(before)
    for other in given[1:]:
        assert all(torch.equal(a, b) for a, b in zip(given[0], other))


def test_subnormals_count_where_pytorch_flushes_them():
    """The offsets of border_all bring taps to -1 and just above it, which is live."""
    case = case_named("border_all-open")
    arguments, attributes = tensors("grad", case, "float32", "NHWC"), case.attributes("NHWC")
    want = outputs("grad", arguments, attributes)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        got = outputs("grad", arguments, attributes)
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_every_pass_is_covered():
    assert list(NAMES) == PASSES == calls.PASSES
