// SPDX-License-Identifier: Apache-2.0
// Tests that run once for each SIMD target of this machine: TEST_P(OnTarget, ...).
#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tapfield::testing {

inline std::vector<std::int64_t> targets() {
  std::vector<std::int64_t> r;
  for (std::int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left; left &= left - 1)
    r.push_back(left & -left);
  return r;
}

inline std::string target_name(const ::testing::TestParamInfo<std::int64_t>& info) {
  return hwy::TargetName(info.param);
}

class OnTarget : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

}  // namespace tapfield::testing
