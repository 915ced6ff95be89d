// SPDX-License-Identifier: Apache-2.0
// The rules of docs/operators.md, "Errors", as data: what breaks one in a valid call, and the whole message.
#pragma once

#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "call.h"

namespace tapfield::test {

struct Case {
  std::string name;
  tapfield_pass pass;
  std::function<void(Call&)> change;
  std::string message;
  tapfield_status status = TAPFIELD_INVALID_ARGUMENT;
  bool in_c = true;  // false: C cannot say it (its attribute lists have no length)
};

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.message; }

std::vector<Case> attribute_cases();
std::vector<Case> shape_cases();   // ranks, sizes and strides of each pass's each tensor
std::vector<Case> memory_cases();  // pointers, devices and overlap of each pass's each tensor
std::vector<Case> dtype_cases();
std::vector<Case> execution_cases();

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max(),
                       kMin = std::numeric_limits<std::int64_t>::min();

constexpr auto F = TAPFIELD_FORWARD;
constexpr auto G = TAPFIELD_GRAD;
constexpr auto GG = TAPFIELD_GRAD_GRAD;

}  // namespace tapfield::test
