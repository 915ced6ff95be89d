// SPDX-License-Identifier: Apache-2.0
// What the warps of the CUDA backend's passes do, counted where no GPU is at hand: its kernels as nvcc
// compiles them to PTX run on the CPU (tests/cuda_on_cpu/ptx). All kernels of a pass, per 512 bytes that it
// must move.
#include <cstdio>
#include <cstdlib>

#include "calls.h"
#include "cuda_runtime.h"
#include "profile.h"

using namespace tapfield;
using namespace tapfield::testing;

namespace {

double bytes_of(const Call& call) {
  std::size_t bytes = call.x.bytes().size() + call.offsets.bytes().size();
  if (call.pass != Pass::forward) bytes += call.grad.bytes().size();
  for (const auto& o : call.outputs) bytes += o->bytes().size();
  return static_cast<double>(bytes);
}

}  // namespace

int main() {
  setenv("TAPFIELD_CUDA_LIBRARY", TAPFIELD_CUDA_ON_CPU, 1);
  std::printf("%-22s%-10s%8s%14s%9s%9s%9s%9s\n", "", "", "channels", "instructions", "passes", "loaded",
              "stored", "added");
  for (const Row* row : kernels(DeviceType::cuda))
    for (DType t : {DType::float32, DType::bfloat16})
      for (std::int64_t channels : {256, 64, 32, 16, 8, 4}) {
        if (row->pass == Pass::grad_grad) continue;
        Case c{};
        c.name = "profile", c.kind = "normal", c.border = "open", c.modulated = true;
        c.groups = channels < 64 ? 64 / channels : 1, c.x = {1, 32, 32, channels * c.groups};
        c.kh = c.kw = 3, c.pads = {1, 1, 1, 1}, c.stride_h = c.stride_w = c.dil_h = c.dil_w = 1;
        Call call(c, row->pass, Dtypes(t), false);
        call.device = {DeviceType::cuda, 0};
        Execution e;
        e.backend = row->name;
        ptx_on_cpu::begin_profile();
        call.run(e);
        const ptx_on_cpu::Counts n = ptx_on_cpu::end_profile();
        const double units = bytes_of(call) / 512;
        std::printf("%-22s%-10s%8d%14.0f%9.0f%9.1f%9.1f%9.1f\n",
                    (std::string(row->name) + " " + name_of(row->pass)).c_str(), tapfield::name_of(t),
                    static_cast<int>(channels), n.instructions / units, n.passes / units, n.loaded / units,
                    n.stored / units, n.added / units);
      }
}
