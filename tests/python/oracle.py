# SPDX-License-Identifier: Apache-2.0
"""The operators of docs/operators.md as matrix products: an oracle that shares nothing with the library.

For one image and one group the samples of all taps are linear in x: y = m S x, with S a dense [taps, H*W]
matrix of hat functions, S[t, (i, j)] = hat(h_t - i) hat(w_t - j) and hat(d) = max(0, 1 - |d|). So grad_x =
(m S)^T grad, and the derivatives come from the one-sided derivatives of the hat. There is no floor, no
corner and no gather: which pixels a tap touches is decided by comparing the offset itself with integers,
which is exact.

Every result is a Sum: not only the value, but also what its error bound is made of (tolerance.py). Tensors
are in logical [N, H, W, C] order. Values are computed in float64, or in long double for float64 tensors, so
that the judge has more digits.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sum:
    """An output as a sum of terms, element by element."""

    value: np.ndarray  # the sum; NaN where a NaN or infinity enters
    magnitude: np.ndarray  # sum of |terms|
    terms: np.ndarray  # how many terms there are, zero ones included

    def __add__(self, other):
        return Sum(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))

    def of_magnitudes(self):
        """The sum of |terms| as a sum of its own."""
        return Sum(with_nan(self.magnitude, np.isnan(self.value)), self.magnitude, self.terms)

    def reordered(self, how):
        return Sum(*(how(getattr(self, f)) for f in self.__dataclass_fields__))


@dataclass(frozen=True)
class Kernel:
    """A matrix of weights, [N, G, taps, H*W]."""

    value: np.ndarray
    touched: np.ndarray  # bool: the pixel is a corner of a live tap
    bad: np.ndarray  # bool: a touched weight is NaN or infinite

    def scaled(self, a):  # a: [N, G, taps]
        f, b = finite(a)
        return Kernel(self.value * f[..., None], self.touched, self.bad | (self.touched & b[..., None]))


def finite(a):
    """a with 0 for what is not finite, and where that is."""
    bad = ~np.isfinite(a)
    return np.where(bad, 0, a), bad


def with_nan(value, bad):
    return np.where(bad, np.nan, value)


def count(a):
    return a.astype(np.float32)  # counts stay below 2^24; float32 products are fast


def interpolate(k, v):
    """k v: [N, G, taps, Cg] from v [N, G, H*W, Cg]."""
    f, b = finite(v)
    bad = count(k.touched) @ count(b) + k.bad.any(-1)[..., None] > 0
    terms = np.broadcast_to(k.touched.sum(-1, dtype=float)[..., None], bad.shape)
    magnitude = abs(k.value).astype(float) @ abs(f).astype(float)  # a bound needs no more digits
    return Sum(with_nan(k.value @ f, bad), magnitude, terms)


def scatter(k, g):
    """k^T g: [N, G, H*W, Cg] from g [N, G, taps, Cg]."""
    turn = lambda a: a.swapaxes(-1, -2)
    return interpolate(Kernel(turn(k.value), turn(k.touched), turn(k.bad)), g)


def pair(k, g, v):
    """sum over c of g (k v): [N, G, taps]."""
    kv, (f, b) = interpolate(k, v), finite(g)
    bad = np.isnan(kv.value) | (b & (kv.terms > 0))
    return Sum(
        with_nan(np.where(bad, 0, f * kv.value).sum(-1), bad.any(-1)),
        (abs(f) * kv.magnitude).sum(-1),
        kv.terms.sum(-1),
    )


class Oracle:
    """One call's geometry and the matrices that it makes. Lists are [along H, along W]."""

    def __init__(self, x, offsets, *, ksize, strides, pads, dilations, groups, modulated, border):
        self.wide = np.longdouble if x.dtype == np.float64 else np.float64
        self.n, self.h, self.w, self.c = x.shape
        self.ho, self.wo = offsets.shape[1:3]
        self.kh, self.kw = ksize
        self.groups, self.modulated, self.closed = groups, modulated, border == "closed"
        base = lambda axis, out, k, pad: np.add.outer(
            np.arange(out) * strides[axis] - pad, np.arange(k) * dilations[axis]
        )  # [Ho, Kh], [Wo, Kw]
        taps = (self.ho, self.kh, self.wo, self.kw)
        base_h = np.broadcast_to(base(0, self.ho, self.kh, pads[0])[:, :, None, None], taps).reshape(-1)
        base_w = np.broadcast_to(base(1, self.wo, self.kw, pads[2]), taps).reshape(-1)
        o_w, o_h, self.mask = self.planes(offsets)
        live_h, live_w = self.live(o_h, base_h, self.h), self.live(o_w, base_w, self.w)
        self.alive = live_h & live_w  # [N, G, taps]
        h, dh, touched_h = self.hat(o_h, base_h, self.h)  # [N, G, taps, H]
        w, dw, touched_w = self.hat(o_w, base_w, self.w)  # [N, G, taps, W]
        outer = lambda a, b: (a[..., :, None] * b[..., None, :]).reshape(*a.shape[:-1], self.h * self.w)
        touched = outer(touched_h, touched_w)
        kernel = lambda a, b: Kernel(outer(a, b), touched, np.zeros_like(touched))
        self.s, self.s_w, self.s_h, self.s_hw = kernel(h, w), kernel(h, dw), kernel(dh, w), kernel(dh, dw)

    # ------ Order: [N, Ho*Kh, Wo*Kw, C] <-> [N, G, taps, C/G], and the same for offsets and images

    def planes(self, offsets):
        """[N, Ho, Wo, P*G*Kh*Kw] -> along W, along H, mask (ones without a plane), each [N, G, taps]."""
        p = 3 if self.modulated else 2
        a = offsets.astype(self.wide).reshape(self.n, self.ho, self.wo, p, self.groups, self.kh, self.kw)
        taps = self.ho * self.kh * self.wo * self.kw
        a = a.transpose(3, 0, 4, 1, 5, 2, 6).reshape(p, self.n, self.groups, taps)
        return a[0], a[1], a[2] if self.modulated else np.ones_like(a[0])

    def from_planes(self, *planes):
        """The reverse, for Sums."""

        def how(a):
            p = 3 if self.modulated else 2
            a = np.stack(a[:p]).reshape(p, self.n, self.groups, self.ho, self.kh, self.wo, self.kw)
            channels = p * self.groups * self.kh * self.kw
            return a.transpose(1, 3, 5, 0, 2, 4, 6).reshape(self.n, self.ho, self.wo, channels)

        return Sum(*(how([getattr(p, f) for p in planes]) for f in Sum.__dataclass_fields__))

    def split(self, a):
        """[N, rows, columns, C] -> [N, G, rows*columns, C/G]."""
        n, rows, columns, c = a.shape
        return a.astype(self.wide).reshape(n, rows * columns, self.groups, c // self.groups).swapaxes(1, 2)

    def join(self, a, rows):
        """The reverse, for Sums."""
        columns = a.value.shape[2] // rows
        return a.reordered(lambda v: v.swapaxes(1, 2).reshape(self.n, rows, columns, self.c))

    # ------ Hats

    def live(self, o, base, size):
        """-1 < base + o < size, or -1 <= base + o < size if closed; compared exactly, and false for NaN."""
        after = (o >= -1 - base) if self.closed else (o > -1 - base)
        return after & (o < size - base)

    def hat(self, o, base, size):
        """hat(base + o - i), i in [0, size), its right-hand derivative along o, and where a corner is."""
        k = np.arange(size) - base[:, None]
        o = o[..., None]
        lower, upper = (k <= o) & (o < k + 1), (k - 1 <= o) & (o < k)
        touched = (lower | upper) & self.alive[..., None]
        o, one = np.where(touched, o, 0), self.wide(1)
        hat = np.where(lower, k + 1 - o, o - (k - 1))  # either slope keeps its digits next to an integer
        return np.where(touched, hat, 0), np.where(touched, np.where(upper, one, -one), 0), touched

    # ------ The operators

    def forward(self, x):
        return self.join(interpolate(self.s.scaled(self.mask), self.split(x)), self.ho * self.kh)

    def grad(self, grad, x):
        g, v, m = self.split(grad), self.split(x), self.mask
        grad_x = scatter(self.s.scaled(m), g)
        planes = pair(self.s_w.scaled(m), g, v), pair(self.s_h.scaled(m), g, v), pair(self.s, g, v)
        return self.join(grad_x, self.h), self.from_planes(*planes)

    def grad_grad(self, grad, x, gg_x, gg_offsets):
        """gg_x or gg_offsets may be None, meaning 0."""
        g, v, m = self.split(grad), self.split(x), self.mask
        u = self.split(np.zeros(x.shape) if gg_x is None else gg_x)
        p = 3 if self.modulated else 2
        none = np.zeros((self.n, self.ho, self.wo, p * self.groups * self.kh * self.kw))
        a, b, e = self.planes(none if gg_offsets is None else gg_offsets)
        e = e if self.modulated else 0 * e
        s, s_w, s_h, s_hw = self.s, self.s_w, self.s_h, self.s_hw
        # The derivative of m S along (a, b, e).
        moved = [s_w.scaled(m).scaled(a), s_h.scaled(m).scaled(b), s.scaled(e)]
        grad_grad = interpolate(s.scaled(m), u) + sum_of(interpolate(k, v) for k in moved)
        grad_x = sum_of(scatter(k, g) for k in moved)
        along_w = pair(s_w.scaled(m), g, u) + pair(s_hw.scaled(m).scaled(b), g, v) + pair(s_w.scaled(e), g, v)
        along_h = pair(s_h.scaled(m), g, u) + pair(s_hw.scaled(m).scaled(a), g, v) + pair(s_h.scaled(e), g, v)
        mask = pair(s, g, u) + pair(s_w.scaled(a), g, v) + pair(s_h.scaled(b), g, v)
        return (
            self.join(grad_grad, self.ho * self.kh),
            self.join(grad_x, self.h),
            self.from_planes(along_w, along_h, mask),
        )


def sum_of(sums):
    first, *rest = sums
    for s in rest:
        first = first + s
    return first
