# SPDX-License-Identifier: Apache-2.0
"""Times the CUDA backend on the bench cases of tests/cases.json beside the memory floor of the same run: the
bytes that a call must read and write, over the bandwidth of a device-to-device copy.

    python gpu.py LIBTAPFIELD [--case a] [--dtype float32 ...] [--nchw]

A time is the median of 20 calls between two events, the L2 cache full of something else before each. Where
torchvision is installed, its operator's forward and backward are timed on the same shapes, in NCHW, which is
its layout; its backward has the gradient's outputs and the mask's.
"""

import argparse
import datetime
import functools
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "gpu"))

import torch  # noqa: E402
from library import Library  # noqa: E402

CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
SAMPLES = 20
PASSES = [("forward", False), ("grad", False), ("grad", True), ("grad_grad", False), ("grad_grad", True)]
FAR = 1 << 30  # bytes: to push everything else out of L2, and for as long as the host takes to queue a call


class Timer:
    def __init__(self):
        self.other = torch.empty(FAR, dtype=torch.uint8, device="cuda")

    def __call__(self, call):
        """Median seconds."""
        for _ in range(3):
            call()
        times = []
        for _ in range(SAMPLES):
            self.other.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return statistics.median(times)


class View:
    """What library.py takes."""

    def __init__(self, tensor):
        self.tensor, self.code = tensor, CODES[tensor.dtype]
        self.address, self.shape, self.strides = tensor.data_ptr(), list(tensor.shape), list(tensor.stride())
        self.bytes = tensor.numel() * tensor.element_size()


class Bench:
    """One case's tensors; "flow" and "normal" offsets as the table says, others normal."""

    def __init__(self, row, dtype, nchw):
        n, h, w, c = row["x"]
        (kh, kw), (sh, sw), (dh, dw) = row["ksize"], row["strides"], row["dilations"]
        top, bottom, left, right = row["pads"]
        ho, wo = (
            (h + top + bottom - dh * (kh - 1) - 1) // sh + 1,
            (w + left + right - dw * (kw - 1) - 1) // sw + 1,
        )
        self.row, self.nchw, lanes = row, nchw, row["groups"] * kh * kw
        planes = 3 if row["modulated"] else 2
        layout = (lambda n, h, w, c: (n, c, h, w)) if nchw else (lambda *s: s)
        four = lambda a, b: [1, 1, a, b] if nchw else [1, a, b, 1]
        self.attributes = dict(
            ksize=[kh, kw], strides=four(sh, sw), pads=row["pads"], dilations=four(dh, dw),
            data_format="NCHW" if nchw else "NHWC", deformable_groups=row["groups"],
            modulated=row["modulated"], border="open",
        )  # fmt: skip
        make = lambda *shape: View(torch.randn(layout(*shape), device="cuda", dtype=torch.float32).to(dtype))
        self.x, self.offsets, self.grad = (
            make(n, h, w, c),
            make(n, ho, wo, planes * lanes),
            make(n, ho * kh, wo * kw, c),
        )
        self.displace(row["offsets"], ho, wo, lanes)
        self.y, self.grad_x, self.grad_offsets = (
            View(torch.empty_like(t.tensor)) for t in (self.grad, self.x, self.offsets)
        )
        self.gg_x, self.gg_offsets = make(n, h, w, c), make(n, ho, wo, planes * lanes)

    def displace(self, recipe, ho, wo, lanes):
        o = self.offsets.tensor if not self.nchw else self.offsets.tensor.permute(0, 2, 3, 1)
        along_w, along_h = o[..., :lanes], o[..., lanes : 2 * lanes]
        if recipe["kind"] == "flow":
            h = torch.arange(ho, device="cuda")[:, None, None] / ho
            w = torch.arange(wo, device="cuda")[None, :, None] / wo
            along_w.mul_(0.5).add_(10 * torch.sin(6 * h)), along_h.mul_(0.5).add_(10 * torch.cos(5 * w))
        elif recipe["kind"] == "normal":
            along_w.mul_(recipe.get("std", 1)), along_h.mul_(recipe.get("std", 1))

    def tensors(self, which):
        return {
            "forward": [self.x, self.offsets, self.y],
            "grad": [self.grad, self.x, self.offsets, self.grad_x, self.grad_offsets],
            "grad_grad": [self.grad, self.x, self.offsets, self.gg_x, self.gg_offsets, self.y, self.grad_x, self.grad_offsets],
        }[which]  # fmt: skip


