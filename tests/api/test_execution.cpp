// SPDX-License-Identifier: Apache-2.0
// Threads and scratch: how many really run, what is kept and freed, and that the library never prints.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "call.h"
#include "execution.h"

namespace tapfield::test {
namespace {

// The exit status of `body` in a new process image of this program: what the library reads once, it reads
// afresh.
int in_new_process(const char* mode, const char* threads_variable, int cpus) {
  const pid_t child = fork();
  if (child == 0) {
    threads_variable ? setenv("TAPFIELD_NUM_THREADS", threads_variable, 1) : unsetenv("TAPFIELD_NUM_THREADS");
    cpu_set_t may, set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof may, &may);
    for (int i = 0; i < CPU_SETSIZE && cpus > 0; ++i)
      if (CPU_ISSET(i, &may)) CPU_SET(i, &set), --cpus;
    if (CPU_COUNT(&set)) sched_setaffinity(0, sizeof set, &set);
    execl("/proc/self/exe", "test_execution", mode, nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int default_threads(const char* variable, int cpus = 0) {
  return in_new_process("--print-threads", variable, cpus);
}

int usable_cpus() {
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  return CPU_COUNT(&set);
}

TEST(Threads, DefaultIsTheVariableElseTheUsableCpus) {
  EXPECT_EQ(default_threads("7"), 7);
  EXPECT_EQ(default_threads("1"), 1);
  const int unset = default_threads(nullptr);
  EXPECT_GE(unset, 1);
  EXPECT_LE(unset, usable_cpus());  // a cgroup's quota may be less
  for (const char* nonsense : {"", "0", "-3", "3x", "many", "99999", "9223372036854775808", "2.5"})
    EXPECT_EQ(default_threads(nonsense), unset) << '"' << nonsense << '"';
}

TEST(Threads, DefaultObeysAffinity) {
  EXPECT_EQ(default_threads(nullptr, 1), 1);
  if (usable_cpus() < 2) GTEST_SKIP() << "one usable CPU: nothing to be told apart";
  EXPECT_GE(default_threads(nullptr, 0), default_threads(nullptr, 1));
}

TEST(Threads, SettingIsCheckedAndKept) {
  const int before = get_num_threads();
  for (int n : {1, 3, 4096}) {
    set_num_threads(n);
    EXPECT_EQ(get_num_threads(), n);
    EXPECT_EQ(Workers(Execution{}, Workers::kShared).slots(), n);
  }
  for (int n : {0, -1, 4097}) {
    try {
      set_num_threads(n);
      ADD_FAILURE() << n;
    } catch (const std::invalid_argument& e) {
      EXPECT_EQ(std::string(e.what()), "n must be from 1 to 4096 but is " + std::to_string(n));
    }
    EXPECT_EQ(get_num_threads(), 4096);
  }
  set_num_threads(before);
}

// How many of n items run at the same time: each stays until it has seen all others or five seconds are over.
// Items of the library never wait; these may, because the deadline lets one thread finish them too.
int at_once(const Execution& execution, int n) {
  std::atomic<int> arrived{0};
  std::mutex mutex;
  std::set<std::thread::id> threads;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  Workers(execution, 0).run(n, [&](std::int64_t, int) {
    {
      const std::lock_guard lock(mutex);
      threads.insert(std::this_thread::get_id());
    }
    ++arrived;
    while (arrived < n && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  return static_cast<int>(threads.size());
}

Execution with_threads(int n) {
  Execution e;
  e.threads = n;
  return e;
}

// Beyond 256, or 4 per core, oneTBB itself gives no more.
TEST(Threads, ReallyRunsAsManyAsAsked) {
  for (int n : {1, 2, 3, 8, 40, 600}) EXPECT_EQ(at_once(with_threads(n), n), n);
}

TEST(Threads, CallsAtOnceDoNotLimitEachOther) {
  int few = 0, many = 0;
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) few += at_once(with_threads(2), 2);
  });
  for (int i = 0; i < 100; ++i) many += at_once(with_threads(12), 12);
  other.join();
  EXPECT_EQ(few, 200);
  EXPECT_EQ(many, 1200);
}

TEST(Threads, CallersParallelForRunsInstead) {
  // Every slot once, last first, on this thread.
  Execution e = with_threads(5);
  int dispatched = 0;
  e.pool = &dispatched;
  e.parallel_for = [](void* pool, std::int64_t n, tapfield_parallel_body body, void* context) {
    *static_cast<int*>(pool) += static_cast<int>(n);
    for (std::int64_t i = n; i-- > 0;) body(context, i, i + 1);
  };
  std::vector<int> ran(11);
  const auto here = std::this_thread::get_id();
  Workers(e, 0).run(11, [&](std::int64_t i, int slot) {
    ++ran[static_cast<std::size_t>(i)];
    EXPECT_TRUE(slot >= 0 && slot < 5);
    EXPECT_EQ(std::this_thread::get_id(), here);
  });
  EXPECT_EQ(ran, std::vector<int>(11, 1));
  EXPECT_EQ(dispatched, 5);
}

// What stdout and stderr receive while `body` runs, printed by whatever route.
template <class Body>
std::string printed(const Body& body) {
  std::fflush(nullptr);
  std::FILE* file = std::tmpfile();
  const int out = dup(1), err = dup(2);
  dup2(fileno(file), 1), dup2(fileno(file), 2);
  body();
  std::fflush(nullptr);
  dup2(out, 1), dup2(err, 2), close(out), close(err);
  std::string text;
  std::rewind(file);
  for (int c; (c = std::fgetc(file)) != EOF;) text += static_cast<char>(c);
  std::fclose(file);
  return text;
}

TEST(Silence, NothingIsEverPrinted) {
  const std::string text = printed([] {
    for (tapfield_pass pass : kPasses)
      for (int threads : {1, 2, 64, 600}) {
        Call call(pass), refused(pass);
        call.execution.threads = refused.execution.threads = threads;
        refused.attributes.border = "none";
        call.run(Via::cpp), refused.run(Via::c);
      }
    std::vector<std::thread> callers;
    for (int threads : {2, 5, 11, 64, 3, 130})
      callers.emplace_back([threads] {
        for (int i = 0; i < 20; ++i) at_once(with_threads(threads), threads);
      });
    for (std::thread& t : callers) t.join();
    backends(), release_scratch(), version();
  });
  EXPECT_EQ(text, "");
}

TEST(Silence, CaptureSeesWhatIsPrinted) {
  EXPECT_EQ(printed([] { std::fputs("a warning\n", stderr); }), "a warning\n");
}

// Resident memory in bytes.
std::int64_t resident() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t total = 0, pages = 0;
  statm >> total >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

TEST(ScratchOfTheLibrary, IsKeptForTheNextCallAndFreedOnDemand) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer keeps what is freed; the plain build runs this";
#endif
  // The reference's gradient takes one image of x in double: 64 MiB, all of it written.
  const std::int64_t side = 1024, channels = 8, bytes = side * side * channels * 8;
  std::vector<float> x(static_cast<std::size_t>(bytes / 8), 1.0f), grad_x(x.size());
  float offsets[3] = {0, 0, 1}, grad_offsets[3];
  std::vector<float> grad(static_cast<std::size_t>(channels), 1.0f);
  Attributes a;
  a.ksize = {1, 1}, a.strides = {1, side, side, 1}, a.pads = {0, 0, 0, 0};
  Execution e;
  e.backend = "reference";
  const auto call = [&] {
    deformable_offsets_grad({grad.data(), {1, 1, 1, channels}}, {x.data(), {1, side, side, channels}},
                            {offsets, {1, 1, 1, 3}}, a, {grad_x.data(), {1, side, side, channels}},
                            {grad_offsets, {1, 1, 1, 3}}, e);
  };
  std::fill(grad_x.begin(), grad_x.end(), 1.0f);
  release_scratch();
  const std::int64_t before = resident();
  call();
  const std::int64_t kept = resident();
  call();
  const std::int64_t again = resident();
  release_scratch();
  const std::int64_t freed = resident();
  const std::int64_t slack = bytes / 8;  // whatever else the process does meanwhile
  EXPECT_GT(kept, before + bytes - slack);
  EXPECT_LT(again, kept + slack) << "a second call must reuse the first one's";
  EXPECT_LT(freed, before + slack);
}

}  // namespace
}  // namespace tapfield::test

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--print-threads") return tapfield::get_num_threads();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
