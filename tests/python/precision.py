# SPDX-License-Identifier: Apache-2.0
"""Prints the precision of every output over the case table, as a Markdown table:

    python tests/python/precision.py [ROW ...]     e.g. cpu.binned; without: the library's own choice

Worst is the largest error / (eps * sum of |terms|) of any element in any case, rms the largest of any
output; eps is 2^-23, or 2^-52 for float64. The rounding of a 16-bit output, at most half an ulp, is taken
off. Bounds: tolerance.py.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

import calls
from cases import CASES, DTYPES, LAYOUTS
from oracle import Oracle
from tolerance import RMS_ELEMENTS, units


def measure(case, dtype, names):
    """{(pass, output): (worst, rms)} of one case."""
    t, found = case.tensors(dtype), {}
    oracle = Oracle(t.x, t.offsets, **case.geometry)
    for which in calls.PASSES:
        sums = calls.truth(which, oracle, t)
        for row in [n for n in names if n is None or n in calls.rows(which)]:
            for layout in LAYOUTS:
                outputs = calls.call(which, case, t, layout, row, run=calls.able) or ()
                for name, got, want in zip(calls.OUTPUTS[which], outputs, sums):
                    u = units(got, want, dtype)
                    worst, rms = found.get((which, name), (0.0, 0.0))
                    if u.size:
                        worst = max(worst, u.max())
                    if u.size >= RMS_ELEMENTS:
                        rms = max(rms, np.sqrt(np.mean(u**2)))
                    found[which, name] = worst, rms
    return found


def main():
    names = sys.argv[1:] or [None]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = {(d, c.name): pool.submit(measure, c, d, names) for d in DTYPES for c in CASES}
        found = {key: job.result() for key, job in jobs.items()}
    print("| pass | output | dtype | worst, eps | rms, eps | worst in case |\n|---|---|---|---|---|---|")
    for which in calls.PASSES:
        for name in calls.OUTPUTS[which]:
            for dtype in DTYPES:
                of = {c.name: found[dtype, c.name].get((which, name)) for c in CASES}
                of = {case: pair for case, pair in of.items() if pair}
                if of:
                    case = max(of, key=lambda c: of[c][0])
                    rms = max(pair[1] for pair in of.values())
                    print(f"| {which} | {name} | {dtype} | {of[case][0]:.2f} | {rms:.2f} | {case} |")


if __name__ == "__main__":
    main()
