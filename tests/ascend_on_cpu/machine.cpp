// SPDX-License-Identifier: Apache-2.0
#include "machine.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/context/fiber.hpp>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace ascend_on_cpu {
namespace {

using boost::context::fiber;

thread_local Core* current = nullptr;

// A core's kernel has returned.
void finish(const Core& c) {
  if (!c.blamed.empty()) fail(c.blamed);
  c.pipes.finish();
}

// ------ Cores as fibers

enum class State { ready, meeting, done };

struct Fiber {
  Core core;
  fiber self, scheduler;
  State state = State::ready;
};

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* running = nullptr;  // null: not in fibers
  std::string error;
  std::mt19937 random;
};
Machine m;

void go_on(Fiber& f) {
  m.running = &f, current = &f.core;
  f.self = std::move(f.self).resume();
  m.running = nullptr, current = nullptr;
}

void wait() {
  Fiber& f = *m.running;
  f.scheduler = std::move(f.scheduler).resume();
  // Given up while it waits: the kernel is left as by any Failure.
  if (!m.error.empty()) throw Failure(m.error);
}

void run_fibers(std::int64_t cores, const std::function<void()>& body) {
  m.error.clear(), m.random.seed(options().seed), m.fibers.clear();
  for (std::int64_t i = 0; i < cores; ++i) {
    auto f = std::make_unique<Fiber>();
    f->core.number = i, f->core.cores = cores, f->core.pipes = Pipes(options().unified_buffer);
    f->self = fiber([f = f.get(), &body](fiber&& scheduler) {
      f->scheduler = std::move(scheduler);
      try {
        body();
        finish(f->core);
      } catch (const std::exception& e) {
        if (m.error.empty()) m.error = "core " + std::to_string(f->core.number) + ": " + e.what();
      }
      f->state = State::done;
      return std::move(f->scheduler);
    });
    m.fibers.push_back(std::move(f));
  }
  std::vector<Fiber*> list;
  for (;;) {
    list.clear();
    for (auto& f : m.fibers)
      // After an error everyone goes on once more, to leave its kernel.
      if (f->state == State::ready || (!m.error.empty() && f->state == State::meeting))
        list.push_back(f.get());
    if (!list.empty()) {
      go_on(*list[options().order == Order::interleaved ? m.random() % list.size() : 0]);
      continue;
    }
    bool any = false, all = true;
    for (auto& f : m.fibers) (f->state == State::meeting ? any : all) = f->state == State::meeting;
    if (!any) break;
    if (!all) m.error = "a core has returned while others wait for all";
    for (auto& f : m.fibers)
      if (f->state == State::meeting) f->state = State::ready;
  }
  m.fibers.clear();
  if (!m.error.empty()) throw Failure(m.error);
}

// ------ Cores as threads

// One for each time that all meet, so that who wakes late from one is not ordered, in the thread sanitizer's
// eyes, after what others have done since: with one for all, a loaded machine hid races.
struct Meeting {
  std::mutex mutex;
  std::condition_variable changed;
  std::int64_t here = 0;
  std::string error;  // of a core that will not come
};

struct Threads {
  std::int64_t cores;
  std::array<Meeting, 8> meetings{};  // more than any kernel has
  std::mutex mutex;
  std::string error{};  // the first
};
Threads* threads_now = nullptr;  // null: not in threads

// The core's kernel has returned, or failed with `error`: it will not come to the next meeting.
void leave(Threads& all, const Core& c, const std::string& error) {
  if (!error.empty()) {
    const std::lock_guard lock(all.mutex);
    if (all.error.empty()) all.error = error;
  }
  Meeting& next = all.meetings.at(static_cast<std::size_t>(c.meetings));
  const std::lock_guard lock(next.mutex);
  if (next.error.empty())
    next.error = error.empty() ? "a core has returned while others wait for all" : error;
  next.changed.notify_all();
}

void run_threads(std::int64_t cores, const std::function<void()>& body) {
  Threads all{cores};
  threads_now = &all;
  std::vector<std::thread> threads;
  for (std::int64_t i = 0; i < cores; ++i)
    threads.emplace_back([&, i] {
      Core mine;
      mine.number = i, mine.cores = cores, mine.pipes = Pipes(options().unified_buffer);
      current = &mine;
      std::string error;
      try {
        body();
        finish(mine);
      } catch (const std::exception& e) { error = "core " + std::to_string(i) + ": " + e.what(); }
      current = nullptr;
      leave(all, mine, error);
    });
  for (std::thread& t : threads) t.join();
  threads_now = nullptr;
  if (!all.error.empty()) throw Failure(all.error);
}

