// SPDX-License-Identifier: Apache-2.0
#include "machine.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// The kernels' dynamic shared memory (src/cuda/device.h); a block's part is its beginning.
namespace tapfield::cuda {
extern unsigned char shared_block[];
alignas(16) unsigned char shared_block[232448];
}  // namespace tapfield::cuda

namespace cuda_on_cpu {
namespace {

using boost::context::fiber;
using tapfield::cuda::shared_block;

constexpr int kWarp = 32, kNobody = -1;

enum class State { ready, at_barrier, meeting, done };

struct Thread {
  fiber self;       // to go on with it
  fiber scheduler;  // to go back, while it runs
  State state = State::done;
  int line = 0;  // at_barrier
  Kind kind{};   // meeting
  unsigned mask = 0;
  std::uint64_t bits = 0;
  int source = 0;
};

struct Machine {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<int> warp_syncs;  // [warp]
  const std::function<void()>* body = nullptr;
  std::string error;
  std::int64_t block = 0, grids = 0, ran = 0;
  std::size_t shared_bytes = 0;
  int running = kNobody, barriers = 0;
  std::mt19937 random;
};
Machine& m = *new Machine;  // never destroyed: its fibers would have to be unwound

Thread& running() { return *m.threads[static_cast<std::size_t>(m.running)]; }

void wait() {
  Thread& t = running();
  t.scheduler = std::move(t.scheduler).resume();
}

void begin(Thread& t) {
  t.state = State::ready;
  if (t.self) return;  // waits at the end of its last block
  t.self = fiber([&t](fiber&& scheduler) {
    t.scheduler = std::move(scheduler);
    for (;;) {
      (*m.body)();
      t.state = State::done;
      wait();
    }
    return std::move(t.scheduler);
  });
}

void go_on(int thread) {
  m.running = thread;
  threadIdx.x = static_cast<unsigned>(thread);
  Thread& t = running();
  t.self = std::move(t.self).resume();
}

void sort_by_order(std::vector<int>& list) {
  if (options().order == Order::backward) std::reverse(list.begin(), list.end());
  if (options().order == Order::shuffled) std::shuffle(list.begin(), list.end(), m.random);
}

// When no thread can go on: all are done, or all have reached one barrier.
void pass_barrier() {
  int line = 0, waiting = 0, done = 0;
  for (const auto& t : m.threads) {
    if (t->state == State::done) {
      ++done;
    } else if (t->state == State::meeting) {
      m.error = "a lane waits for others of its mask, which never come";
    } else if (line && t->line != line) {
      m.error = "threads of a block wait at two barriers, of lines " + std::to_string(line) + " and " +
                std::to_string(t->line);
    } else {
      line = t->line, ++waiting;
    }
  }
  if (m.error.empty() && waiting && done)
    m.error = "the barrier of line " + std::to_string(line) + " is not reached by " + std::to_string(done) +
              " threads that have returned";
  if (!m.error.empty()) return;
  ++m.barriers;
  for (auto& t : m.threads)
    if (t->state == State::at_barrier) t->state = State::ready;
}

void run_block() {
  std::memset(shared_block, 0xff, m.shared_bytes);
  m.barriers = 0;
  m.warp_syncs.assign((m.threads.size() + kWarp - 1) / kWarp, 0);
  for (auto& t : m.threads) begin(*t);
  m.ran += static_cast<std::int64_t>(m.threads.size());
  std::vector<int> list(m.threads.size());
  for (;;) {
    std::iota(list.begin(), list.end(), 0);
    sort_by_order(list);
    bool any = false;
    for (int thread : list)
      if (m.threads[static_cast<std::size_t>(thread)]->state == State::ready) {
        any = true;
        go_on(thread);
        if (!m.error.empty()) return;
      }
    if (any) continue;
    if (std::all_of(m.threads.begin(), m.threads.end(),
                    [](const auto& t) { return t->state == State::done; }))
      return;
    pass_barrier();
    if (!m.error.empty()) return;
  }
}

}  // namespace

Options& options() {
  static Options o;
  return o;
}

std::string run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body) {
  if (block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1 || grid.y != 1 || grid.z != 1)
    return "this shape of grid and block is not supported";
  if (shared_bytes > sizeof shared_block) return "more shared memory than there is";
  m.body = &body, m.shared_bytes = shared_bytes, m.error.clear(), m.random.seed(options().seed);
  ++m.grids;
  blockDim = block, gridDim = grid;
  m.threads.resize(block.x);
  for (auto& t : m.threads)
    if (!t) t = std::make_unique<Thread>();
  std::vector<int> blocks(grid.x);
  std::iota(blocks.begin(), blocks.end(), 0);
  sort_by_order(blocks);
  for (int b : blocks) {
    m.block = b, blockIdx.x = static_cast<unsigned>(b);
    run_block();
    if (options().after_block) options().after_block();
    if (m.error.empty()) continue;
    new auto(std::move(m.threads));  // left where they stand: nothing may unwind through a kernel
    m.threads.clear();
    m.running = kNobody;
    return m.error;
  }
  m.running = kNobody;
  return "";
}

