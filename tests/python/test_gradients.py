# SPDX-License-Identifier: Apache-2.0
"""The gradients are gradients: adjointness and finite differences of the library's own passes, in float64.

y is linear in x and mask and, within a cell, in each offset; so is what the second derivative
differentiates. A central difference along one of them has no truncation error: only roundings remain, and
the tolerance is made of them.
"""

import dataclasses
import math

import numpy as np
import pytest

import calls
from cases import FLOAT64, case_named

STEP = 2.0**-4
EPS = 2.0**-52
# Either side of a difference errs by 16 eps of its magnitude (tolerance.py: CHAIN times 4 terms), and o +-
# STEP rounds by 2 eps for |o| < 8, times a slope of at most 5 magnitudes while fractions are in [3/16,
# 13/16]. All over 2 STEP.
TOLERANCE = 32 * EPS / STEP

NAMES = [
    "c3_g1",
    "c17_g1",
    "c9_g3",
    "c64_g8",
    "v1-open",
    "v1_g4",
    "all_attributes-open",
    "all_attributes-closed",
    "pads_asymmetric-open",
    "strides_over_kernel",
    "ksize_4x2",
    "one_cell_g8",
    "pixel-open",
]


@pytest.fixture(params=NAMES)
def case(request):
    return case_named(request.param)


@pytest.fixture(params=[None, "reference"], ids=["default", "reference"])
def backend(request):
    return request.param


@pytest.fixture
def t(case):
    """The case's tensors with offsets below 8, every fraction in [1/4, 3/4], and cotangents of at most 1."""
    t = case.tensors(FLOAT64)
    planes = split(case, t.offsets)
    for a in planes[:2]:
        whole = np.clip(np.floor(a), -7, 6)
        a[...] = whole + 0.25 + 0.5 * (a - np.floor(a))
    return dataclasses.replace(t, offsets=np.concatenate(planes, axis=-1), gg_offsets=np.tanh(t.gg_offsets))


def split(case, offsets):
    return [a.copy() for a in np.split(offsets, case.planes, axis=-1)]


def moved(case, t, plane, by):
    """t with one plane of offsets moved."""
    planes = split(case, t.offsets)
    planes[plane] += by
    return dataclasses.replace(t, offsets=np.concatenate(planes, axis=-1))


def difference(case, t, plane, by, f):
    """The derivative of f(t) along `by` in a plane of offsets."""
    return (f(moved(case, t, plane, STEP * by)) - f(moved(case, t, plane, -STEP * by))) / (2 * STEP)


