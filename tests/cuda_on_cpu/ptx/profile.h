// SPDX-License-Identifier: Apache-2.0
// Counts what the warps of translated kernels do, where those are compiled with PTX_PROFILE=1. Lanes are
// taken to go together through a block of instructions as often as any of them comes there: a warp on a GPU,
// whose lanes part, may do it more often.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptx_on_cpu {

enum class Space { global, shared, param, generic };
enum class Access { load, store, add };

#if PTX_PROFILE
// A thread comes to basic block `number` of its file, of so many instructions.
void enter(int number, int instructions);
// It accesses memory in `line` of its file.
void note(int line, Space space, Access access, std::uint64_t address, std::size_t bytes);
#else
inline void enter(int, int) {}
inline void note(int, Space, Access, std::uint64_t, std::size_t) {}
#endif

// Of all warps.
struct Counts {
  double instructions = 0;  // of PTX
  // Sectors of 32 bytes that its accesses to global memory touch, each counted once an instruction.
  double loaded = 0, stored = 0, added = 0;
  // Passes over the 32 banks of shared memory: as many as the words of one bank that an instruction touches;
  // 8 or 16 bytes a lane go by half or quarter of the warp. Atomic additions to one word come one by one.
  double passes = 0;
};

// From here on, in blocks that cuda_on_cpu runs; and what there was.
void begin_profile();
Counts end_profile();

}  // namespace ptx_on_cpu
