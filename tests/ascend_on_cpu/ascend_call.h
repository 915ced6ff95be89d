// SPDX-License-Identifier: Apache-2.0
// A Call of tests/cpp/calls.h on the stand-in for a device.
#pragma once

#include <vector>

#include "ascend/run.h"
#include "calls.h"
#include "machine.h"

namespace tapfield::testing {

enum class Product { dav_3510, dav_2201 };
inline const char* name_of(Product p) { return p == Product::dav_3510 ? "dav_3510" : "dav_2201"; }

inline Problem problem_of(const Call& call) {
  const Tensor x = call.view(call.x), offsets = call.view(call.offsets), grad = call.view(call.grad),
               first = call.view(*call.outputs[0]);
  if (call.pass == Pass::forward)
    return make_problem(Pass::forward, {.x = &x, .offsets = &offsets, .y = &first}, call.attributes, true);
  const Tensor second = call.view(*call.outputs[1]);
  return make_problem(
      Pass::grad, {.x = &x, .offsets = &offsets, .grad = &grad, .grad_x = &first, .grad_offsets = &second},
      call.attributes, true);
}

// Runs the call with everything poisoned that it has to write.
inline void run_on(Product product, Call& call, std::int64_t cores, bool deterministic = false) {
  const Problem p = problem_of(call);
  if (const char* why = ascend::why_not(p)) throw std::invalid_argument(why);
  for (auto& o : call.outputs) o->poison();
  std::vector<float> scratch(ascend::scratch_bytes(p) / sizeof(float), NAN);
  const auto declare = [](const View& v, std::int64_t elements) {
    if (v.data) ascend_on_cpu::declare_memory(v.data, static_cast<std::size_t>(elements * size_of(v.dtype)));
  };
  const std::int64_t of_x = p.n * p.h * p.w * p.c, of_offsets = p.n * p.ho * p.wo * p.planes() * p.lanes();
  declare(p.x, of_x), declare(p.offsets, of_offsets), declare(p.grad, p.y_elements());
  declare(p.y, p.y_elements()), declare(p.grad_x, of_x), declare(p.grad_offsets, of_offsets);
  if (!scratch.empty()) ascend_on_cpu::declare_memory(scratch.data(), scratch.size() * sizeof(float));
  const struct Forget {
    ~Forget() { ascend_on_cpu::forget_memory(); }
  } forget;
  const ascend::Device device{cores, nullptr, deterministic};
  if (!p.n) return;  // what the package does
  product == Product::dav_3510 ? ascend::run_simt(p, device, scratch.data())
                               : ascend::run_vector(p, device, scratch.data());
}

}  // namespace tapfield::testing