def per_tap(case, a):
    """[N, Ho*Kh, Wo*Kw, C] -> each group's sums in the order of offsets, [N, Ho, Wo, G*Kh*Kw]."""
    (ho, wo), (kh, kw), n, g = case.output, case.ksize, case.x[0], case.groups
    a = a.reshape(n, ho, kh, wo, kw, g, case.x[3] // g).sum(-1)
    return a.transpose(0, 1, 3, 5, 2, 4).reshape(n, ho, wo, g * kh * kw)


def dot(a, b):
    return math.fsum((a * b).ravel())


def assert_close(got, want, tolerance):
    worst = np.max(abs(got - want) / np.maximum(tolerance, 1e-300))
    assert worst <= 1, f"{worst:.3g} times the tolerance"


def chain(case):
    """Bounds the terms of any sum of a gradient: every tap's four corners, and a group's channels."""
    return 4 * math.prod(case.output) * math.prod(case.ksize) * (case.x[3] // case.groups)


def test_adjoint(case, backend, t):
    """<deformable_offsets(x), grad> = <x, grad_x>."""
    (y,) = calls.call("forward", case, t, backend=backend)
    (magnitude,) = calls.call("forward", case, t, backend="reference.magnitudes")
    grad_x, _ = calls.call("grad", case, t, backend=backend)
    tolerance = 4 * EPS * (4 + chain(case)) * dot(magnitude, abs(t.grad))
    assert_close(dot(y, t.grad), dot(t.x, grad_x), tolerance)
    assert dot(y, t.grad) != 0


def test_grad_offsets(case, backend, t):
    _, grad_offsets = calls.call("grad", case, t, backend=backend)
    _, magnitude = calls.call("grad", case, t, backend="reference.magnitudes")
    (y_magnitude,) = calls.call("forward", case, t, backend="reference.magnitudes")
    size = per_tap(case, abs(t.grad) * y_magnitude)
    value = lambda at: per_tap(case, t.grad * calls.call("forward", case, at, backend=backend)[0])
    for plane, (got, m) in enumerate(zip(split(case, grad_offsets), split(case, magnitude))):
        assert_close(got, difference(case, t, plane, 1, value), TOLERANCE * (size + case.x[3] * m))


def test_grad_grad_is_the_forward_tangent(case, backend, t):
    """grad_grad = the tangent of the forward along (gg_x, gg_offsets)."""
    grad_grad, _, _ = calls.call("grad_grad", case, t, backend=backend)
    magnitude, _, _ = calls.call("grad_grad", case, t, backend="reference.magnitudes")
    (y_magnitude,) = calls.call("forward", case, t, backend="reference.magnitudes")
    y = lambda at: calls.call("forward", case, at, backend=backend)[0]
    tangent = y(dataclasses.replace(t, x=t.gg_x))
    for plane, along in enumerate(split(case, t.gg_offsets)):
        tangent = tangent + difference(case, t, plane, along, y)
    assert_close(grad_grad, tangent, TOLERANCE * (y_magnitude + magnitude))


def pairing(case, backend, t):
    """<grad_x, gg_x> + <grad_offsets, gg_offsets>, tap by tap, [N, Ho, Wo, G*Kh*Kw]."""
    (u,) = calls.call("forward", case, dataclasses.replace(t, x=t.gg_x), backend=backend)
    _, grad_offsets = calls.call("grad", case, t, backend=backend)
    return per_tap(case, t.grad * u) + sum(split(case, grad_offsets * t.gg_offsets))


def magnitudes_of_pairing(case, t):
    absolute = t.map(abs)
    (u,) = calls.call("forward", case, dataclasses.replace(t, x=t.gg_x), backend="reference.magnitudes")
    _, grad_offsets = calls.call("grad", case, t, backend="reference.magnitudes")
    return per_tap(case, absolute.grad * u) + sum(split(case, grad_offsets * absolute.gg_offsets))


def test_grad_grad_offsets(case, backend, t):
    """The second derivative's grad_offsets is the derivative of the pairing along each plane."""
    _, _, grad_offsets = calls.call("grad_grad", case, t, backend=backend)
    _, _, magnitude = calls.call("grad_grad", case, t, backend="reference.magnitudes")
    size = case.x[3] * magnitudes_of_pairing(case, t)
    value = lambda at: pairing(case, backend, at)
    for plane, (got, m) in enumerate(zip(split(case, grad_offsets), split(case, magnitude))):
        assert_close(got, difference(case, t, plane, 1, value), TOLERANCE * (size + case.x[3] * m))


def test_grad_grad_x(case, backend, t):
    """The pairing's part in x is linear: <grad_x, x'> = <grad_offsets(x'), gg_offsets> for any x'."""
    other = case.tensors(FLOAT64, seed=1).x
    _, grad_x, _ = calls.call("grad_grad", case, t, backend=backend)
    at = dataclasses.replace(t, x=other)
    _, grad_offsets = calls.call("grad", case, at, backend=backend)
    _, magnitude = calls.call("grad", case, at, backend="reference.magnitudes")
    tolerance = 4 * EPS * 2 * 3 * chain(case) * dot(magnitude, abs(t.gg_offsets))
    assert_close(dot(grad_x, other), dot(grad_offsets, t.gg_offsets), tolerance)
    assert dot(grad_x, other) != 0


@pytest.mark.parametrize("absent", ["gg_x", "gg_offsets"])
def test_an_absent_cotangent_means_zero(case, backend, t, absent):
    zero = dataclasses.replace(t, **{absent: np.zeros_like(getattr(t, absent))})
    none = dataclasses.replace(t, **{absent: None})
    size = calls.call("grad_grad", case, zero, backend="reference.magnitudes")
    for a, b, m in zip(
        calls.call("grad_grad", case, zero, backend=backend),
        calls.call("grad_grad", case, none, backend=backend),
        size,
    ):
        assert_close(a, b, 2 * 4 * EPS * 3 * chain(case) * m)
