// SPDX-License-Identifier: Apache-2.0
// Times every pass on the bench cases of tests/cases.json beside the memory floor of the same run.
//
//   tapfield_bench [--quick | --all] [--target=AVX2] [Google Benchmark's options]
//
// A row is PASS/CASE/DTYPE/OFFSETS/threads:N. Its time is the median of 9 calls, each followed by the floor
// (floor.h; the better of plain and streaming stores); its ratio x the median of the pairs' ratios. Calls of
// less than three milliseconds are timed in batches, on warm caches. A run fails where the floor's bandwidth
// is below 80% of memcpy's, or scratch is above its bound.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>

#include <hwy/targets.h>

#include "operator.h"

namespace tapfield::bench {
namespace {

bool failed = false;

double seconds(int batch, const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < batch; ++i) call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / batch;
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

double memcpy_seconds(const Workers& workers, std::size_t bytes, int batch) {
  static std::vector<char> from, to;
  if (from.size() < bytes) from.assign(bytes, 1), to.assign(bytes, 1);
  return seconds(batch, [&] { copy(workers, {from.data(), bytes}, {to.data(), bytes}); });
}

// Rows of one call stand together: its tensors are made once.
Operator& operator_of(const Spec& spec) {
  static std::string name;
  static std::unique_ptr<Operator> last;
  if (name != spec.name()) last.reset(), last = std::make_unique<Operator>(spec), name = spec.name();
  return *last;
}

void measure(benchmark::State& state, const Spec& spec, int threads, int pairs) {
  Operator& op = operator_of(spec);
  Execution execution;
  execution.threads = threads;
  const Workers workers(execution, 1);
  const auto read = op.read(), written = op.written();
  const double bytes = static_cast<double>(op.bytes());
  const auto call = [&] { op.run(execution); };
  const auto floor = [&](bool streaming) { move(workers, read, written, streaming); };

  // Calls in a batch: some milliseconds, so that waking threads does not count as memory traffic.
  const auto batch_of = [](const std::function<void()>& f) {
    return std::clamp(static_cast<int>(3e-3 / std::min(seconds(1, f), seconds(1, f))), 1, 1000);
  };
  const int batch = batch_of(call), floor_batch = batch_of([&] { floor(false); });
  for (auto _ : state) {
    std::vector<double> times, floors, ratios, copies;
    for (int i = 0; i < pairs; ++i) {
      times.push_back(seconds(batch, call));
      double best = 1e9;
      for (const bool streaming : {false, true, false, true})
        best = std::min(best, seconds(floor_batch, [&] { floor(streaming); }));
      floors.push_back(best);
      ratios.push_back(times.back() / floors.back());
      const auto half = static_cast<std::size_t>(bytes / 2);
      copies.push_back(
          std::min(memcpy_seconds(workers, half, floor_batch), memcpy_seconds(workers, half, floor_batch)));
    }
    std::sort(ratios.begin(), ratios.end());
    state.SetIterationTime(median(times));
    const double of_memcpy = median(copies) / median(floors);
    constexpr double mib = 1 << 20;
    const std::size_t scratch = op.workspace(execution), bound = op.workspace_bound(threads);
    auto& c = state.counters;
    c["x"] = median(ratios);
    c["x_low"] = ratios[ratios.size() / 4], c["x_high"] = ratios[ratios.size() - 1 - ratios.size() / 4];
    c["floor_ms"] = median(floors) * 1e3, c["GB/s"] = bytes / median(floors) / 1e9;
    c["of_memcpy"] = of_memcpy;
    c["MiB"] = static_cast<double>(scratch) / mib, c["MiB_bound"] = static_cast<double>(bound) / mib;
    if (of_memcpy < 0.8)
      failed = true, state.SkipWithError("the floor's bandwidth is below 80% of memcpy's");
    else if (scratch > bound)
      failed = true, state.SkipWithError("scratch is above its bound");
  }
}

void add(const testing::Case& c, Pass pass, DType dtype, const char* offsets, bool nchw,
         const std::vector<int>& threads, int pairs) {
  const Spec spec{c, pass, dtype, offsets, nchw};
  for (int t : threads)
    benchmark::RegisterBenchmark((spec.name() + "/threads:" + std::to_string(t)).c_str(),
                                 [spec, t, pairs](benchmark::State& s) { measure(s, spec, t, pairs); })
        ->UseManualTime()
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond);
}

// Letters are the cases that schedules are judged by; the others are layers of real networks.
bool letter(const testing::Case& c) { return c.name.size() == std::strlen("bench_a"); }

void add_all(bool quick, bool all) {
  std::vector<int> threads{1};
  if (get_num_threads() > 1) threads.push_back(get_num_threads());
  constexpr Pass kPasses[] = {Pass::grad, Pass::forward, Pass::grad_grad};
  for (const testing::Case& c : testing::read_cases()) {
    if (!c.bench) continue;
    if (quick) {
      if (letter(c) && std::strchr("abcf", c.name.back()))
        add(c, Pass::grad, DType::float32, "std1", false, threads, 3);
      continue;
    }
    for (Pass pass : kPasses) {
      std::vector<const char*> offsets{"own"};
      if (all || (letter(c) && pass != Pass::grad_grad))
        offsets = {"zero", "std1", "flow", "std20"};
      else if (letter(c))
        offsets = {"std1"};
      for (const char* o : offsets)
        for (DType t : {DType::float32, DType::float64, DType::bfloat16, DType::float16})
          for (bool nchw : {false, true})
            if (all || (t == DType::float32 && !nchw)) add(c, pass, t, o, nchw, threads, 9);
    }
  }
}

}  // namespace
}  // namespace tapfield::bench

int main(int argc, char** argv) {
  bool quick = false, all = false;
  std::vector<char*> rest{argv[0]};
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--quick") {
      quick = true;
    } else if (a == "--all") {
      all = true;
    } else if (a.rfind("--target=", 0) == 0) {
      std::int64_t targets = 0;
      for (std::int64_t t : hwy::SupportedAndGeneratedTargets())
        if (a.substr(9) == hwy::TargetName(t)) targets = t;
      if (!targets) return std::fprintf(stderr, "%s: not a target of this machine\n", a.c_str()), 2;
      hwy::SetSupportedTargetsForTest(targets);
    } else {
      rest.push_back(argv[i]);
    }
  }
  char tabular[] = "--benchmark_counters_tabular=true";
  rest.insert(rest.begin() + 1, tabular);
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
  tapfield::bench::add_all(quick, all);
  benchmark::RunSpecifiedBenchmarks();
  return tapfield::bench::failed ? 1 : 0;
}
