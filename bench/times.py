# SPDX-License-Identifier: Apache-2.0
"""Times of Python calls, for bench_torch.py and bench_jax.py."""

import platform
import statistics
import time


def seconds(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def median(call, budget=0.3, least=3):
    """Of some calls, after one that warms up."""
    times = [seconds(call)]
    times = [seconds(call) for _ in range(max(least, min(200, int(budget / times[0]))))]
    return statistics.median(times)


def medians(ours, theirs, budget=0.6, block=1):
    """block: calls of each in a row, the first of which does not count where there are several. So it is where both have
    threads of their own, which wait for a while after a call and run into the next one's time."""
    seconds(ours)
    count = max(3, min(100, int(budget / seconds(theirs) / block)))
    times = [], []
    for _ in range(count):
        for call, side in zip((ours, theirs), times):
            side += [seconds(call) for _ in range(block)][block > 1 :]
    return tuple(statistics.median(side) for side in times)


def per_call(call, count=3000):
    call()
    return min(seconds(lambda: [call() for _ in range(count)]) for _ in range(3)) / count * 1e6


def cpu():
    """The processor's name."""
    with open("/proc/cpuinfo") as lines:
        names = (line.split(": ")[1].strip() for line in lines if line.startswith("model name"))
        return next(names, platform.machine())
