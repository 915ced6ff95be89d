// SPDX-License-Identifier: Apache-2.0
// One row of the benchmark: a call beside the memory floor.
#pragma once

#include <benchmark/benchmark.h>

#include "operator.h"

namespace tapfield::bench {

// Times `pairs` pairs of a call and its floor (floor.h; the better of plain and streaming stores), fewer
// where they would take more than a second. The row's time is the median of the calls. Calls of less than
// three milliseconds run in batches, on warm caches. Counters:
//   x                the median of the pairs' ratios, call to floor
//   x_low, x_high    the second lowest and second highest ratio, which for 9 pairs hold the true median
//                    with 96%; of fewer than 6 pairs the lowest and highest
//   floor_ms, GB/s   the median floor and its bandwidth
//   of_memcpy        that bandwidth as a share of the C library's, for as many bytes read and written
//   MiB, MiB_bound   scratch and what is promised of it
//   outside_us       of calls below 0.1 ms: the median of the call less its kernel
// The row fails where scratch is above its bound, or of_memcpy is below 0.8 in a call that moves more than a
// MiB (below, memcpy's loop counts, not memory).
void measure(benchmark::State& state, const Spec& spec, int threads, int pairs);

bool any_failed();  // any row of this process

}  // namespace tapfield::bench