void meet_threads() {
  Meeting& meeting = threads_now->meetings.at(static_cast<std::size_t>(core().meetings));
  std::unique_lock lock(meeting.mutex);
  if (++meeting.here == threads_now->cores) meeting.changed.notify_all();
  meeting.changed.wait(lock, [&] { return meeting.here == threads_now->cores || !meeting.error.empty(); });
  if (meeting.here != threads_now->cores) throw Failure(meeting.error);
}

// ------ Memory

constexpr std::size_t kUnit = 2;                        // bytes: the smallest element
constexpr std::size_t kTracked = std::size_t{1} << 28;  // of larger tensors only the bounds are checked

struct Touched {  // since its meeting, by core number; -1: nobody, -2: several
  std::int64_t meeting = -1, reader = -1, writer = -1, adder = -1;
};

struct Region {
  const char* begin;
  std::size_t bytes;
  std::vector<Touched> units;
};
std::vector<Region> regions;

void check_others(Touched& t, const Core& c, Access access) {
  if (t.meeting != c.meetings) t = {c.meetings};
  const auto other = [&](std::int64_t who) { return who != -1 && who != c.number; };
  const bool clash = access == Access::read  ? other(t.writer) || other(t.adder)
                     : access == Access::add ? other(t.writer) || other(t.reader)
                                             : other(t.writer) || other(t.adder) || other(t.reader);
  if (clash) fail("an element is touched by two cores that have not met in between");
  std::int64_t& who = access == Access::read ? t.reader : access == Access::add ? t.adder : t.writer;
  who = who == -1 || who == c.number ? c.number : -2;
}

}  // namespace

Options& options() {
  static Options o;
  return o;
}

Counts& counts() {
  static Counts c{};
  return c;
}

void fail(const std::string& text) { throw Failure(text); }
void blame(const std::string& text) {
  if (current && current->blamed.empty()) current->blamed = text;
}

void note_unified_buffer(std::int64_t bytes) {
  if (m.running) counts().most_unified_buffer = std::max(counts().most_unified_buffer, bytes);
}
void note_simt_threads(std::int64_t threads) {
  if (m.running) counts().simt_threads += threads;
}

void run_cores(std::int64_t cores, const std::function<void()>& body) {
  ++counts().launches;
  for (Region& r : regions) std::fill(r.units.begin(), r.units.end(), Touched());
  options().order == Order::parallel ? run_threads(cores, body) : run_fibers(cores, body);
}

Core& core() { return *current; }

void meet() {
  if (m.running) {
    ++counts().meetings;
    m.running->state = State::meeting;
    wait();
  } else {
    meet_threads();
  }
  ++core().meetings;
}

void pause() {
  if (m.running) {
    ++counts().copies;
    if (options().order == Order::interleaved && m.error.empty()) wait();
  }
}

void declare_memory(const void* begin, std::size_t bytes) {
  if (bytes > kTracked) return regions.push_back({static_cast<const char*>(begin), bytes, {}});
  regions.push_back(
      {static_cast<const char*>(begin), bytes, std::vector<Touched>((bytes + kUnit - 1) / kUnit)});
}
void forget_memory() { regions.clear(); }

void touch(const void* p, std::size_t bytes, Access access) {
  const char* begin = static_cast<const char*>(p);
  for (Region& r : regions) {
    if (begin < r.begin || begin + bytes > r.begin + r.bytes) continue;
    if (m.running && !r.units.empty())  // between threads the sanitizer looks
      for (std::size_t i = static_cast<std::size_t>(begin - r.begin) / kUnit;
           i * kUnit < static_cast<std::size_t>(begin - r.begin) + bytes; ++i)
        check_others(r.units[i], core(), access);
    return;
  }
  fail("a copy of " + std::to_string(bytes) + " bytes leaves the tensors");
}

// Relaxed: the thread sanitizer must not take an addition for an order between cores.
float add_atomically(float* p, float v) {
  return std::atomic_ref<float>(*p).fetch_add(v, std::memory_order_relaxed);
}

}  // namespace ascend_on_cpu
