// SPDX-License-Identifier: Apache-2.0
// What profile.cpp counts, of accesses whose sectors and banks are known.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>

#include "machine.h"
#include "profile.h"

namespace ptx_on_cpu {
namespace {

constexpr int kLine = 7;

// Of a warp whose lanes each run body(lane).
Counts counted(const std::function<void(int)>& body, unsigned lanes = 32) {
  begin_profile();
  EXPECT_EQ(cuda_on_cpu::run_grid(dim3(1), dim3(lanes), 0, [&] { body(static_cast<int>(threadIdx.x)); }), "");
  return end_profile();
}

Counts access(Space space, Access how, int bytes, const std::function<std::uint64_t(int)>& address) {
  return counted([&](int lane) {
    enter(0, 1);
    note(kLine, space, how, address(lane), static_cast<std::size_t>(bytes));
  });
}

double passes(int bytes, int stride, Access how = Access::load) {
  return access(Space::shared, how, bytes, [=](int lane) { return lane * stride; }).passes;
}

TEST(Profile, CountsPassesOverBanks) {
  EXPECT_EQ(passes(4, 4), 1);
  EXPECT_EQ(passes(4, 0), 1);  // all lanes want one word
  EXPECT_EQ(passes(4, 8), 2);
  EXPECT_EQ(passes(4, 32), 8);
  EXPECT_EQ(passes(4, 128), 32);
  EXPECT_EQ(passes(4, 132), 1);
  EXPECT_EQ(passes(2, 2), 1);
  EXPECT_EQ(passes(8, 8), 2);
  EXPECT_EQ(passes(16, 16), 4);
  EXPECT_EQ(passes(16, 32), 8);
  EXPECT_EQ(passes(16, 0), 4);  // one for each quarter of the warp
  EXPECT_EQ(passes(4, 0, Access::add), 32);
  EXPECT_EQ(passes(4, 4, Access::add), 1);
}

TEST(Profile, CountsSectors) {
  const auto rows = [](int lane) { return std::uint64_t{4096} + 4 * lane; };
  EXPECT_EQ(access(Space::global, Access::load, 4, rows).loaded, 4);
  EXPECT_EQ(access(Space::global, Access::store, 4, [](int lane) { return 64 * lane; }).stored, 32);
  EXPECT_EQ(access(Space::global, Access::add, 16, [](int lane) { return 16 * lane; }).added, 16);
  EXPECT_EQ(access(Space::param, Access::load, 4, rows).loaded, 0);
}

TEST(Profile, CountsABlockAsOftenAsAnyLaneIsThere) {
  const auto body = [](int lane) {
    enter(0, 5);
    for (int i = 0; i < lane % 4; ++i) enter(1, 10);
    if (lane < 3) enter(2, 100);
  };
  EXPECT_EQ(counted(body).instructions, 5 + 3 * 10 + 100);
  EXPECT_EQ(counted(body, 64).instructions, 2 * (5 + 3 * 10) + 100);
}

TEST(Profile, TellsVisitsApart) {
  const Counts n = counted([](int lane) {
    for (int i = 0; i < 2; ++i) {
      enter(0, 1);
      note(kLine, Space::global, Access::load, static_cast<std::uint64_t>(4 * lane), 4);
    }
  });
  EXPECT_EQ(n.loaded, 8);
}

}  // namespace
}  // namespace ptx_on_cpu
