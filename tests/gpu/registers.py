# SPDX-License-Identifier: Apache-2.0
"""Registers of each kernel, from what `nvcc -Xptxas -v` has printed (a build's log on stdin), as a table. Fails if a
kernel spills or keeps an array in local memory, or if there are none.

    python registers.py [FILE.ptx ...] < build.log

Of PTX files: fails if a kernel reads or writes global memory by the byte, or does not know that it is global. Vectors
that nvcc has taken to pieces look so, and no test sees it.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
LOCAL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
PTX_ENTRY = re.compile(r"\.entry (\w+)\(")
ACCESS = re.compile(r"\b(?:ld|st|red|atom)\.\S+")


def read(log):
    """{mangled name: {architecture: [registers, bytes of local memory]}}."""
    kernels = defaultdict(dict)
    for line in log:
        if m := ENTRY.search(line):
            entry = kernels[m[1]].setdefault(m[2], [0, 0])
        elif m := LOCAL.search(line):
            entry[1] = sum(map(int, m.groups()))
        elif m := USED.search(line):
            entry[0] = int(m[1])
    return kernels


def narrow_accesses(ptx):
    """{mangled name: accesses by the byte, or to memory of any kind} of the kernels that have any."""
    found, entry = defaultdict(list), None
    for line in ptx:
        if m := PTX_ENTRY.search(line):
            entry = m[1]
        for access in ACCESS.findall(line):
            _, space, *_ = access.rstrip(";").split(".")
            anywhere = space not in ("global", "shared", "param", "local", "const")
            if anywhere or (space == "global" and re.search(r"\.[bsu]8$", access)):
                found[entry].append(access)
    return found


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
    in_memory = [f"{name} on {a}: {v[1]} bytes" for name, by_arch in rows for a, v in by_arch.items() if v[1]]
    if in_memory:
        sys.exit("in local memory:\n" + "\n".join(in_memory))
    narrow = []
    for path in sys.argv[1:]:
        for name, accesses in narrow_accesses(Path(path).read_text(encoding="utf-8").splitlines()).items():
            narrow.append(f"{path}: {name} has {len(accesses)} of {', '.join(sorted(set(accesses)))}")
    if narrow:
        sys.exit("\n".join(narrow))
    print(
        f"{len(rows)} kernels, nothing in local memory; {len(sys.argv) - 1} PTX files, no access by the byte"
    )


if __name__ == "__main__":
    main()
