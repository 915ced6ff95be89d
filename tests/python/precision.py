# SPDX-License-Identifier: Apache-2.0
"""Prints the precision of every output over the case table, as a Markdown table:

    python tests/python/precision.py [ROW ...]     e.g. cpu.binned; without: the library's own choice

Worst is the largest error / (eps * sum of |terms|) of any element in any case, rms the largest of any
output; eps is 2^-23, or 2^-52 for float64. The rounding of a 16-bit output, at most half an ulp, is taken
off. Bounds: tolerance.py.
"""

import sys

import numpy as np

import calls
from cases import CASES, DTYPES, LAYOUTS
from oracle import Oracle
from tolerance import RMS_ELEMENTS, units


def measure(which, rows):
    """{(output, dtype): (worst, rms, case of the worst)}"""
    found = {}
    for dtype in DTYPES:
        for case in CASES:
            t = case.tensors(dtype)
            sums = calls.truth(which, Oracle(t.x, t.offsets, **case.geometry), t)
            for layout in LAYOUTS:
                for row in rows:
                    outputs = calls.call(which, case, t, layout, row, run=calls.able) or ()
                    for name, got, want in zip(calls.OUTPUTS[which], outputs, sums):
                        u = units(got, want, dtype)
                        if not u.size:
                            continue
                        worst, rms, where = found.get((name, dtype), (0.0, 0.0, ""))
                        if u.max() >= worst:
                            worst, where = u.max(), case.name
                        if u.size >= RMS_ELEMENTS:
                            rms = max(rms, np.sqrt(np.mean(u**2)))
                        found[name, dtype] = worst, rms, where
    return found


def main():
    names = sys.argv[1:] or [None]
    print("| pass | output | dtype | worst, eps | rms, eps | worst in case |\n|---|---|---|---|---|---|")
    for which in calls.PASSES:
        rows = [n for n in names if n is None or n in calls.rows(which)]
        for (name, dtype), (worst, rms, where) in measure(which, rows).items() if rows else ():
            print(f"| {which} | {name} | {dtype} | {worst:.2f} | {rms:.2f} | {where} |")


if __name__ == "__main__":
    main()
