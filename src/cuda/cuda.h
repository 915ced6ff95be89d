// SPDX-License-Identifier: Apache-2.0
// The CUDA backend's rows, as backends.cpp lists them: each loads tapfield_cuda when first asked and passes
// the call on.
#pragma once

#include "execution.h"
#include "problem.h"

namespace tapfield::cuda {

// Can CUDA run here, on which GPUs, or why not.
BackendInfo info();

// Frees the device memory that is kept between calls, if there can be any.
void release_scratch();

const char* why_not(const Problem& p);
const char* tiles_why_not(const Problem& p);  // of the gradients: not deterministic
double tiles_cost(const Problem& p);
double sweep_cost(const Problem& p);

std::size_t forward_workspace(const Problem& p, int slots);
void forward(const Problem& p, const Workers& workers, void* workspace);
std::size_t grad_tiles_workspace(const Problem& p, int slots);
void grad_tiles(const Problem& p, const Workers& workers, void* workspace);
std::size_t grad_sweep_workspace(const Problem& p, int slots);
void grad_sweep(const Problem& p, const Workers& workers, void* workspace);
std::size_t grad_grad_tiles_workspace(const Problem& p, int slots);
void grad_grad_tiles(const Problem& p, const Workers& workers, void* workspace);
std::size_t grad_grad_sweep_workspace(const Problem& p, int slots);
void grad_grad_sweep(const Problem& p, const Workers& workers, void* workspace);

}  // namespace tapfield::cuda
