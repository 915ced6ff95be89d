// SPDX-License-Identifier: Apache-2.0
// Counts what the warps of translated kernels do, where they are compiled with PTX_PROFILE: instructions, and
// the sectors and banks that their accesses touch. Lanes are taken to go together through a block of
// instructions as often as each of them comes there.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptx_on_cpu {

enum class Space { global, shared, param, generic };
enum class Access { load, store, add };

#if PTX_PROFILE
// A thread enters its kernel's basic block `number`, of so many instructions.
void enter(int number, int instructions);
void note(int line, Space space, Access access, std::uint64_t address, std::size_t bytes);
#else
inline void note(int, Space, Access, std::uint64_t, std::size_t) {}
#endif

// Of all warps, since the last reset.
struct Counts {
  double instructions = 0;
  double global_loads = 0, global_stores = 0, adds = 0;                       // instructions
  double load_sectors = 0, store_sectors = 0, add_sectors = 0;                // of 32 bytes
  double shared_accesses = 0, shared_passes = 0;  // instructions; passes over the banks they take
};
Counts& counts();
void end_block();  // of threads

}  // namespace ptx_on_cpu
