// SPDX-License-Identifier: Apache-2.0
#include "backends.h"

#include <cstring>
#include <string>

#include "ascend/ascend.h"
#if TAPFIELD_HAS_CPU
#include "cpu/cpu.h"
#endif
#include "cuda/cuda.h"
#include "reference.h"

namespace tapfield {
namespace {

const char* whole_tensors(const Problem& p) {
  return p.offsets_planes[0].data ? "a layer's offsets and mask are tensors of their own" : nullptr;
}

// Only when asked for by name.
double never_chosen(const Problem&) { return 1e300; }

constexpr DeviceType kCpu = DeviceType::cpu, kCuda = DeviceType::cuda;

constexpr Row kRows[] = {
#if TAPFIELD_HAS_CPU
    {"cpu.rows", "cpu", kCpu, Pass::forward, cpu::too_wide, cpu::forward_cost, cpu::forward_workspace,
     cpu::forward},
    {"cpu.binned", "cpu", kCpu, Pass::grad, cpu::binned_why_not, cpu::binned_cost, cpu::binned_workspace,
     cpu::binned},
    {"cpu.windows", "cpu", kCpu, Pass::grad, cpu::windowed_why_not, cpu::windowed_cost,
     cpu::windowed_workspace, cpu::windowed},
    {"cpu.binned", "cpu", kCpu, Pass::grad_grad, cpu::binned_why_not, cpu::binned_cost, cpu::binned_workspace,
     cpu::binned},
    {"cpu.windows", "cpu", kCpu, Pass::grad_grad, cpu::windowed_why_not, cpu::windowed_cost,
     cpu::windowed_workspace, cpu::windowed},
#endif

    {"cuda.tiles", "cuda", kCuda, Pass::forward, cuda::why_not, cuda::tiles_cost, cuda::forward_workspace,
     cuda::forward},
    {"cuda.tiles", "cuda", kCuda, Pass::grad, cuda::tiles_why_not, cuda::tiles_cost,
     cuda::grad_tiles_workspace, cuda::grad_tiles},
    {"cuda.sweep", "cuda", kCuda, Pass::grad, cuda::why_not, cuda::sweep_cost, cuda::grad_sweep_workspace,
     cuda::grad_sweep},
    {"cuda.tiles", "cuda", kCuda, Pass::grad_grad, cuda::tiles_why_not, cuda::tiles_cost,
     cuda::grad_grad_tiles_workspace, cuda::grad_grad_tiles},
    {"cuda.sweep", "cuda", kCuda, Pass::grad_grad, cuda::why_not, cuda::sweep_cost,
     cuda::grad_grad_sweep_workspace, cuda::grad_grad_sweep},

    {"reference.values", "reference", kCpu, Pass::forward, whole_tensors, never_chosen, reference::workspace,
     reference::forward},
    {"reference.values", "reference", kCpu, Pass::grad, whole_tensors, never_chosen, reference::workspace,
     reference::grad},
    {"reference.values", "reference", kCpu, Pass::grad_grad, whole_tensors, never_chosen,
     reference::workspace, reference::grad_grad},
    // Each output element is the sum of |terms| instead of the sum of terms: what error bounds are made of.
    {"reference.magnitudes", "reference.magnitudes", kCpu, Pass::forward, whole_tensors, never_chosen,
     reference::workspace, reference::forward_magnitudes},
    {"reference.magnitudes", "reference.magnitudes", kCpu, Pass::grad, whole_tensors, never_chosen,
     reference::workspace, reference::grad_magnitudes},
    {"reference.magnitudes", "reference.magnitudes", kCpu, Pass::grad_grad, whole_tensors, never_chosen,
     reference::workspace, reference::grad_grad_magnitudes},
};

}  // namespace

std::span<const Row> rows() { return kRows; }

const Row& choose(const Problem& p, DeviceType device, const char* forced) {
  const Row* best = nullptr;
  bool named = false;
  std::string reasons, names;
  const char* backend = nullptr;  // the last one in names; a backend's rows of one pass stand together
  for (const Row& row : kRows) {
    if (row.pass != p.pass) continue;
    if (!backend || std::strcmp(backend, row.backend) != 0)
      names += (names.empty() ? "" : ", ") + std::string(backend = row.backend);
    if (forced && std::strcmp(forced, row.name) != 0 && std::strcmp(forced, row.backend) != 0) continue;
    named = true;
    const char* why_not = row.device == device ? row.why_not(p) : "the tensors are on another device";
    if (why_not)
      reasons += std::string(reasons.empty() ? "" : "; ") + row.name + ": " + why_not;
    else if (!best || row.cost(p) < best->cost(p))
      best = &row;
  }
  if (!named)
    throw std::invalid_argument("execution.backend must be one of " + names + " but is \"" + forced + '"');
  if (!best) throw std::invalid_argument("no backend can run this call: " + reasons);
  return *best;
}

const Row*& last_row() {
  thread_local const Row* row = nullptr;
  return row;
}

std::vector<BackendInfo> backends() {
  return {
#if TAPFIELD_HAS_CPU
    {"cpu", "cpu", true, std::string("SIMD target ") + cpu::simd_target()},
#else
    {"cpu", "cpu", false, "this build has no CPU kernels (TAPFIELD_CPU=OFF)"},
#endif
        {"reference", "cpu", true,
         "plain loops in double, to read and to check against; runs only when named"},
        cuda::info(), ascend::info(),
  };
}

}  // namespace tapfield
