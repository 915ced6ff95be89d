# SPDX-License-Identifier: Apache-2.0
"""How far a result may lie from the truth: the only place that says so.

eps is 2^-23 where sums are made in float32 (16-bit and float32 tensors), 2^-52 in float64; an operation
rounds by at most eps/2 of its result. An output element is a sum of terms.

- A term is a product of grad, x, the mask, a cotangent and a corner weight made of two fractions'
  complements: at most 8 roundings, so 4 eps of its magnitude.
- It then takes part in at most (number of terms - 1) additions: another eps/2 of the sum of magnitudes
  each, in whatever order they are made. Together these stay below CHAIN * eps * terms * sum of |terms|,
  with CHAIN = 4 for a term that stands alone. (Weights keep their digits: lh = o - floor(o) and hh =
  floor(o) + 1 - o are one rounding each.)
- Below the least normal number a product loses digits absolutely: the least subnormal, times what it is yet
  to be multiplied by. The tests' factors stay below 6, at most three of them follow: UNDERFLOW least
  subnormals a term.

A 16-bit output is that sum rounded once. Rounding is monotone, so it must lie between the rounded ends of
the interval of admissible sums; this also says which results may overflow to infinity.

The rms over an output of error / sum of |terms|, the rounding of a 16-bit output allowed for, stays below
RMS eps: the worst case of every rounding the same way does not happen in every element.
"""

import numpy as np

from cases import FLOAT32, FLOAT64, finfo, is_16bit

CHAIN = 4
UNDERFLOW = 2**8
RMS = 4
RMS_ELEMENTS = 32  # below this many, one element's error is the rms


def computing(dtype):
    """The type in which tensors of dtype are computed."""
    return FLOAT64 if dtype == np.float64 else FLOAT32


def eps(dtype):
    return float(finfo(computing(dtype)).eps)


def bound(truth, dtype):
    """The greatest |error| before an output is rounded; truth is the oracle's Sum, dtype that of x."""
    return CHAIN * eps(dtype) * truth.terms * truth.magnitude + truth.terms * underflow(dtype)


def underflow(dtype):
    return UNDERFLOW * float(finfo(computing(dtype)).smallest_subnormal)


def half_ulp(got):
    """By how much storing may have rounded: nothing but for 16-bit outputs, whose sums are wider."""
    if not is_16bit(got.dtype):
        return 0.0
    return np.spacing(abs(np.where(np.isfinite(got), got, np.zeros_like(got)))).astype(float) / 2


def units(got, truth, dtype):
    """error / (eps * sum of |terms|) of finite elements of normal size, a 16-bit output's rounding off."""
    least = float(finfo(computing(dtype)).smallest_normal)
    usable = np.isfinite(truth.value) & np.isfinite(got) & (truth.magnitude > least)
    error = abs(got.astype(truth.value.dtype) - np.where(usable, truth.value, 0))
    error = np.maximum(error - half_ulp(got) - truth.terms * underflow(dtype), 0)
    return (error[usable] / (eps(dtype) * truth.magnitude[usable])).astype(float)


def check(got, truth, dtype, what):
    """Asserts that an output `got` is within bounds of the oracle's Sum; dtype is that of x."""
    check_elements(got, truth, dtype, what)
    u = units(got, truth, dtype)
    if u.size >= RMS_ELEMENTS:
        rms = np.sqrt(np.mean(u**2))
        assert rms < RMS, f"{what}: the rms error is {rms:.2f} eps of the sum of magnitudes, not below {RMS}"


def check_elements(got, truth, dtype, what):
    """check without the rms."""
    assert got.shape == truth.value.shape, f"{what}: shape {got.shape}, not {truth.value.shape}"
    bad, margin = np.isnan(truth.value), bound(truth, dtype)
    value = np.where(bad, 0, truth.value)
    with np.errstate(over="ignore"):
        low, high = (value - margin).astype(got.dtype), (value + margin).astype(got.dtype)
    with np.errstate(invalid="ignore"):
        right = np.where(bad, ~np.isfinite(got), (low <= got) & (got <= high))
    if not right.all():
        at = tuple(int(i) for i in np.argwhere(~right)[0])
        want = "a non-finite value" if bad[at] else f"{value[at]!s} +- {margin[at]!s}"
        raise AssertionError(
            f"{what}: {(~right).sum()} of {right.size} elements are wrong, the first at {at}: "
            f"{got[at]!s}, not {want} ({truth.terms[at]:.0f} terms)"
        )
