// SPDX-License-Identifier: Apache-2.0
// Runs each hot pass once on a small fixed case, one thread, for callgrind: bench/instructions.py counts what
// runs inside counted(). Prints one line a case: its name, the row of the backend table, the target.
#include <cstdio>

#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "operator.h"

namespace {

using namespace tapfield;

struct Call {
  const char* letter;  // of tests/cases.json, cut to 1 x 20 x 36 pixels
  Pass pass;
  DType dtype;
  const char* offsets;
  bool nchw = false;
};

constexpr Call kCalls[] = {
    {"a", Pass::grad, DType::float32, "std1"},       {"a", Pass::grad, DType::float32, "std4"},
    {"a", Pass::grad, DType::float32, "std1", true}, {"a", Pass::grad, DType::float64, "std1"},
    {"a", Pass::grad, DType::bfloat16, "std1"},      {"q", Pass::grad, DType::float32, "std1"},
    {"i", Pass::grad, DType::float32, "std1"},       {"h", Pass::grad, DType::float32, "std1"},
    {"c", Pass::grad, DType::float32, "std1"},       {"c", Pass::grad, DType::float32, "std4"},
    {"c", Pass::grad, DType::float32, "std1", true}, {"c", Pass::grad, DType::float64, "std1"},
    {"c", Pass::grad, DType::bfloat16, "std1"},      {"e", Pass::grad, DType::float32, "flow"},
    {"f", Pass::grad, DType::float32, "std1"},       {"g", Pass::grad, DType::float32, "std1"},
    {"a", Pass::forward, DType::float32, "std1"},    {"a", Pass::forward, DType::float32, "std1", true},
    {"a", Pass::forward, DType::bfloat16, "std1"},   {"c", Pass::forward, DType::float32, "std1"},
    {"c", Pass::forward, DType::bfloat16, "std1"},   {"e", Pass::forward, DType::float32, "flow"},
    {"g", Pass::forward, DType::float32, "std1"},    {"a", Pass::grad_grad, DType::float32, "std1"},
    {"c", Pass::grad_grad, DType::float32, "std1"},
};

bench::Spec spec_of(const Call& call) {
  static const std::vector<testing::Case> cases = testing::read_cases();
  for (testing::Case c : cases)
    if (c.name == std::string("bench_") + call.letter) {
      c.x[0] = 1;
      if (c.x[1] > 20) c.x[1] = 20, c.x[2] = 36;
      return {c, call.pass, call.dtype, call.offsets, call.nchw};
    }
  std::abort();
}

}  // namespace

// By this name callgrind knows when to count.
extern "C" __attribute__((noinline)) void counted(const tapfield::bench::Kernel& kernel) { kernel.run(); }

int main() {
  tapfield::Execution one;
  one.threads = 1;
  for (const Call& call : kCalls) {
    const bench::Spec spec = spec_of(call);
    const bench::Operator op(spec);
    const bench::Kernel kernel(op, one);
    kernel.run();  // what happens once, such as choosing the target
    counted(kernel);
    std::printf("%s %s %s\n", spec.name().c_str(), kernel.row(), tapfield::cpu::simd_target());
  }
  std::printf("compiler %s, Highway %d.%d.%d\n", __VERSION__, HWY_MAJOR, HWY_MINOR, HWY_PATCH);
}
