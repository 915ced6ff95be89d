// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernels that a C++ compiler has compiled: a thread is a fiber, blocks come one after the other,
// and a thread runs until it must wait for others. What a GPU would leave to chance is chosen here, and what
// it would let pass is an error: see Options and run_grid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_on_cpu {

enum class Order { forward, backward, shuffled };  // of blocks, and of the threads that could go on

struct Options {
  Order order = Order::forward;
  unsigned seed = 1;
  std::function<void()> after_block;  // is called when a block has run
};
Options& options();

// Runs body in every thread of the grid. Returns what was found wrong, the grid being given up at once, or an
// empty text:
//  - threads of a block wait at different barriers, or one has returned while others wait at one;
//  - a lane named in a mask has returned, waits elsewhere or with another mask, or the caller is not in it;
//  - a shuffle reads from a lane that its mask does not name;
//  - an assert;
//  - in a library whose kernels are compiled with -fsanitize=thread: races, and shared memory out of bounds
//    (races.h).
// Shared memory is all ones, NaN as a number, when a block begins.
std::string run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body);

// Threads that have run, of all grids so far.
std::int64_t threads_run();

// Gives up the grid; called in a thread of it.
[[noreturn]] void fail(const std::string& text);

// ------ What a thread may wait for

void block_barrier(int line);

enum class Kind { sync, shuffle, vote };
// All lanes of the mask bring bits, and the lane (in the warp) whose bits they want; a vote's result is
// whether any bit of any lane is set.
std::uint64_t meet(Kind kind, unsigned mask, std::uint64_t bits, int source);
int lane();

// ------ For races.h: where the running thread is in its block's order

struct Moment {
  std::int64_t block;
  int thread, barriers, warp_syncs;  // passed so far
};
bool in_grid();
Moment now();
std::int64_t grids_begun();

struct Memory {
  unsigned char* begin;
  std::size_t used, room;
};
Memory shared_memory();

}  // namespace cuda_on_cpu
