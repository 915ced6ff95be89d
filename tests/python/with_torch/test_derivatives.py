# SPDX-License-Identifier: Apache-2.0
"""Derivatives of the operators, in float64: autograd against finite differences, twice; forward mode; torch.func."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from cases import case_named
from operands import PASSES, operator, smooth

NAMES = ["c3_g1", "c9_g3", "v1-open", "v1-closed", "all_attributes-closed", "pads_asymmetric-open"]
SMALL = ["ksize_4x2", "c3_g3", "border_v1-open"]


def small(name):
    """A case and its tensors."""
    case = case_named(name)
    return case, smooth(case)


def forward_of(case):
    attributes = case.attributes("NHWC")
    return lambda x, offsets: operator("forward")(x, offsets, **attributes)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    case, (_, x, offsets, _, _) = small(name)
    inputs = x.requires_grad_(), offsets.requires_grad_()
    assert gradcheck(forward_of(case), inputs, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_gradgradcheck(name):
    case, (grad, x, offsets, _, _) = small(name)
    inputs = x.requires_grad_(), offsets.requires_grad_()
    assert gradgradcheck(
        forward_of(case),
        inputs,
        grad.requires_grad_(),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        fast_mode=True,
    )


@pytest.mark.parametrize("name", SMALL)
def test_every_element(name):
    case, (grad, x, offsets, _, _) = small(name)
    inputs = x[:1].clone().requires_grad_(), offsets[:1].clone().requires_grad_()
    assert gradcheck(forward_of(case), inputs, check_forward_ad=True)


def test_channels_last_and_nchw():
    case, (_, x, offsets, _, _) = small("c6_g3")
    attributes = case.attributes("NCHW")
    turned = [t.permute(0, 3, 1, 2) for t in (x, offsets)]
    for order in (torch.channels_last, torch.contiguous_format):
        inputs = [t.detach().clone(memory_format=order).requires_grad_() for t in turned]
        assert gradcheck(lambda *a: operator("forward")(*a, **attributes), inputs, fast_mode=True)
        operator("forward")(*inputs, **attributes).sum().backward()
        assert all(t.grad.is_contiguous(memory_format=order) for t in inputs)


def test_only_what_is_wanted():
    case, (grad, x, offsets, _, _) = small("c6_g3")
    for wanted in (x, offsets):
        (got,) = torch.autograd.grad(
            forward_of(case)(x.detach(), offsets.requires_grad_())
            if wanted is offsets
            else forward_of(case)(x.requires_grad_(), offsets.detach()),
            wanted,
            grad,
        )
        assert got.shape == wanted.shape


# ------ Forward mode


def tangent_of(case, x, offsets, x_t, offsets_t):
    grad = torch.zeros(case.y, dtype=torch.float64)
    return operator("grad_grad")(grad, x, offsets, x_t, offsets_t, **case.attributes("NHWC"))[0]


def test_func_jvp_is_exact():
    case, (_, x, offsets, x_t, offsets_t) = small("all_attributes-closed")
    y, y_t = torch.func.jvp(forward_of(case), (x, offsets), (x_t, offsets_t))
    assert torch.equal(y, forward_of(case)(x, offsets))
    assert torch.equal(y_t, tangent_of(case, x, offsets, x_t, offsets_t)) and y_t.abs().max() > 0


@pytest.mark.parametrize("which", [0, 1])
def test_one_tangent_alone(which):
    case, (_, x, offsets, x_t, offsets_t) = small("c6_g3")
    given = [x, offsets]
    with forward_ad.dual_level():
        given[which] = forward_ad.make_dual(given[which], (x_t, offsets_t)[which])
        y_t = forward_ad.unpack_dual(forward_of(case)(*given)).tangent
    want = tangent_of(case, x, offsets, *((x_t, None) if which == 0 else (None, offsets_t)))
    assert torch.equal(y_t, want) and y_t.abs().max() > 0


def test_a_third_derivative_raises():
    case, (grad, x, offsets, gg_x, gg_offsets) = small("c6_g3")
    given = operator("grad_grad")(
        grad, x.requires_grad_(), offsets, gg_x, gg_offsets, **case.attributes("NHWC")
    )
    with pytest.raises(NotImplementedError, match="no derivative"):
        given[1].sum().backward()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        dual = forward_ad.make_dual(x.detach(), gg_x)
        operator("grad_grad")(grad, dual, offsets, gg_x, gg_offsets, **case.attributes("NHWC"))


# ------ torch.func


def test_func_transforms_compose():
    """A Hessian-vector product in the three ways there are."""
    case, (_, x, offsets, x_t, offsets_t) = small("c6_g3")
    loss = lambda x, offsets: forward_of(case)(x, offsets).square().sum()
    both = torch.func.grad(loss, argnums=(0, 1))
    forward_over_reverse = torch.func.jvp(both, (x, offsets), (x_t, offsets_t))[1]
    reverse_over_reverse = torch.func.vjp(both, x, offsets)[1]((x_t, offsets_t))
    reverse_over_forward = torch.func.grad(
        lambda *at: torch.func.jvp(loss, at, (x_t, offsets_t))[1], argnums=(0, 1)
    )(x, offsets)
    for a, b, c in zip(forward_over_reverse, reverse_over_reverse, reverse_over_forward):
        assert a.abs().max() > 0
        # Three orders of summation, some 100 additions each of terms up to 1e3: 100 x 1e3 x 2.2e-16.
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(a, c, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("in_dims", ["all", "last", "x only"])
def test_vmap(which, in_dims):
    case = case_named("c6_g3")
    batch = [smooth(case, seed) for seed in range(3)]
    order = dict(forward=[1, 2], grad=[0, 1, 2], grad_grad=[0, 1, 2, 3, 4])[which]
    lists = [[one[i] for one in batch] for i in order]
    if in_dims == "x only":
        lists = [ts if i == 1 else ts[0] for ts, i in zip(lists, order)]
    dim = -1 if in_dims == "last" else 0
    dims = tuple(dim if isinstance(ts, list) else None for ts in lists)
    stacked = [torch.stack(ts, dim) if isinstance(ts, list) else ts for ts in lists]
    call = lambda *t: operator(which)(*t, **case.attributes("NHWC"))
    got = torch.vmap(call, in_dims=dims)(*stacked)
    for i in range(3):
        want = call(*(ts[i] if isinstance(ts, list) else ts for ts in lists))
        for g, w in zip((got,) if which == "forward" else got, (want,) if which == "forward" else want):
            torch.testing.assert_close(g[i], w, rtol=1e-12, atol=1e-12)  # other strides, other order of sums


def test_vmap_of_grad():
    """Gradients sample by sample."""
    case = case_named("c6_g3")
    xs, offsets = (torch.stack([smooth(case, seed)[i] for seed in range(3)]) for i in (1, 2))
    loss = lambda x, o: forward_of(case)(x, o).square().sum()
    got = torch.vmap(torch.func.grad(loss, argnums=(0, 1)))(xs, offsets)
    for i in range(3):
        for g, w in zip(got, torch.func.grad(loss, argnums=(0, 1))(xs[i], offsets[i])):
            torch.testing.assert_close(g[i], w, rtol=1e-12, atol=1e-12)
