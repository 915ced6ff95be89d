# SPDX-License-Identifier: Apache-2.0
"""Times deform_conv2d beside torchvision's on the bench cases, fp32: ./dev bench torch [--case abc] [--threads 1 2].

A row: torchvision's time over ours; ours over its bound; ours; torchvision's; the bound; of the forward OpenVINO's and
ONNX Runtime's whole layer over ours. Each time is the median of some calls, ours and theirs in turn. Tensors are
contiguous NCHW with offsets of deviation 1, as torchvision wants them. The bound is the time of the matrix products
alone, by the fastest route tried, plus the sampling's bytes at the bandwidth of a copy in the same run: of forward x,
offsets and columns once; of backward those, and columns, x and offsets once more with their gradients. The second
table is time per call of what does almost nothing.
"""

import argparse
import json
import sys
import time
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
import torchvision
from tapfield.torch import deform_conv2d, deformable_offsets

sys.path.append(str(Path(__file__).parent / "peers"))

import layers  # noqa: E402
from times import cpu, median, medians, per_call  # noqa: E402

CASES = {
    row["name"].removeprefix("bench_"): row
    for row in json.loads((Path(__file__).parents[1] / "tests/cases.json").read_text())["cases"]
    if row.get("bench")
}
EXTRA = {name: dict(x=x, ksize=[3, 3], strides=[1, 1], pads=[1] * 4, dilations=[1, 1], groups=1)
         for name, x in dict(pixel=[1, 1, 1, 4], tiny=[1, 8, 8, 16], eight=[1, 8, 8, 64], small=[2, 16, 16, 64]).items()}  # fmt: skip


class Case:
    def __init__(self, row):
        n, h, w, c = row["x"]
        (kh, kw), (sh, sw), (dh, dw) = row["ksize"], row["strides"], row["dilations"]
        ph, pw = row["pads"][0], row["pads"][2]
        ho, wo = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
        taps = row["groups"] * kh * kw
        torch.manual_seed(0)
        self.leaves = [
            t.requires_grad_()
            for t in (torch.randn(n, c, h, w), torch.randn(n, 2 * taps, ho, wo), torch.randn(c, c, kh, kw) / c,
                      torch.randn(c), torch.rand(n, taps, ho, wo))
        ]  # fmt: skip
        self.how = dict(stride=(sh, sw), padding=(ph, pw), dilation=(dh, dw))
        self.grad = torch.randn(n, c, ho, wo)
        self.layer_how = [sh, sw], [ph, ph, pw, pw], [dh, dw], 1, row["groups"]
        self.side = max(h, w)
        self.pixels, self.row, self.co = n * ho * wo, kh * kw * c, c
        self.x_bytes = 4 * n * h * w * c
        self.offset_bytes, self.y_bytes = 12 * n * taps * ho * wo, 4 * self.pixels * self.row

    @torch.no_grad()
    def forward(self, function):
        return self.call(function)

    def call(self, function):
        x, offset, weight, bias, mask = self.leaves
        return function(x, offset, weight, bias, mask=mask, **self.how)

    def backward(self, function):
        out = self.call(function)
        return lambda: torch.autograd.grad(out, self.leaves, self.grad, retain_graph=True)

    def layer(self, name, threads):
        """A peer's call of the forward without bias, after a look at its result."""
        x, offset, weight, bias, mask = (t.detach() for t in self.leaves)
        arrays = [t.numpy() for t in (x, offset, weight, mask)]
        call, outputs = layers.LAYERS[name](layers.Layer(*arrays, *self.layer_how, threads))
        call()
        error = self.forward(deform_conv2d) - bias[:, None, None] - torch.from_numpy(outputs()[0])
        # Rounding of a sum of terms, and of positions, each of which moves a sample by twice x's largest.
        magnitude = x.abs().max() * weight.abs().sum((1, 2, 3)).max()
        bound = torch.finfo(torch.float32).eps * (4 * self.row + 4 * self.side) * magnitude
        if not error.abs().max() <= bound:
            raise RuntimeError(f"{name} differs by {error.abs().max():.2g}, more than {bound:.2g}")
        return call

    def products(self):
        """Seconds of the matrix products alone: forward, backward."""
        y, w = torch.randn(self.pixels, self.row), torch.randn(self.co, self.row)
        g, out = torch.randn(self.pixels, self.co), torch.empty(self.pixels, self.co)
        y_out, w_out = torch.empty_like(y), torch.empty_like(w)
        products = [(y, w.t(), out), (g, w, y_out), (g.t(), y, w_out)]
        routes = [lambda a, b, to: torch.mm(a, b, out=to)]
        if torch.backends.mkldnn.is_available():
            routes.append(
                lambda a, b, _: torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], None)
            )
        with torch.no_grad():
            forward, *backward = (min(median(partial(route, *m)) for route in routes) for m in products)
        return forward, sum(backward)

    def bytes(self):
        forward = self.x_bytes + self.offset_bytes + self.y_bytes
        return forward, forward + self.y_bytes + 2 * self.x_bytes + 2 * self.offset_bytes


