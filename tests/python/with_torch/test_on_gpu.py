# SPDX-License-Identifier: Apache-2.0
"""deform_conv2d's way on a GPU, from samples and convolutions: on the CPU, where it must give what the kernels give.
And on a GPU, where there is one that tapfield was built for: `./dev gpu`, or `pip install .` where nvcc is."""

import pytest
import tapfield
import torch
from tapfield.torch import conv2d, deformable_offsets

from cases import case_named
from layer_cases import LAYERS, assert_near
from operands import tensors
from test_deform_conv2d import gradients, ids, ours, terms, theirs

CPU, CUDA = (next(b for b in tapfield.backends() if b.name == name) for name in ("cpu", "cuda"))
on_a_gpu = lambda test: pytest.mark.skipif(not CUDA.available, reason=CUDA.reason)(
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")(test)
)


@pytest.mark.skipif(not CPU.available, reason=CPU.reason)
@pytest.mark.parametrize("layer", LAYERS, ids=ids)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_samples_and_convolutions_are_the_kernels(layer, channels_last):
    input, offset, weight, bias, mask = layer.tensors(channels_last=channels_last)
    grad, how = layer.grad(), dict(layer.how, border="closed")
    pairs = [
        (
            conv2d._on_gpu(input, offset, weight, bias, mask, **how),
            conv2d._forward(input, offset, weight, bias, mask, **how),
        )
    ]
    for wanted in (dict(samples=True, products=False), dict(samples=False, products=True), dict()):
        arguments = grad, input, offset, weight, mask
        pairs += zip(
            conv2d._backward_on_gpu(*arguments, **how, **wanted),
            conv2d._backward(*arguments, **how, **wanted),
            strict=True,
        )
    for got, want in pairs:
        assert got.dtype == want.dtype and got.stride() == want.stride()
        assert_near(got, want, terms(layer))


@on_a_gpu
@pytest.mark.parametrize("deterministic", [False, True])
def test_on_a_gpu(deterministic):
    case = case_named("c16_g2")
    given = [t.requires_grad_() for t in tensors("forward", case, "float64", "NHWC")]
    attributes = case.attributes("NHWC")
    back = lambda y, leaves: torch.autograd.grad(y.sum(), leaves)
    y = deformable_offsets(*given, **attributes)
    on_gpu = [t.detach().cuda().requires_grad_() for t in given]
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(deterministic)
        y_gpu = deformable_offsets(*on_gpu, **attributes)
        got = back(y_gpu, on_gpu)
    finally:
        torch.use_deterministic_algorithms(before)
    for a, b in zip((y_gpu, *got), (y, *back(y, given)), strict=True):
        assert_near(a.detach().cpu(), b.detach(), terms=4 * 9 * y.shape[1] * y.shape[2])


@on_a_gpu
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("layer", LAYERS, ids=ids)
def test_deform_conv2d_on_a_gpu(layer, channels_last):
    """Against torchvision's on the CPU."""
    on_gpu = [a if a is None else a.cuda() for a in layer.tensors(channels_last=channels_last)]
    mine, my_grads = gradients(ours, on_gpu, layer)
    want, their_grads = gradients(theirs, layer.tensors(), layer)
    for got, w in zip((mine, *my_grads), (want, *their_grads), strict=True):
        assert_near(got.cpu(), w, terms(layer))
