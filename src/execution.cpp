// SPDX-License-Identifier: Apache-2.0
// The only file that knows oneTBB. Built without it (TAPFIELD_TBB=OFF, and in a forked child, where oneTBB's
// workers are gone) a parallel-for starts std::threads for its length.
#include "execution.h"

#include "cuda/cuda.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if TAPFIELD_TBB
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#endif

namespace tapfield {
namespace {

// ------ How many threads

constexpr int kMaxThreads = 4096;

// CPUs' worth of time that a cgroup file grants, "QUOTA PERIOD" (v2) or the quota alone (v1); huge if
// unlimited.
double cgroup_cpus(const std::string& path, const std::string& period_path = "") {
  const double unlimited = kMaxThreads;
  std::ifstream in(path);
  double quota = 0, period = 0;
  if (!(in >> quota) || quota <= 0) return unlimited;
  if (!period_path.empty()) {
    std::ifstream p(period_path);
    if (!(p >> period)) return unlimited;
  } else if (!(in >> period)) {
    return unlimited;
  }
  return period > 0 ? quota / period : unlimited;
}

int usable_cpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
  const double quota =
      std::min(cgroup_cpus("/sys/fs/cgroup/cpu.max"),
               cgroup_cpus("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  if (quota < cpus) cpus = static_cast<int>(std::lround(quota));
  return std::clamp(cpus, 1, kMaxThreads);
}

int default_threads() {
  if (const char* env = std::getenv("TAPFIELD_NUM_THREADS")) {
    char* end = nullptr;
    const long n = std::strtol(env, &end, 10);
    if (end != env && *end == '\0' && n >= 1 && n <= kMaxThreads) return static_cast<int>(n);
  }
  return usable_cpus();
}

std::atomic<int>& threads_setting() {
  static std::atomic<int> threads{default_threads()};
  return threads;
}

// ------ Parallel-for

// One std::thread a piece. If the system refuses a thread, this one does its share.
void thread_parallel_for(int n, tapfield_parallel_body body, void* context) {
  std::vector<std::thread> threads;
  int begin = 0;
  try {
    threads.reserve(static_cast<std::size_t>(n));
    for (; begin < n - 1; ++begin) threads.emplace_back(body, context, begin, begin + 1);
  } catch (...) {}
  body(context, begin, n);
  for (std::thread& t : threads) t.join();
}

std::atomic<bool> in_forked_child{false};

#if TAPFIELD_TBB
// Would oneTBB give an arena n threads? Beyond its limit (the cores, or what the host has set) it would give
// fewer and print a warning. The limit is not raised: a global_control of 256 makes oneTBB 2021.8 wake 255
// workers for any parallel-for, and a call of 55 us then took 2 to 20 ms.
bool tbb_allows(int n) {
  using tbb::global_control;
  return global_control::active_value(global_control::max_allowed_parallelism) >= static_cast<std::size_t>(n);
}
#endif

// ------ Scratch that is kept

struct Kept {
  std::mutex mutex;
  std::vector<std::pair<void*, std::size_t>> free;  // blocks nobody uses
};

Kept& kept() {
  static Kept& k = *new Kept;  // never destroyed: calls may outlive static destructors
  static const int registered = pthread_atfork([] { kept().mutex.lock(); }, [] { kept().mutex.unlock(); },
                                               [] {
                                                 kept().mutex.unlock();
                                                 in_forked_child = true;
                                               });
  (void)registered;
  return k;
}

void free_block(void* block) { ::operator delete (block, std::align_val_t{Carver::kAlign}); }

void free_kept() {
  Kept& k = kept();
  std::vector<std::pair<void*, std::size_t>> blocks;
  {
    const std::lock_guard lock(k.mutex);
    blocks.swap(k.free);
  }
  for (const auto& [block, bytes] : blocks) free_block(block);
}

}  // namespace

Workers::Workers(const Execution& e, std::int64_t work)
    : slots_(e.threads > 0 ? e.threads : get_num_threads()), parallel_for_(e.parallel_for), pool_(e.pool) {
  if (e.threads == 0 && !e.parallel_for && work < kShared) slots_ = 1;
  if (e.threads < 0 || e.threads > kMaxThreads)
    throw std::invalid_argument("execution.threads must be from 0 (the library's setting) to " +
                                std::to_string(kMaxThreads) + " but is " + std::to_string(e.threads));
  kept();  // registers the fork handlers
}

void Workers::dispatch(int n, tapfield_parallel_body body, void* context) const {
  if (parallel_for_) return parallel_for_(pool_, n, body, context);
#if TAPFIELD_TBB
  if (!in_forked_child && tbb_allows(n)) {
    // Each calling thread keeps its last arena: making one takes as long as a small phase.
    thread_local int size = 0;
    thread_local std::unique_ptr<tbb::task_arena> arena;
    if (size != n) arena = std::make_unique<tbb::task_arena>(n), size = n;
    arena->execute([&] {
      tbb::parallel_for(
          0, n, [&](int slot) { body(context, slot, slot + 1); }, tbb::static_partitioner());
    });
    return;
  }
#endif
  thread_parallel_for(n, body, context);
}

Scratch::Scratch(std::size_t bytes, const Execution& e) {
  if (e.workspace) {
    if (reinterpret_cast<std::uintptr_t>(e.workspace) % Carver::kAlign)
      throw std::invalid_argument("execution.workspace must be aligned to 64 bytes but is not");
    if (e.workspace_bytes < bytes)
      throw std::invalid_argument("execution.workspace must have " + std::to_string(bytes) +
                                  " bytes but has " + std::to_string(e.workspace_bytes));
    block_ = e.workspace;
    return;
  }
  if (!bytes) return;
  Kept& k = kept();
  {
    const std::lock_guard lock(k.mutex);
    // The smallest that is large enough; else the largest makes room for a new one.
    auto best = k.free.end();
    for (auto i = k.free.begin(); i != k.free.end(); ++i)
      if (i->second >= bytes && (best == k.free.end() || i->second < best->second)) best = i;
    if (best != k.free.end()) {
      block_ = best->first, owned_bytes_ = best->second;
      k.free.erase(best);
      return;
    }
    k.free.reserve(k.free.size() + 1);
  }
  free_kept();  // what is free is too small: it would only add up
  block_ = ::operator new (bytes, std::align_val_t{Carver::kAlign});
  owned_bytes_ = bytes;
}

Scratch::~Scratch() {
  if (!owned_bytes_) return;
  Kept& k = kept();
  const std::lock_guard lock(k.mutex);
  try {
    k.free.emplace_back(block_, owned_bytes_);
  } catch (...) { free_block(block_); }
}

void release_scratch() {
  free_kept();
  cuda::release_scratch();
}

void set_num_threads(int n) {
  if (n < 1 || n > kMaxThreads)
    throw std::invalid_argument("n must be from 1 to " + std::to_string(kMaxThreads) + " but is " +
                                std::to_string(n));
  threads_setting() = n;
}

int get_num_threads() { return threads_setting(); }

}  // namespace tapfield