def installed():
    """The names of the peers that are whole layers."""
    names = []
    for name in layers.LAYERS:
        try:
            layers.version(name)
            names.append(name)
        except metadata.PackageNotFoundError:
            print(f"not measured: {name}, which is not installed")
    return names


def bandwidth():
    """Bytes a second of a copy, read and written."""
    a, b = torch.empty(1 << 24), torch.empty(1 << 24)
    return 2 * a.nbytes / median(lambda: b.copy_(a))


def table(names, threads):
    peers = installed()
    print(
        f"{'case':10} {'threads':>7} {'pass':9} {'torchvision/ours':>16} {'ours/bound':>10} {'ours ms':>9} {'theirs ms':>10} {'bound ms':>9}",
        *(f"{peer}/ours" for peer in peers),
    )
    for name in names:
        case = Case(EXTRA.get(name) or CASES[name])
        for n in threads:
            torch.set_num_threads(n)
            rate, products, sizes = bandwidth(), case.products(), case.bytes()
            forward = medians(
                *(partial(case.forward, f) for f in (deform_conv2d, torchvision.ops.deform_conv2d))
            )
            backward = medians(case.backward(deform_conv2d), case.backward(torchvision.ops.deform_conv2d))
            beside = [
                medians(partial(case.forward, deform_conv2d), case.layer(peer, n), block=4) for peer in peers
            ]
            for which, (ours, theirs), product, size in zip(
                ("forward", "backward"), (forward, backward), products, sizes
            ):
                bound = product + size / rate
                print(
                    f"{name:10} {n:7} {which:9} {theirs / ours:16.1f} {ours / bound:10.2f} {ours * 1e3:9.2f} {theirs * 1e3:10.2f} {bound * 1e3:9.2f}",
                    *(
                        f"{t / o:{len(peer) + 5}.1f}"
                        for peer, (o, t) in zip(peers, beside)
                        if which == "forward"
                    ),
                    flush=True,
                )


def overhead():
    torch.set_num_threads(1)
    x, offsets = torch.randn(1, 1, 1, 1), torch.zeros(1, 1, 1, 3)
    how = dict(ksize=[1, 1], strides=[1, 1, 1, 1], pads=[0, 0, 0, 0])
    raw = lambda: torch.ops.tapfield.deformable_offsets.default(x, offsets, **how)
    layer = [torch.randn(1, 1, 1, 1), torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, 1)]
    rows = []
    with torch.inference_mode():
        rows.append(("deformable_offsets, the operator, inference_mode", per_call(raw)))
    with torch.no_grad():
        rows.append(("deformable_offsets, the operator, no_grad", per_call(raw)))
        rows.append(("deformable_offsets, no_grad", per_call(lambda: deformable_offsets(x, offsets, **how))))
        rows.append(("deform_conv2d, no_grad", per_call(lambda: deform_conv2d(*layer))))
        rows.append(
            ("torchvision's deform_conv2d, no_grad", per_call(lambda: torchvision.ops.deform_conv2d(*layer)))
        )
    x.requires_grad_()
    rows.append(("deformable_offsets with autograd", per_call(lambda: deformable_offsets(x, offsets, **how))))
    layer[0].requires_grad_()
    rows.append(("deform_conv2d with autograd", per_call(lambda: deform_conv2d(*layer))))
    rows.append(("torchvision's with autograd", per_call(lambda: torchvision.ops.deform_conv2d(*layer))))
    print("\nmicroseconds a call, one element")
    for name, time_us in rows:
        print(f"{time_us:8.1f}  {name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", nargs="*", default=[*"abcdef", *EXTRA])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    args = parser.parse_args()
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {cpu()}, {time.strftime('%Y-%m-%d')}"
    )
    table(args.case, args.threads)
    overhead()


if __name__ == "__main__":
    main()
