# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions that a warp issues in the channel loops of the CUDA kernels, from their machine code. A floor
for issue-bound kernels where no GPU is at hand: an SM issues at most four a cycle, and on an H200 moves some 17 bytes
in one (4.3 TB/s, 132 SMs, 1.9 GHz), so that a warp's 512 bytes leave 120 instructions.

    python count_cuda.py NVDISASM FILE.cubin ...

Prints for each kernel with vectors the shortest way through its channel loop that does all its arithmetic: of the
forward for a tap, of the gradient for four taps, of which so many are in the next column's cell and the others in the
same as the tap before. Predicated instructions count as issued; what is not in the loop (a tap's position, the sort) is
not counted.
"""

import re
import subprocess
import sys

BRANCH = re.compile(r"(?:^|\s)BRA\s.*\((\.L_x_\d+)\)")
VECTORISED = re.compile(r"I(?:f|6__half|13__nv_bfloat16)Li([48])Ei")
ARITHMETIC, SHUFFLE, LOAD, WRITE = "FFMA", "SHFL", r"\bLDG\.", r"\b(?:REDG?|ATOMG?|STG)\."


def kernels(listing):
    """(mangled name, [instruction], {label: index}) of each."""
    for section in re.split(r"\n\s*\.section\s+\.text\.", listing)[1:]:
        code, labels = [], {}
        for line in section.splitlines():
            if m := re.match(r"(\.L_x_\d+):", line):
                labels[m[1]] = len(code)
            elif m := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
                code.append(m[1])
        yield section.split(",")[0], code, labels


def channel_loop(code, labels):
    """(first, last) of the smallest loop with almost all multiply-adds that a loop has."""
    loops = []
    for last, instruction in enumerate(code):
        if (m := BRANCH.search(instruction)) and labels[m[1]] < last:
            loops.append((labels[m[1]], last))
    weight = lambda loop: sum(ARITHMETIC in i for i in code[loop[0] : loop[1] + 1])
    most = max(map(weight, loops), default=0)
    return min(
        (loop for loop in loops if weight(loop) > 0.9 * most),
        key=lambda loop: loop[1] - loop[0],
        default=None,
    )


def paths(code, labels, first, last):
    """{(multiply-adds, shuffles, loads, writes): the fewest instructions} of ways from first to last."""
    shortest = {}
    for at in range(last, first - 1, -1):
        instruction, found = code[at], {}
        kind = (
            ARITHMETIC in instruction,
            SHUFFLE in instruction,
            bool(re.search(LOAD, instruction)),
            bool(re.search(WRITE, instruction)),
        )
        following = [at + 1]
        if m := BRANCH.search(instruction):
            conditional = instruction.startswith("@") or re.search(r"BRA !?U?P\d", instruction)
            following = [labels[m[1]]] + ([at + 1] if conditional else [])
        ends = [{(0, 0, 0, 0): 0}] if at == last else [shortest[f] for f in following if at < f <= last]
        for end in ends:
            for counts, n in end.items():
                counts = tuple(a + b for a, b in zip(counts, kind))
                found[counts] = min(found.get(counts, n + 1), n + 1)
        shortest[at] = found
    return shortest[first]


def main():
    nvdisasm, *files = sys.argv[1:]
    print(
        f"{'instructions of a warp; taps of four in the next column':44}"
        + "".join(f"{n:6}" for n in range(5))
    )
    for file in files:
        listing = subprocess.run([nvdisasm, "-c", file], capture_output=True, text=True, check=True).stdout
        for name, code, labels in kernels(listing):
            loop = channel_loop(code, labels)
            if not VECTORISED.search(name) or not loop:
                continue
            ways = paths(code, labels, *loop)
            fma = max(w[0] for w in ways)
            shuffles = max(w[1] for w in ways if w[0] == fma)
            short = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout
            short = re.sub(r"void |\(anonymous namespace\)::|\w+::", "", short.split(">(")[0])
            if shuffles == 0:
                print(f"{short + '>':44}{ways[fma, 0, 4, 1]:6}")
                continue
            vector = int(VECTORISED.search(name)[1])
            own = 1 if "sweep" in name else 0  # it writes dots to memory
            counts = [ways[fma, shuffles, 4 + 2 * moves, own + moves * vector // 2] for moves in range(5)]
            print(f"{short + '>':44}" + "".join(f"{n:6}" for n in counts))


if __name__ == "__main__":
    main()
