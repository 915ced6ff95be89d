// SPDX-License-Identifier: Apache-2.0
// The CPU backend's rows, as backends.cpp lists them. Each schedule's file says what it does, what it moves
// and why its sums have one order.
#pragma once

#include "execution.h"
#include "problem.h"

namespace tapfield::cpu {

const char* simd_target();  // the instruction set that dispatch chose, e.g. "AVX3"

// Why no row of the CPU can run p, or null (geometry.cpp).
const char* too_wide(const Problem& p);

// forward.cpp
double forward_cost(const Problem& p);
std::size_t forward_workspace(const Problem& p, int slots);
void forward(const Problem& p, const Workers& workers, void* workspace);

// binned.cpp
const char* binned_why_not(const Problem& p);
double binned_cost(const Problem& p);
std::size_t binned_workspace(const Problem& p, int slots);
void binned(const Problem& p, const Workers& workers, void* workspace);

// windowed.cpp
const char* windowed_why_not(const Problem& p);
double windowed_cost(const Problem& p);
std::size_t windowed_workspace(const Problem& p, int slots);
void windowed(const Problem& p, const Workers& workers, void* workspace);

}  // namespace tapfield::cpu
