// SPDX-License-Identifier: Apache-2.0
// The CUDA backend's schedules. All queue their work on p.stream of the current device and return; p.n >= 1.
// workspace: device memory of so many bytes, aligned to 64, not shared with calls on other streams.
#pragma once

#include "problem.h"

namespace tapfield::cuda {

// forward.cu
std::size_t forward_workspace(const Problem& p);
void forward(const Problem& p, void* workspace);

// grad.cu: fast (grad_tiles.h) and deterministic (grad_sweep.h)
std::size_t grad_tiles_workspace(const Problem& p);
void grad_tiles(const Problem& p, void* workspace);
std::size_t grad_sweep_workspace(const Problem& p);
void grad_sweep(const Problem& p, void* workspace);

// grad_grad.cu: the same two of the second derivative
std::size_t grad_grad_tiles_workspace(const Problem& p);
void grad_grad_tiles(const Problem& p, void* workspace);
std::size_t grad_grad_sweep_workspace(const Problem& p);
void grad_grad_sweep(const Problem& p, void* workspace);

}  // namespace tapfield::cuda
