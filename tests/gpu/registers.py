# SPDX-License-Identifier: Apache-2.0
"""Registers of each kernel, from what `nvcc -Xptxas -v` has printed (a build's log on stdin), as a table. Fails
if a kernel spills, or if there are none."""

import re
import subprocess
import sys
from collections import defaultdict

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def read(log):
    """{mangled name: {architecture: [registers, bytes spilled]}}."""
    kernels = defaultdict(dict)
    for line in log:
        if m := ENTRY.search(line):
            entry = kernels[m[1]].setdefault(m[2], [0, 0])
        elif m := SPILLS.search(line):
            entry[1] = int(m[1]) + int(m[2])
        elif m := USED.search(line):
            entry[0] = int(m[1])
    return kernels


def short(name):
    """tapfield::cuda::f_kernel<__half, 4, int, 1>(...) -> f_kernel<half, 4, int, 1>."""
    name = re.sub(r"^void |\(anonymous namespace\)::|tapfield::cuda::", "", name.split(">(")[0] + ">")
    return name.replace("__nv_bfloat16", "bfloat16").replace("__half", "half")


def main():
    kernels = {name: by_arch for name, by_arch in read(sys.stdin).items() if "tapfield" in name}
    if not kernels:
        sys.exit("no kernels in the log")
    names = subprocess.run(
        ["c++filt"], input="\n".join(kernels), capture_output=True, text=True, check=True
    ).stdout
    rows = sorted(zip(map(short, names.splitlines()), kernels.values()), key=lambda row: row[0])
    archs = sorted({a for by_arch in kernels.values() for a in by_arch})
    width = max(len(name) for name, _ in rows) + 2
    print(" " * width + "".join(f"{a:>10}" for a in archs))
    for name, by_arch in rows:
        print(f"{name:{width}}" + "".join(f"{by_arch[a][0]:>10}" for a in archs))
    spilled = [f"{name} on {a}: {v[1]} bytes" for name, by_arch in rows for a, v in by_arch.items() if v[1]]
    if spilled:
        sys.exit("spilled:\n" + "\n".join(spilled))
    print(f"{len(rows)} kernels, no spills")


if __name__ == "__main__":
    main()
