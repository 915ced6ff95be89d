// SPDX-License-Identifier: Apache-2.0
// Every rule of docs/operators.md, "Errors": a valid call, one change, the whole message, and nothing
// written.
#include <gtest/gtest.h>

#include "error_cases.h"

namespace tapfield::test {
namespace {

class Refused : public testing::TestWithParam<Case> {};

TEST_P(Refused, SaysWhyAndWritesNothing) {
  const Case& test = GetParam();
  for (Via via : {Via::cpp, Via::c}) {
    if (via == Via::c && !test.in_c) continue;
    SCOPED_TRACE(via == Via::cpp ? "C++" : "C");
    Call call(test.pass);
    test.change(call);
    const auto before = call.arena;
    const Outcome outcome = call.run(via);
    EXPECT_EQ(outcome.status, test.status);
    EXPECT_EQ(outcome.message, test.message);
    EXPECT_TRUE(call.arena == before);
  }
}

std::string case_name(const testing::TestParamInfo<Case>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Attributes, Refused, testing::ValuesIn(attribute_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Shapes, Refused, testing::ValuesIn(shape_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Memory, Refused, testing::ValuesIn(memory_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(DTypes, Refused, testing::ValuesIn(dtype_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Execution, Refused, testing::ValuesIn(execution_cases()), case_name);

}  // namespace
}  // namespace tapfield::test
