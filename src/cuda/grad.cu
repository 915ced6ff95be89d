// SPDX-License-Identifier: Apache-2.0
// Gradient: the fast schedule (grad_tiles.h) and the deterministic one (grad_sweep.h).
#include "cuda/grad_sweep.h"
#include "cuda/grad_tiles.h"
#include "cuda/kernels.h"

namespace tapfield::cuda {

std::size_t grad_tiles_workspace(const Problem& p) { return scratch_bytes<GradTilesScratch>(p); }

void grad_tiles(const Problem& p, void* workspace) {
  for_each_slice<GradTilesScratch>(p, workspace, [](const Problem& q, const GradTilesScratch& scratch) {
    with_type(q, [&]<class T>(T) { grad_tiles_of<T, 1>(q, scratch); });
  });
}

std::size_t grad_sweep_workspace(const Problem& p) { return scratch_bytes<GradSweepScratch>(p); }

void grad_sweep(const Problem& p, void* workspace) {
  for_each_slice<GradSweepScratch>(p, workspace, [](const Problem& q, const GradSweepScratch& scratch) {
    with_type(q, [&]<class T>(T) { grad_sweep_of<T, 1>(q, scratch); });
  });
}

}  // namespace tapfield::cuda
