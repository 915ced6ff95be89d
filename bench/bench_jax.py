# SPDX-License-Identifier: Apache-2.0
"""Times tapfield.jax on the bench cases, fp32, compiled: ./dev bench jax [--case abc].

Two tables. deformable_offsets: the time of XLA's call over the same call through NumPy, with as many threads.
deform_conv2d: the time of the same in JAX's own operations (four gathers, their weights, an einsum), of which the Flax
layers found are made too, over ours. Each time is the median of some calls, ours and theirs in turn;
offsets have deviation 1; XLA has as many threads as there are cores. Then the time per call of what does almost nothing.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tapfield
from tapfield.jax import deform_conv2d, deformable_offsets
from times import cpu, medians, per_call

CASES = {
    row["name"].removeprefix("bench_"): row
    for row in json.loads((Path(__file__).parents[1] / "tests/cases.json").read_text())["cases"]
    if row.get("bench")
}


class Case:
    """NHWC tensors of deformable_offsets, and NCHW ones of a layer with as many output channels as input channels."""

    def __init__(self, row):
        n, h, w, c = row["x"]
        (kh, kw), (sh, sw), pads, (dh, dw) = row["ksize"], row["strides"], row["pads"], row["dilations"]
        ho, wo = (
            (h + sum(pads[:2]) - dh * (kh - 1) - 1) // sh + 1,
            (w + sum(pads[2:]) - dw * (kw - 1) - 1) // sw + 1,
        )
        taps = row["groups"] * kh * kw
        rng = np.random.default_rng(0)
        normal = lambda *shape: rng.standard_normal(shape, "f")
        self.x, self.offsets, self.grad = (
            normal(n, h, w, c),
            normal(n, ho, wo, 3 * taps),
            normal(n, ho * kh, wo * kw, c),
        )
        self.attributes = dict(
            ksize=(kh, kw), strides=(1, sh, sw, 1), pads=tuple(pads), dilations=(1, dh, dw, 1), deformable_groups=row["groups"]
        )  # fmt: skip
        self.how = dict(stride=(sh, sw), padding=(pads[0], pads[2]), dilation=(dh, dw))
        self.layer = (
            normal(n, c, h, w),
            normal(n, 2 * taps, ho, wo),
            normal(c, c, kh, kw) / c,
            normal(n, taps, ho, wo),
        )


def plain(input, offset, weight, mask, stride, padding, dilation):
    """deform_conv2d in JAX's own operations."""
    n, c, h, w = input.shape
    co, _, kh, kw = weight.shape
    _, _, ho, wo = offset.shape
    g = offset.shape[1] // (2 * kh * kw)
    along = offset.reshape(n, g, kh, kw, 2, ho, wo)
    grid = lambda out, k, axis: (
        np.add.outer(np.arange(k) * dilation[axis], np.arange(out) * stride[axis]) - padding[axis]
    )
    y = along[:, :, :, :, 0] + grid(ho, kh, 0)[:, None, :, None]
    x = along[:, :, :, :, 1] + grid(wo, kw, 1)[None, :, None, :]
    y0, x0 = jnp.floor(y), jnp.floor(x)
    ly, lx = y - y0, x - x0
    maps = input.reshape(n, g, c // g, h * w)

    def corner(y, x, weight):  # [N, G, C/G, taps]
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        at = (jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)).astype(jnp.int32).reshape(n, g, 1, -1)
        return jnp.take_along_axis(maps, at, 3) * jnp.where(inside, weight, 0).reshape(n, g, 1, -1)

    samples = (
        corner(y0, x0, (1 - ly) * (1 - lx)) + corner(y0, x0 + 1, (1 - ly) * lx)
        + corner(y0 + 1, x0, ly * (1 - lx)) + corner(y0 + 1, x0 + 1, ly * lx)
    ) * mask.reshape(n, g, 1, -1)  # fmt: skip
    columns = samples.reshape(n, c, kh * kw, ho * wo)
    return jnp.einsum("nckp,dck->ndp", columns, weight.reshape(co, c, kh * kw)).reshape(n, co, ho, wo)


def ready(function, *arguments):
    compiled = jax.jit(function).lower(*arguments).compile()
    arguments = jax.device_put(arguments)
    return lambda: jax.block_until_ready(compiled(*arguments))


def calls(case):
    """(pass, ours, NumPy's): both allocate what they return."""
    forward = lambda x, offsets: deformable_offsets(x, offsets, **case.attributes)
    gradient = lambda grad, x, offsets: jax.vjp(forward, x, offsets)[1](grad)
    inputs = case.grad, case.x, case.offsets
    yield (
        "forward",
        ready(forward, *inputs[1:]),
        partial(tapfield.deformable_offsets, *inputs[1:], **case.attributes),
    )
    yield (
        "gradient",
        ready(gradient, *inputs),
        partial(tapfield.deformable_offsets_grad, *inputs, **case.attributes),
    )


def operators(names):
    print(f"{'case':10} {'pass':9} {'ours ms':>9} {'ours/NumPy':>10}")
    for name in names:
        for which, ours, numpys in calls(Case(CASES[name])):
            mine, theirs = medians(ours, numpys)
            print(f"{name:10} {which:9} {mine * 1e3:9.2f} {mine / theirs:10.2f}", flush=True)


def layers(names):
    print(f"\n{'case':10} {'pass':9} {'ours ms':>9} {'plain/ours':>10}")
    for name in names:
        c = Case(CASES[name])
        ours = lambda x, o, w, m, c=c: deform_conv2d(x, o, w, mask=m, **c.how)
        theirs = lambda x, o, w, m, c=c: plain(x, o, w, m, **c.how)
        error = abs(ours(*c.layer) - theirs(*c.layer)).max()
        # Rounding of a position moves a sample by twice x's largest; of a sum, its terms.
        terms = c.layer[2][0].size + max(c.x.shape[1:3])
        bound = 4 * 2.0**-23 * terms * abs(c.layer[0]).max() * abs(c.layer[2]).sum((1, 2, 3)).max()
        if not error <= bound:
            raise RuntimeError(f"{name}: the two differ by {error:.2g}, more than {bound:.2g}")
        gradient = lambda f: lambda *t: jax.grad(lambda *t: f(*t).sum(), (0, 1, 2, 3))(*t)
        for which, pair in {
            "forward": (ours, theirs),
            "backward": (gradient(ours), gradient(theirs)),
        }.items():
            mine, other = medians(*(ready(f, *c.layer) for f in pair))
            print(f"{name:10} {which:9} {mine * 1e3:9.2f} {other / mine:10.1f}", flush=True)


def overhead():
    x, offsets = jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 3))
    how = dict(ksize=(1, 1), strides=(1, 1, 1, 1), pads=(0, 0, 0, 0))
    compiled, doubled = jax.jit(lambda x, o: deformable_offsets(x, o, **how)), jax.jit(lambda x, o: x * 2)
    rows = [
        ("deformable_offsets, compiled", lambda: compiled(x, offsets).block_until_ready()),
        ("x * 2, compiled", lambda: doubled(x, offsets).block_until_ready()),
        ("deformable_offsets, eager", lambda: deformable_offsets(x, offsets, **how).block_until_ready()),
    ]
    print("\nmicroseconds a call, one element")
    for name, call in rows:
        print(f"{per_call(call):8.1f}  {name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", nargs="*", default=[*"abcdef"])
    args = parser.parse_args()
    print(
        f"jax {jax.__version__}, {cpu()}, {tapfield.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}"
    )
    operators(args.case)
    layers(args.case)
    overhead()


if __name__ == "__main__":
    main()
