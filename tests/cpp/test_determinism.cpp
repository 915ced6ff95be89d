// SPDX-License-Identifier: Apache-2.0
// The same bits for any number of threads, whatever runs them, in whatever order, with whatever scratch; and
// scratch within its documented bound.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cfenv>
#include <chrono>
#include <random>
#include <thread>

#include "calls.h"

namespace tapfield::testing {
namespace {

// Cases with several bands, strips and strips of pixels, groups, cells of many taps, and dead taps.
const char* const kCases[] = {"columns_g2",
                              "tiles",
                              "strips_c64",
                              "wide",
                              "tall",
                              "flow_g16",
                              "c64_g8",
                              "c129_g1",
                              "one_cell",
                              "one_cell_g8",
                              "one_row",
                              "stray_g2",
                              "stray_g8",
                              "whole_map_g4",
                              "one_cell_long",
                              "scattered",
                              "nonfinite_open",
                              "batch_5",
                              "all_attributes_open",
                              "cann_grad_sample"};

std::vector<Case> cases() {
  std::vector<Case> r;
  for (const Case& c : small_cases(/*with_large=*/true))
    if (std::find(std::begin(kCases), std::end(kCases), c.name) != std::end(kCases)) r.push_back(c);
  EXPECT_EQ(r.size(), std::size(kCases));
  return r;
}

// ------ The caller's own parallel-fors

using Pieces = std::vector<std::pair<std::int64_t, std::int64_t>>;

void reversed(void*, std::int64_t n, tapfield_parallel_body body, void* context) {
  for (std::int64_t i = n; i-- > 0;) body(context, i, i + 1);
}

Pieces random_pieces(std::int64_t n, std::mt19937& random) {
  Pieces pieces;
  for (std::int64_t begin = 0; begin < n;) {
    const std::int64_t end =
        begin + 1 + static_cast<std::int64_t>(random() % static_cast<unsigned>(n - begin));
    pieces.emplace_back(begin, end);
    begin = end;
  }
  std::shuffle(pieces.begin(), pieces.end(), random);
  return pieces;
}

void shuffled(void* pool, std::int64_t n, tapfield_parallel_body body, void* context) {
  for (const auto& [begin, end] : random_pieces(n, *static_cast<std::mt19937*>(pool)))
    body(context, begin, end);
}

void on_threads(void* pool, std::int64_t n, tapfield_parallel_body body, void* context) {
  std::vector<std::thread> threads;
  for (const auto& [begin, end] : random_pieces(n, *static_cast<std::mt19937*>(pool)))
    threads.emplace_back(body, context, begin, end);
  for (std::thread& t : threads) t.join();
}

class Determinism : public ::testing::TestWithParam<const Row*> {};
INSTANTIATE_TEST_SUITE_P(Rows, Determinism, ::testing::ValuesIn(kernels()), [](const auto& info) {
  std::string s = std::string(info.param->name) + "_" + name_of(info.param->pass);
  std::replace(s.begin(), s.end(), '.', '_');
  return s;
});

// Calls visit(call, bits on one thread, execution that forces the row) for the cases in float32, both
// layouts, and bfloat16.
template <class Visit>
void for_each_call(const Row& row, const Visit& visit) {
  int ran = 0;
  for (const Case& c : cases())
    for (DType t : {DType::float32, DType::bfloat16})
      for (bool nchw : {false, true}) {
        if (nchw && t != DType::float32) continue;
        SCOPED_TRACE(c.name + " " + tapfield::name_of(t) + (nchw ? " NCHW" : " NHWC"));
        Call call(c, row.pass, Dtypes(t), nchw);
        if (!call.runs(row)) continue;
        ++ran;
        Execution e;
        e.backend = row.name;
        visit(call, call.bytes(), e);
        if (::testing::Test::HasFailure()) return;
      }
  EXPECT_GT(ran, 0);
}

TEST_P(Determinism, OverThreadsAndRuns) {
  for_each_call(*GetParam(), [](Call& call, const auto& want, Execution e) {
    for (int threads : {1, 2, 3, 7}) {
      e.threads = threads;
      call.run(e);
      EXPECT_EQ(call.bytes(), want) << threads << " threads";
    }
  });
}

TEST_P(Determinism, OverParallelFors) {
  std::mt19937 random(5);
  for_each_call(*GetParam(), [&](Call& call, const auto& want, Execution e) {
    e.pool = &random;
    for (const auto& [name, parallel_for] :
         {std::pair{"reversed", &reversed}, {"shuffled", &shuffled}, {"threads", &on_threads}})
      for (int threads : {2, 5}) {
        e.parallel_for = parallel_for, e.threads = threads;
        call.run(e);
        EXPECT_EQ(call.bytes(), want) << name << " " << threads;
      }
  });
}

// Rounding up, on the caller's thread and on those of its parallel-for. (with_jax/ has threads that take
// subnormals for zeros: that is the same register.)
TEST_P(Determinism, WhateverTheThreadsFloatingPointEnvironment) {
  const auto rounding_up = [](const auto& f) {
    std::fesetround(FE_UPWARD);
    f();
    EXPECT_EQ(std::fegetround(), FE_UPWARD) << "the environment is not the caller's any more";
    std::fesetround(FE_TONEAREST);
  };
  const tapfield_parallel_for on_odd_threads = [](void* up, std::int64_t n, tapfield_parallel_body body,
                                                  void* context) {
    std::vector<std::thread> threads;
    for (std::int64_t i = 0; i < n; ++i)
      threads.emplace_back(
          [=] { (*static_cast<decltype(rounding_up)*>(up))([&] { body(context, i, i + 1); }); });
    for (std::thread& t : threads) t.join();
  };
  for_each_call(*GetParam(), [&](Call& call, const auto& want, Execution e) {
    for (const int threads : {1, 3}) {
      e.threads = threads;
      if (threads > 1)
        e.parallel_for = on_odd_threads, e.pool = const_cast<void*>(static_cast<const void*>(&rounding_up));
      rounding_up([&] { call.run(e); });
      EXPECT_EQ(call.bytes(), want) << threads << " threads";
    }
  });
}

TEST_P(Determinism, OverWhateverLiesInScratch) {
  for_each_call(*GetParam(), [](Call& call, const auto& want, Execution e) {
    e.threads = 2;
    const std::size_t bytes = call.workspace(e), guard = 256;
    std::vector<char> memory(bytes + 2 * guard + 64);
    char* at = memory.data() + guard;
    at += 64 - reinterpret_cast<std::uintptr_t>(at) % 64;
    for (int garbage : {0xff, 0x7b}) {  // NaN, large numbers
      std::fill(memory.begin(), memory.end(), static_cast<char>(garbage));
      e.workspace = at, e.workspace_bytes = bytes;
      call.run(e);
      EXPECT_EQ(call.bytes(), want) << "garbage " << garbage;
      const auto untouched = [&](const char* from, const char* to) {
        return std::all_of(from, to, [&](char b) { return b == static_cast<char>(garbage); });
      };
      EXPECT_TRUE(untouched(memory.data(), at) && untouched(at + bytes, memory.data() + memory.size()))
          << "scratch overrun";
    }
  });
}

TEST_P(Determinism, WhenSeveralThreadsCall) {
  for_each_call(*GetParam(), [](Call& call, const auto& want, Execution e) {
    if (call.x.dtype() != DType::float32) return;
    e.threads = 2;
    std::vector<std::vector<std::vector<char>>> got(3);
    std::vector<std::thread> callers;
    for (auto& bits : got)
      callers.emplace_back([&call, &bits, e] {
        Call mine(call.c, call.pass, Dtypes(DType::float32), call.nchw);
        for (int i = 0; i < 2; ++i) mine.run(e);
        bits = mine.bytes();
      });
    for (std::thread& t : callers) t.join();
    for (const auto& bits : got) EXPECT_EQ(bits, want);
  });
}

#if !defined(__SANITIZE_THREAD__)  // a child of a threaded process may not start threads under it
TEST_P(Determinism, InAForkedChild) {
  int forks = 0;
  for_each_call(*GetParam(), [&](Call& call, const auto& want, Execution e) {
    if (++forks > 4) return;
    e.threads = 3;
    call.run(e);  // oneTBB's workers are up
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      call.run(e);
      _exit(call.bytes() == want ? 0 : 1);
    }
    int status = -1;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (waitpid(child, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > end) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        FAIL() << "the child hangs";
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  });
}
#endif

// The bound of tapfield.hpp, for every case, the large ones too: nothing is touched to ask.
TEST_P(Determinism, ScratchIsWithinItsBoundAndIndependentOfN) {
  const Row& row = *GetParam();
  for (Case c : read_cases()) {
    if (c.x[0] == 0) continue;
    for (DType t : {DType::float16, DType::float32, DType::float64})
      for (bool nchw : {false, true})
        for (int threads : {1, 2, 16}) {
          SCOPED_TRACE(c.name + " " + tapfield::name_of(t) + (nchw ? " NCHW" : " NHWC"));
          const double bytes_a_tap = t == DType::float64 ? 96 : 64;
          const double taps = static_cast<double>(c.ho() * c.wo() * c.lanes());
          const double grad = static_cast<double>(c.ho() * c.wo() * c.kh * c.kw * c.x[3] * size_of(t));
          const double bound = bytes_a_tap * taps + 8.0 * static_cast<double>(c.x[1] * c.x[2] * c.x[3]) +
                               threads * 16.0 * (1 << 20) + (nchw ? 0.35 * grad : 0);
          c.x[0] = 64;  // images
          const auto view = [&](const Shape& s) {
            return Tensor(static_cast<void*>(nullptr), t,
                          nchw ? Ints{s[0], s[3], s[1], s[2]} : Ints{s[0], s[1], s[2], s[3]});
          };
          const Tensor x = view(c.x), offsets = view(c.offsets_shape()), y = view(c.y_shape());
          const Attributes a = c.attributes(nchw);
          Execution e;
          e.backend = row.name, e.threads = threads;
          std::size_t used = 0;
          try {
            used = row.pass == Pass::forward ? workspace_size(x, offsets, a, y, e)
                   : row.pass == Pass::grad  ? workspace_size(y, x, offsets, a, x, offsets, e)
                                             : workspace_size(y, x, offsets, x, offsets, a, y, x, offsets, e);
          } catch (const std::invalid_argument&) {
            continue;  // a schedule that cannot take this layout
          }
          EXPECT_LE(static_cast<double>(used), bound);
        }
  }
}

}  // namespace
}  // namespace tapfield::testing