def torchvision_of(bench):
    """Calls by (pass, deterministic) of torchvision's operator on the same sizes, or None."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return None
    b, row = bench, bench.row
    if (
        b.x.tensor.dtype not in (torch.float32, torch.float64)
        or not row["modulated"]
        or row["pads"][0] != row["pads"][1]
    ):
        return None
    lanes = row["groups"] * row["ksize"][0] * row["ksize"][1]
    nchw = lambda t: (t if b.nchw else t.permute(0, 3, 1, 2)).contiguous()
    x, o = nchw(b.x.tensor).requires_grad_(), nchw(b.offsets.tensor)
    offset = (
        torch.stack([o[:, lanes : 2 * lanes], o[:, :lanes]], 2).flatten(1, 2).contiguous().requires_grad_()
    )
    mask = o[:, 2 * lanes :].contiguous().requires_grad_()
    # One output channel: its convolution is small beside the sampling.
    weight = torch.randn(1, x.shape[1], *row["ksize"], device="cuda", dtype=x.dtype)
    forward = lambda: torch.ops.torchvision.deform_conv2d(
        x, weight, offset, mask, weight.new_zeros(1), *row["strides"], row["pads"][0], row["pads"][2],
        *row["dilations"], 1, row["groups"], True,
    )  # fmt: skip
    y = forward()
    ones = torch.ones_like(y)
    backward = lambda: torch.autograd.grad(y, (x, offset, mask), ones, retain_graph=True)
    return {("forward", False): forward, ("grad", False): backward}


def copy_bandwidth(timed):
    """Bytes read and written in a second."""
    a, b = (torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * a.numel() / timed(lambda: b.copy_(a))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", metavar="LIBTAPFIELD", help="libtapfield.so")
    parser.add_argument("--case", help="those whose name has this in it")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--nchw", action="store_true", help="also in NCHW")
    options = parser.parse_args()
    library, timed = Library(options.library), Timer()
    bandwidth = copy_bandwidth(timed)
    print(f"{torch.cuda.get_device_name()}, {datetime.date.today()}, copy {bandwidth / 1e9:.0f} GB/s")
    print(f"{'case':28}{'dtype':10}{'pass':28}{'ms':>9}{'floor ms':>10}{'x floor':>9}{'torchvision ms':>16}")
    table = json.loads((ROOT / "tests" / "cases.json").read_text(encoding="utf-8"))["cases"]
    for row in table:
        if not row.get("bench") or (options.case and options.case not in row["name"]):
            continue
        for dtype in options.dtype:
            for nchw in (False, True) if options.nchw else (False,):
                measure(library, timed, bandwidth, Bench(row, getattr(torch, dtype), nchw), dtype)
                torch.cuda.empty_cache()


def measure(library, timed, bandwidth, bench, dtype):
    """Prints a line for each pass of a case."""
    theirs = torchvision_of(bench)
    stream = torch.cuda.current_stream().cuda_stream
    for which, deterministic in PASSES:
        tensors = bench.tensors(which)
        call = functools.partial(
            library, which, tensors, bench.attributes, deterministic=deterministic, stream=stream
        )
        seconds, floor = timed(call), sum(t.bytes for t in tensors) / bandwidth
        peer = theirs.get((which, deterministic)) if theirs else None
        name = which + (" deterministic" if deterministic else "") + (" NCHW" if bench.nchw else "")
        print(
            f"{bench.row['name']:28}{dtype:10}{name:28}{seconds * 1e3:9.3f}{floor * 1e3:10.3f}{seconds / floor:9.2f}"
            + (f"{timed(peer) * 1e3:16.3f}" if peer else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
