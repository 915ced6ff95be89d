// SPDX-License-Identifier: Apache-2.0
// Runs AscendC kernels that a C++ compiler has compiled: a core is a fiber or a thread, its pipes are
// pipes.h. What a device would leave to chance is chosen here, and what it would let pass is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include "pipes.h"

namespace ascend_on_cpu {

// Cores as fibers: each runs until it must wait for all, in order; or another one goes on at every copy. Or
// as threads, for a build with -fsanitize=thread, which then sees what cores do to each other.
enum class Order { one_after_another, interleaved, parallel };

struct Options {
  Order order = Order::one_after_another;
  unsigned seed = 1;
  bool threads_backward = false;            // of a SIMT function; they run one after another
  std::int64_t unified_buffer = 192 << 10;  // of a core
};
Options& options();

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void fail(const std::string& text);

// Runs body on every core. Throws Failure with what was found wrong, the launch being given up:
//  - a copy or an instruction breaks its documented limits (alignment, counts), leaves its tensor, or the
//  device's
//    memory that was declared;
//  - a pipe uses what another has not been waited for, or its own without a barrier (pipes.h);
//  - a flag set twice, waited for but not set, or left set; a tensor of a queue not freed;
//  - two cores touch one element between meetings, one of them writing, unless both add atomically;
//  - a core returns while others wait for all.
// UB is all ones, NaN as a number, when a core begins.
void run_cores(std::int64_t cores, const std::function<void()>& body);

struct Counts {
  std::int64_t launches, copies, meetings, simt_threads, most_unified_buffer;
};
Counts& counts();  // not of threads as cores
void note_unified_buffer(std::int64_t bytes);
void note_simt_threads(std::int64_t threads);

// ------ For kernels

struct Core {
  std::int64_t number = 0, cores = 0;
  std::int64_t meetings = 0;
  Pipes pipes;
  bool adds_atomically = false;  // SetAtomicAdd<float>
  void* pipe = nullptr;          // its TPipe
  std::string blamed;
};
Core& core();
void blame(const std::string& text);  // fail, where nothing may be thrown: the launch fails when it ends
void meet();                          // returns when all cores have called it
void pause();                         // another core may go on here

// ------ Memory of the device: what was declared, and who has touched it since all met

void declare_memory(const void* begin, std::size_t bytes);  // over 256 MiB: its bounds alone are checked
void forget_memory();

enum class Access { read, write, add };
// Fails if the bytes are not inside declared memory, or if another core's access to them needs a meeting
// first.
void touch(const void* p, std::size_t bytes, Access access);
float add_atomically(float* p, float v);  // what *p was

}  // namespace ascend_on_cpu
