// SPDX-License-Identifier: Apache-2.0
// Second derivative: the fast schedule (grad_tiles.h) and the deterministic one (grad_sweep.h).
#include "cuda/grad_sweep.h"
#include "cuda/grad_tiles.h"
#include "cuda/kernels.h"

namespace tapfield::cuda {

std::size_t grad_grad_tiles_workspace(const Problem& p) { return scratch_bytes<GradTilesScratch>(p); }

void grad_grad_tiles(const Problem& p, void* workspace) {
  for_each_slice<GradTilesScratch>(p, workspace, [](const Problem& q, const GradTilesScratch& scratch) {
    with_type(q, [&]<class T>(T) { grad_tiles_of<T, 2>(q, scratch); });
  });
}

std::size_t grad_grad_sweep_workspace(const Problem& p) { return scratch_bytes<GradSweepScratch>(p); }

void grad_grad_sweep(const Problem& p, void* workspace) {
  for_each_slice<GradSweepScratch>(p, workspace, [](const Problem& q, const GradSweepScratch& scratch) {
    with_type(q, [&]<class T>(T) { grad_sweep_of<T, 2>(q, scratch); });
  });
}

}  // namespace tapfield::cuda
