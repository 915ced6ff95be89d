# SPDX-License-Identifier: Apache-2.0
"""What the scripts of the peers share: tensors, the truth, our call beside theirs. Runs in a peer's environment with
`import tapfield` from build/python.

A peer's script calls main(name, version, passes, samples). passes: {"forward": f, "grad": f}, as far as the peer has
them; f(problem) returns (call, outputs): call() runs it once, outputs() gives what the last call computed as NumPy
arrays. samples: the peer is the operator itself; else there is a convolution behind it.
"""

import json
import os
import statistics
import sys
import time
from functools import cached_property
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "build" / "python"), str(ROOT / "tests" / "python")]
THREADS = int(sys.argv[1])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])  # before anybody counts processors

import layers  # noqa: E402
import tapfield  # noqa: E402
from cases import TABLE, expand  # noqa: E402

SECONDS, PAIRS = 4, 9  # of a row: pairs until either is reached, but 3 at least
PAUSE = 0.02  # between two calls, so that one's waiting threads do not run into the other's time


class Problem:
    """A case's tensors, NCHW, float32, and weights [G, C/G, Kh, Kw]: each group's channels and taps add up to one
    channel, the least that a convolution can do after sampling.

    Offsets are odd multiples of 2^-11: positions are exact in float32 whichever way they are added up, and never
    integers, where conventions differ.
    """

    def __init__(self, letter, which):
        (self.case,) = (c for row in TABLE if row["name"] == f"bench_{letter}" for c in expand(row))
        self.which = which
        t = self.case.tensors(np.float32)
        nchw = lambda a: np.ascontiguousarray(a.transpose(0, 3, 1, 2))
        self.x = nchw(t.x)
        self.offsets = nchw(t.offsets)
        self.planes = self.case.groups * self.case.ksize[0] * self.case.ksize[1]
        position = self.offsets[:, : 2 * self.planes]
        position[:] = (np.floor(position * 1024) + 0.5) / 1024
        rng = np.random.default_rng(1)
        normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
        self.weights = normal(self.case.groups, self.x.shape[1] // self.case.groups, *self.case.ksize)
        self.grad_out = normal(self.x.shape[0], self.case.groups, *self.case.output)
        self.grad = self.spread(self.grad_out, self.weights)

    # ------ For peers with torchvision's layout

    @cached_property
    def offset(self):
        """[N, 2*G*Kh*Kw, Ho, Wo], along H and along W in turn."""
        w, h = self.offsets[:, : self.planes], self.offsets[:, self.planes : 2 * self.planes]
        return np.stack([h, w], axis=2).reshape(w.shape[0], -1, *w.shape[2:])

    @cached_property
    def mask(self):
        return np.ascontiguousarray(self.offsets[:, 2 * self.planes :])

    def offsets_planes(self, offset, mask):
        """Back: tapfield's offsets."""
        h_w = offset.reshape(offset.shape[0], -1, 2, *offset.shape[2:])
        return np.concatenate([h_w[:, :, 1], h_w[:, :, 0], mask], axis=1)

    # ------ The convolution behind the sampling, in any dtype

    def folded(self, y):
        """y [N, C, Ho*Kh, Wo*Kw] as [N, G, C/G, Ho, Kh, Wo, Kw]."""
        (ho, wo), (kh, kw), g = self.case.output, self.case.ksize, self.case.groups
        return y.reshape(y.shape[0], g, -1, ho, kh, wo, kw)

    def convolve(self, y, weights):
        return np.einsum("ngchiwj,gcij->nghw", self.folded(y), weights, optimize=True)

    def spread(self, grad_out, weights):
        """The gradient of <convolve(y, weights), grad_out> with respect to y."""
        n, c = self.x.shape[:2]
        grad = np.einsum("nghw,gcij->ngchiwj", grad_out, weights)
        return np.ascontiguousarray(grad).reshape(n, c, *(self.case.y[1:3]))

    # ------ Ours

    def ours(self, layout, reuse):
        """A function that runs our call once; reuse: into the same outputs each time."""
        attributes = self.case.attributes(layout)
        lay = lambda a: a if layout == "NCHW" else np.ascontiguousarray(a.transpose(0, 2, 3, 1))
        x, offsets, grad = lay(self.x), lay(self.offsets), lay(self.grad)
        if self.which == "forward":
            out = np.zeros_like(grad) if reuse else None
            return lambda: tapfield.deformable_offsets(x, offsets, out=out, **attributes)
        out = (np.zeros_like(x), np.zeros_like(offsets)) if reuse else None
        return lambda: tapfield.deformable_offsets_grad(grad, x, offsets, out=out, **attributes)

    def exact(self, backend):
        """Our outputs in float64; of backend reference.magnitudes the sums of |terms|."""
        attributes = self.case.attributes("NCHW") | {"backend": backend}
        x, offsets, grad = (a.astype(np.float64) for a in (self.x, self.offsets, self.grad))
        if self.which == "forward":
            return [tapfield.deformable_offsets(x, offsets, **attributes)]
        return list(tapfield.deformable_offsets_grad(grad, x, offsets, **attributes))

    # ------ What outputs must be: [(name, value, bound on |error|)]

    def bounded(self, values, magnitudes):
        """The bound is docs/operators.md's, with 16 taps a kernel element where it asks for a pixel's taps."""
        kernel, channels = self.case.ksize[0] * self.case.ksize[1], self.weights.shape[1]
        terms = {"y": 4, "conv": 4 * kernel * channels, "grad_x": 16 * kernel, "grad_offsets": 4 * channels}
        eps = float(np.finfo(np.float32).eps)
        return [(name, values[name], 4 * eps * terms[name] * magnitudes[name]) for name in values]

    @cached_property
    def sampled(self):
        """Of the operator itself."""
        names = ["y"] if self.which == "forward" else ["grad_x", "grad_offsets"]
        exact, magnitudes = self.exact("reference"), self.exact("reference.magnitudes")
        return self.bounded(dict(zip(names, exact)), dict(zip(names, magnitudes)))

    @cached_property
    def convolved(self):
        """Of the sampling with the convolution behind it. Its gradients are the operator's, grad being exact."""
        if self.which == "grad":
            return self.sampled
        (_, y, _), (magnitude,) = self.sampled[0], self.exact("reference.magnitudes")
        weights = self.weights.astype(np.float64)
        return self.bounded(
            {"conv": self.convolve(y, weights)}, {"conv": self.convolve(magnitude, abs(weights))}
        )


def excess(got, wanted):
    """The worst |error| in units of its bound, over all outputs."""
    worst = 0.0
    for value, (_, want, bound) in zip(got, wanted, strict=True):
        assert value.shape == want.shape, f"shape {value.shape}, not {want.shape}"
        error = np.abs(value - want)
        worst = max(
            worst, float(np.max(np.where(np.isfinite(error), error, np.inf) / np.maximum(bound, 1e-30)))
        )
    return worst


def interleaved(*calls):
    """Median milliseconds of each, called in turn."""
    times = [[] for _ in calls]
    end = time.perf_counter() + SECONDS
    for call in calls:
        call()
    while len(times[0]) < 3 or (len(times[0]) < PAIRS and time.perf_counter() < end):
        for call, mine in zip(calls, times):
            time.sleep(PAUSE)
            begin = time.perf_counter()
            call()
            mine.append((time.perf_counter() - begin) * 1e3)
    return [statistics.median(t) for t in times]


def measure(row, problem, prepare, samples):
    """Adds to row what it finds: first how far results are off, then times."""
    call, outputs = prepare(problem)
    call()
    row["excess"] = excess(outputs(), problem.sampled if samples else problem.convolved)
    ours, ours_nhwc = problem.ours("NCHW", reuse=False), problem.ours("NHWC", reuse=True)
    result = ours()
    row["ours_excess"] = excess(result if isinstance(result, tuple) else [result], problem.sampled)
    times = interleaved(call, ours, ours_nhwc)
    row |= dict(zip(["peer_ms", "ours_ms", "ours_nhwc_ms"], times))


def main(name, version, passes, samples):
    """Prints one JSON object for each pass of the peer and each case of the command line."""
    for letter in sys.argv[2:]:
        for which, prepare in passes.items():
            row = {"peer": f"{name} {version}", "pass": which, "case": letter, "threads": THREADS}
            try:
                measure(row, Problem(letter, which), prepare, samples)
            except Exception as error:  # a peer's own, of any kind: the table says it
                row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            print(json.dumps(row), flush=True)


def main_of_layer(name):
    """main, for one of layers.LAYERS."""

    def forward(p):
        tensors = p.x, p.offset, p.weights, p.mask
        how = p.case.strides, p.case.pads, p.case.dilations, p.case.groups, p.case.groups, THREADS
        return layers.LAYERS[name](layers.Layer(*tensors, *how))

    main(name, layers.version(name), {"forward": forward}, samples=False)
