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

// grad_binned.cpp
const char* grad_binned_why_not(const Problem& p);
double grad_binned_cost(const Problem& p);
std::size_t grad_binned_workspace(const Problem& p, int slots);
void grad_binned(const Problem& p, const Workers& workers, void* workspace);

// grad_windows.cpp
const char* grad_windows_why_not(const Problem& p);
double grad_windows_cost(const Problem& p);
std::size_t grad_windows_workspace(const Problem& p, int slots);
void grad_windows(const Problem& p, const Workers& workers, void* workspace);

// grad_grad.cpp
double grad_grad_cost(const Problem& p);
std::size_t grad_grad_workspace(const Problem& p, int slots);
void grad_grad(const Problem& p, const Workers& workers, void* workspace);

}  // namespace tapfield::cpu