bool in_grid() { return m.running != kNobody; }
std::int64_t threads_run() { return m.ran; }

void fail(const std::string& text) {
  m.error = text;
  wait();
  std::abort();  // nobody goes on with a thread that has failed
}

void block_barrier(int line) {
  running().state = State::at_barrier, running().line = line;
  wait();
}

int lane() { return m.running % kWarp; }

std::uint64_t meet(Kind kind, unsigned mask, std::uint64_t bits, int source) {
  Thread& me = running();
  const int warp = m.running / kWarp * kWarp,
            count = std::min(kWarp, static_cast<int>(m.threads.size()) - warp);
  if (!(mask >> lane() & 1)) fail("a lane is not in the mask that it waits with");
  me.kind = kind, me.mask = mask, me.bits = bits, me.source = source, me.state = State::meeting;
  const auto at = [&](int l) -> Thread& { return *m.threads[static_cast<std::size_t>(warp + l)]; };
  bool all_here = true;
  for (int l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1)) continue;
    if (l >= count) fail("a mask names a lane that the block does not have");
    if (at(l).state == State::done) fail("a mask names a lane that has returned");
    if (at(l).state != State::meeting) {
      all_here = false;
    } else if (at(l).mask != mask || at(l).kind != kind) {
      fail("lanes of one mask wait for different things");
    }
  }
  if (!all_here) {
    wait();
    return me.bits;
  }
  std::uint64_t brought[kWarp] = {}, any = 0;
  for (int l = 0; l < kWarp; ++l)
    if (mask >> l & 1) any |= brought[l] = at(l).bits;
  for (int l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1)) continue;
    Thread& t = at(l);
    if (kind == Kind::shuffle && (t.source < 0 || t.source >= kWarp || !(mask >> t.source & 1)))
      fail("a shuffle reads from a lane that its mask does not name");
    t.bits = kind == Kind::vote ? any != 0 : brought[kind == Kind::shuffle ? t.source : l];
    t.state = State::ready;
  }
  if (kind == Kind::sync && mask == ~0u) ++m.warp_syncs[static_cast<std::size_t>(warp / kWarp)];
  return me.bits;
}

Moment now() {
  return {m.block, m.running, m.barriers, m.warp_syncs[static_cast<std::size_t>(m.running / kWarp)]};
}
std::int64_t grids_begun() { return m.grids; }
Memory shared_memory() { return {shared_block, m.shared_bytes, sizeof shared_block}; }

}  // namespace cuda_on_cpu

// An assert in a kernel gives up the grid, not the program.
extern "C" void __assert_fail(const char* expression, const char* file, unsigned line, const char*) noexcept {
  cuda_on_cpu::fail(std::string("assert ") + expression + ", " + file + ":" + std::to_string(line));
}
