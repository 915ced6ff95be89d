// SPDX-License-Identifier: Apache-2.0
// Times passes on the bench cases of tests/cases.json beside the memory floor of the same run (measure.h).
//
//   tapfield_bench [--quick | --all | --shape=N,H,W,C,K,G ...] [--target=AVX2] [--threads=1,2]
//                  [--pairs=9] [Google Benchmark's options]
//
// A row is PASS/CASE/DTYPE/OFFSETS[/NCHW]/threads:N. --all has every combination: name some by
// --benchmark_filter. --shape makes a case with a K x K kernel and offsets of deviation 1.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "measure.h"

namespace tapfield::bench {
namespace {

constexpr Pass kPasses[] = {Pass::grad, Pass::forward, Pass::grad_grad};
constexpr DType kDtypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};

struct Options {
  bool quick = false, all = false;
  int pairs = 9;
  std::vector<int> threads{1};
  std::vector<testing::Case> shapes;
};

std::vector<std::int64_t> numbers(const std::string& list) {
  std::vector<std::int64_t> all;
  std::istringstream in(list);
  for (std::string n; std::getline(in, n, ',');) all.push_back(std::stoll(n));
  return all;
}

testing::Case case_of(const std::string& shape) {
  const auto n = numbers(shape);
  if (n.size() != 6) throw std::invalid_argument("--shape must be N,H,W,C,K,G but is " + shape);
  testing::Case c{};
  c.name = "bench_" + shape, c.x = {n[0], n[1], n[2], n[3]};
  c.kh = c.kw = n[4], c.stride_h = c.stride_w = c.dil_h = c.dil_w = 1, c.groups = n[5];
  c.pads.fill(n[4] / 2);
  c.modulated = c.bench = true, c.border = "open", c.kind = "normal", c.std_deviation = 1;
  return c;
}

void add(const Options& options, const testing::Case& c, Pass pass, DType dtype, const char* offsets,
         bool nchw = false) {
  const Spec spec{c, pass, dtype, offsets, nchw};
  for (int t : options.threads)
    benchmark::RegisterBenchmark(
        (spec.name() + "/threads:" + std::to_string(t)).c_str(),
        [spec, t, pairs = options.pairs](benchmark::State& s) { measure(s, spec, t, pairs); })
        ->UseManualTime()
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond);
}

// Letters are the cases that schedules are judged by; the others are layers of real networks.
bool letter(const testing::Case& c) { return c.name.size() == std::strlen("bench_a"); }

void add_everything(const Options& options, const testing::Case& c) {
  for (Pass pass : kPasses)
    for (const char* o : {"own", "zero", "std1", "flow", "std20", "one_cell", "one_row", "dead"})
      for (DType t : kDtypes)
        for (bool nchw : {false, true}) add(options, c, pass, t, o, nchw);
}

// A few minutes' worth: more than one thread where offsets are typical, other dtypes for one letter a
// schedule.
void add_letter(const Options& options, const Options& one, const testing::Case& c) {
  for (Pass pass : {Pass::grad, Pass::forward}) {
    for (const char* o : {"zero", "std1", "flow", "std20"})
      add(std::strcmp(o, "std1") ? one : options, c, pass, DType::float32, o);
    for (DType t : kDtypes)
      if (t != DType::float32 && std::strchr("aceq", c.name.back())) add(one, c, pass, t, "std1");
  }
  add(options, c, Pass::grad_grad, DType::float32, "std1");
}

void add_own(const Options& options, const Options& one, const testing::Case& c) {
  for (Pass pass : kPasses) add(pass == Pass::grad_grad ? one : options, c, pass, DType::float32, "own");
}

void add_rows(const Options& options) {
  Options one = options;
  one.threads = {1};
  for (const testing::Case& c : options.shapes)
    for (Pass pass : kPasses) add(options, c, pass, DType::float32, "own");
  if (!options.shapes.empty()) return;
  for (const testing::Case& c : testing::read_cases()) {
    if (!c.bench) continue;
    if (options.quick) {
      if (letter(c) && std::strchr("abcf", c.name.back())) add(one, c, Pass::grad, DType::float32, "std1");
    } else if (options.all) {
      add_everything(options, c);
    } else if (letter(c)) {
      add_letter(options, one, c);
    } else {
      add_own(options, one, c);
    }
  }
}

// Makes dispatch choose one instruction set; empty: all that this machine has.
void set_target(const std::string& name) {
  std::int64_t found = 0;
  for (std::int64_t t : hwy::SupportedAndGeneratedTargets())
    if (name == hwy::TargetName(t)) found = t;
  if (!found) throw std::invalid_argument(name + " is not a target of this machine");
  hwy::SetSupportedTargetsForTest(found);
}

std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(": ") + 2);
  return "unknown";
}

Options parse(int argc, char** argv, std::vector<char*>& rest) {
  Options o;
  if (get_num_threads() > 1) o.threads.push_back(get_num_threads());
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i], value = a.substr(a.find('=') + 1);
    const auto is = [&](const char* name) { return a.rfind(name, 0) == 0; };
    if (a == "--quick")
      o.quick = true;
    else if (a == "--all")
      o.all = true;
    else if (is("--shape="))
      o.shapes.push_back(case_of(value));
    else if (is("--pairs="))
      o.pairs = std::stoi(value);
    else if (is("--target="))
      set_target(value);
    else if (is("--threads=")) {
      const auto list = numbers(value);
      o.threads.assign(list.begin(), list.end());
    } else {
      rest.push_back(argv[i]);
    }
  }
  return o;
}

int run(int argc, char** argv) {
  char tabular[] = "--benchmark_counters_tabular=true";
  std::vector<char*> rest{argv[0], tabular};
  const Options options = parse(argc, argv, rest);
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
  benchmark::AddCustomContext("processor", processor());
  benchmark::AddCustomContext("target", cpu::simd_target());
  benchmark::AddCustomContext("compiler", __VERSION__);
  add_rows(options);
  benchmark::RunSpecifiedBenchmarks();
  return any_failed() ? 1 : 0;
}

}  // namespace
}  // namespace tapfield::bench

int main(int argc, char** argv) {
  try {
    return tapfield::bench::run(argc, argv);
  } catch (const std::invalid_argument& error) {
    return std::fprintf(stderr, "tapfield_bench: %s\n", error.what()), 2;
  }
}
