// SPDX-License-Identifier: Apache-2.0
// examples/ascend_graph/compare.h: what is within the bound passes, what is beyond does not.
#include <gtest/gtest.h>

#include "../../examples/ascend_graph/compare.h"
#include "case_table.h"

namespace {

using example::Type;

TEST(Compare, DecodesEveryNumberOf16Bits) {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const std::vector element{static_cast<std::uint16_t>(bits)};
    for (const auto& [type, dtype] : {std::pair(Type::float16, tapfield::DType::float16),
                                      std::pair(Type::bfloat16, tapfield::DType::bfloat16)}) {
      const double got = example::value_of(element.data(), 0, type),
                   want = tapfield::testing::decode(element.data(), dtype);
      ASSERT_TRUE(got == want || (std::isnan(got) && std::isnan(want))) << bits;
    }
  }
}

TEST(Compare, AllowsTheBoundAndNoMore) {
  const std::vector<double> exact{1, -2, 0, 3}, magnitudes{1, 4, 0, 3};
  std::vector<float> got{1, -2, 0, 3};
  const auto verdict = [&] {
    return example::compare(got.data(), got.size() * sizeof(float), Type::float32, exact, magnitudes, 2);
  };
  EXPECT_EQ(verdict().elements, 4);
  EXPECT_EQ(verdict().over, 0);
  got[1] = -2 + 0x1.fp-19f;  // of 4 eps n magnitude = 2^-18
  EXPECT_EQ(verdict().over, 0);
  EXPECT_GT(verdict().worst, 0.4);
  got[1] = -2 + 0x1.2p-18f;
  EXPECT_EQ(verdict().over, 1);
  EXPECT_EQ(verdict().first_over, 1);
  got = {1, -2, 1e-30f, NAN};  // where nothing is summed there is nothing to round
  EXPECT_EQ(verdict().over, 2);
  EXPECT_EQ(verdict().first_over, 2);
}

TEST(Compare, Allows16BitsTheirRounding) {
  const std::vector<std::uint16_t> one_and_an_ulp{0x3c01};  // float16 1 + 2^-10
  const std::vector<double> magnitude{1};
  const auto over = [&](double exact) {
    return example::compare(one_and_an_ulp.data(), 2, Type::float16, {exact}, magnitude, 1).over;
  };
  EXPECT_EQ(over(1 + 0x1p-11), 0);
  EXPECT_EQ(over(1 + 0x0.fp-11), 1);
}

TEST(Compare, WantsWhatIsNotFiniteToBeThat) {
  const float infinite = INFINITY, one = 1;
  EXPECT_EQ(example::compare(&infinite, 4, Type::float32, {NAN}, {1}, 1).over, 0);
  EXPECT_EQ(example::compare(&one, 4, Type::float32, {NAN}, {1}, 1).over, 1);
}

TEST(Compare, TakesNoInfinityForANumber) {
  const std::vector<std::uint16_t> infinite{0x7c00, 0xfc00};
  EXPECT_EQ(example::compare(infinite.data(), 4, Type::float16, {1, 2}, {1, 2}, 1).over, 2);
  EXPECT_EQ(example::compare(infinite.data(), 4, Type::bfloat16, {1, 2}, {1, 2}, 1).over, 2);
}

TEST(Compare, RefusesOtherSizes) {
  const float one = 1;
  EXPECT_THROW(example::compare(&one, 4, Type::float32, {1, 1}, {1, 1}, 1), std::runtime_error);
  EXPECT_THROW(example::compare(&one, 0, Type::float32, {}, {}, 1), std::runtime_error);
  EXPECT_THROW(example::doubles_of("/no/such/file"), std::runtime_error);
  EXPECT_EQ(example::number_in("{\n \"most_corners_per_pixel\": 17,\n", "most_corners_per_pixel"), 17);
  EXPECT_THROW(example::number_in("{}", "most_corners_per_pixel"), std::runtime_error);
}

}  // namespace
