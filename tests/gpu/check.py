# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend on a GPU: the whole case table, every dtype and layout, against the oracle of tests/python;
deterministic mode bit for bit; streams and CUDA graphs.

    python check.py LIBTAPFIELD [--stand-in] [--cases NAME ...]

Needs NumPy, ml_dtypes and, but for the stand-in, PyTorch with a GPU. With --stand-in, TAPFIELD_CUDA_LIBRARY
names the one of tests/cuda_on_cpu, and memory is NumPy's.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "python")]

from cases import CASES, DTYPES, LAYOUTS, FLOAT32, case_named, from_layout, to_layout  # noqa: E402
from library import Library  # noqa: E402
from memory import InPlace, OnGpu  # noqa: E402
from oracle import Oracle  # noqa: E402
from tolerance import check  # noqa: E402

TRUTHS = {
    "forward": lambda oracle, t: (oracle.forward(t.x),),
    "grad": lambda oracle, t: oracle.grad(t.grad, t.x),
    "grad_grad": lambda oracle, t: oracle.grad_grad(t.grad, t.x, t.gg_x, t.gg_offsets),
}
PASSES = {
    "forward": ["y"],
    "grad": ["grad_x", "grad_offsets"],
    "grad_grad": ["grad_grad", "grad_x", "grad_offsets"],
}


def arguments(which, t):
    """A pass's inputs and its outputs full of NaN, in the C interface's order."""
    inputs = {"forward": [t.x, t.offsets], "grad": [t.grad, t.x, t.offsets]}
    inputs["grad_grad"] = [*inputs["grad"], t.gg_x, t.gg_offsets]
    like = {"y": t.grad, "grad_grad": t.grad, "grad_x": t.x, "grad_offsets": t.offsets}
    return inputs[which], [np.full_like(like[o], np.nan) for o in PASSES[which]]


class Checker:
    def __init__(self, path, memory, names):
        self.library, self.memory = Library(path), memory
        self.cases = [c for c in CASES if c.x[0] and (not names or c.name in names)]
        assert {c.name for c in self.cases} >= set(names)

    def run(self, which, case, t, layout, runs=1, **execution):
        """The outputs of the last of so many runs, in logical order."""
        inputs, outputs = arguments(which, t.map(lambda a: to_layout(a, layout)))
        inputs, outputs = ([self.memory(a) for a in arrays] for arrays in (inputs, outputs))
        results = []
        for _ in range(runs):
            self.library(which, inputs + outputs, case.attributes(layout), **execution)
            results.append([from_layout(o.numpy().copy(), layout) for o in outputs])
        return results if runs > 1 else results[0]

    def table(self):
        for number, case in enumerate(self.cases):
            for dtype in DTYPES:
                t = case.tensors(dtype)
                oracle = Oracle(t.x, t.offsets, **case.geometry)
                for which, outputs in PASSES.items():
                    truth = TRUTHS[which](oracle, t)
                    for layout in LAYOUTS:
                        for deterministic in (0, 1) if which != "forward" else (0,):
                            got = self.run(which, case, t, layout, deterministic=deterministic)
                            for name, g, sums in zip(outputs, got, truth):
                                mode = "deterministic" if deterministic else "fast"
                                check(
                                    g, sums, t.x.dtype, f"{case.name} {dtype} {layout} {mode} {which} {name}"
                                )
            print(f"\r{number + 1} of {len(self.cases)} cases", end="", flush=True)
        print()

    def determinism(self):
        for case in self.cases:
            if case.name not in ("c64_g8", "one_cell_long", "cann_grad_sample", "scattered", "c258_g2"):
                continue
            t = case.tensors(FLOAT32)
            for which in ("grad", "grad_grad"):
                first, *rest = self.run(which, case, t, "NHWC", runs=10, deterministic=1)
                for other in rest:
                    same = all(a.tobytes() == b.tobytes() for a, b in zip(first, other))
                    assert same, f"{case.name} {which}: deterministic mode gave other bits"

    def streams(self):
        """On another stream, and captured into a graph that is replayed on new data."""
        for deterministic in (0, 1):
            self.stream_and_graph(deterministic)

    def stream_and_graph(self, deterministic):
        import torch

        case = case_named("c16_g2")
        t = case.tensors(FLOAT32)
        truth = Oracle(t.x, t.offsets, **case.geometry).grad(t.grad, t.x)
        inputs, outputs = ([OnGpu(a) for a in arrays] for arrays in arguments("grad", t))

        def call():
            stream = torch.cuda.current_stream().cuda_stream
            attributes = case.attributes("NHWC")
            self.library("grad", inputs + outputs, attributes, deterministic=deterministic, stream=stream)

        def compare(what):
            for o, s in zip(outputs, truth):
                check(o.numpy(), s, t.x.dtype, what)
                o.tensor.fill_(float("nan"))

        with torch.cuda.stream(torch.cuda.Stream()):
            call()
            torch.cuda.current_stream().synchronize()
        compare("on a stream")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        graph.replay()
        torch.cuda.synchronize()
        compare("from a graph")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", metavar="LIBTAPFIELD", help="libtapfield.so")
    parser.add_argument("--stand-in", action="store_true", help="on the CPU, by tests/cuda_on_cpu")
    parser.add_argument("--cases", nargs="+", default=[], metavar="NAME", help="the table's, not all of it")
    options = parser.parse_args()
    checker = Checker(options.library, InPlace if options.stand_in else OnGpu, options.cases)
    checks = [checker.table, checker.determinism] + ([] if options.stand_in else [checker.streams])
    for what in checks:
        print(f"{what.__name__}:", flush=True)
        what()
    print("all passed")


if __name__ == "__main__":
    main()
