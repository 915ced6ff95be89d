// SPDX-License-Identifier: Apache-2.0
// Instructions whose definition in the PTX ISA is not C++'s, and what the machine finds wrong.
#include <gmock/gmock.h>

#include <vector>

#include "instructions.h"

namespace ptx_on_cpu {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = HUGE_VALF;

TEST(Instructions, ShiftsByTheWidthAndMore) {
  EXPECT_EQ(shl_<b32>(1, 31), 0x80000000u);
  EXPECT_EQ(shl_<b32>(1, 32), 0u);
  EXPECT_EQ(shr_<u32>(0x80000000u, 32), 0u);
  EXPECT_EQ(shr_<s32>(0x80000000u, 31), ~0u);
  EXPECT_EQ(shr_<s32>(0x80000000u, 40), ~0u);
  EXPECT_EQ(shr_<s64>(b64{1} << 63, 100), ~b64{0});
  EXPECT_EQ(shf_l_wrap_<b32>(0x80000000u, 1, 33), 3u);
}

template <Comparison how>
bool compares(float a, float b) {
  return setp_<how, f32>(bits(a), bits(b));
}

TEST(Instructions, ComparesNaN) {
  EXPECT_FALSE(compares<lt>(kNaN, 1) || compares<ge>(kNaN, 1) || compares<eq>(kNaN, kNaN));
  EXPECT_FALSE(compares<ne>(kNaN, 1));
  EXPECT_TRUE(compares<ltu>(kNaN, 1) && compares<geu>(kNaN, 1) && compares<equ>(kNaN, 1));
  EXPECT_TRUE(compares<neu>(kNaN, kNaN));
  EXPECT_TRUE(compares<ltu>(0, 1) && compares<leu>(1, 1) && !compares<gtu>(1, 1));
}

TEST(Instructions, SaturatesIntegers) {
  for (auto [from, to] : {std::pair{kNaN, 0},
                          {kInfinity, INT32_MAX},
                          {-kInfinity, INT32_MIN},
                          {2147483648.f, INT32_MAX},
                          {2147483520.f, 2147483520},
                          {-2147483648.f, INT32_MIN},
                          {-1.5f, -1}})
    EXPECT_EQ(as<s32>(cvt_rzi_s32_<f32>(bits(from))), to) << from;
  EXPECT_EQ(as<s64>(cvt_rzi_s64_<f64>(bits(1e300))), INT64_MAX);
  EXPECT_EQ(as<f32>(cvt_rmi_f32_<f32>(bits(-0.5f))), -1);
  EXPECT_EQ(as<f32>(cvt_rpi_f32_<f32>(bits(-1.5f))), -1);
}

TEST(Instructions, MultipliesWide) {
  EXPECT_EQ(mul_hi_<u32>(0xffffffffu, 0xffffffffu), 0xfffffffeu);
  EXPECT_EQ(as<s64>(mul_wide_<s32>(bits(-3), 0x7fffffffu)), -3 * s64{0x7fffffff});
  EXPECT_EQ(as<s32>(mad_lo_<s32>(bits(-3), 5, 7)), -8);
  EXPECT_EQ(as<s32>(div_<s32>(bits(-7), 2)), -3);
  EXPECT_EQ(as<f32>(fma_rn_<f32>(bits(1 + 0x1p-12f), bits(1 - 0x1p-12f), bits(-1.0f))), -0x1p-24f);
}

TEST(Instructions, ExtendsWhatIsLoadedAsItsTypeSays) {
  alignas(8) const std::int32_t memory[2] = {-2, 7};
  const auto at = reinterpret_cast<b64>(memory);
  b64 extended = 0, zeros = 0, other = 0;
  load<Space::global, s32>(at, extended);
  load<Space::global, u32>(at, zeros, other);
  EXPECT_EQ(as<s64>(extended), -2);
  EXPECT_EQ(zeros, 0xfffffffeu);
  EXPECT_EQ(other, 7u);
}

// In each of 32 lanes; what the grid was given up for.
template <class Body>
std::string in_lanes(const Body& body, std::size_t shared_bytes = 0) {
  return cuda_on_cpu::run_grid(dim3(1), dim3(32), shared_bytes, [&] { body(static_cast<int>(threadIdx.x)); });
}

TEST(Instructions, Shuffle) {
  std::vector<int> got(32), up(32);
  std::vector<bool> within(32);
  EXPECT_EQ(in_lanes([&](int lane) {
              b32 r = 0;
              shfl_sync_bfly_<b32>(r, static_cast<b32>(lane), 8, 31, ~0u);
              got[lane] = static_cast<int>(r);
              within[lane] = shfl_sync_up_<b32>(r, static_cast<b32>(lane), 3, 0, ~0u);
              up[lane] = static_cast<int>(r);
            }),
            "");
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(got[lane], lane ^ 8);
    EXPECT_EQ(up[lane], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(within[lane], lane >= 3);
  }
  // Segments of 8 lanes: c has 24 as the lanes' bits that stay.
  EXPECT_EQ(in_lanes([&](int lane) {
              b32 r = 0;
              shfl_sync_idx_<b32>(r, static_cast<b32>(lane), 2, 24 << 8 | 31, ~0u);
              got[lane] = static_cast<int>(r);
            }),
            "");
  for (int lane = 0; lane < 32; ++lane) EXPECT_EQ(got[lane], lane / 8 * 8 + 2);
}

TEST(Machine, FindsWhatAGpuWouldTrapOn) {
  alignas(16) static float memory[8] = {};
  const auto at = reinterpret_cast<b64>(memory);
  b32 a, b, c, d;
  EXPECT_EQ(in_lanes([&](int) { load<Space::global, f32>(at + 16, a, b, c, d); }), "");
  EXPECT_THAT(in_lanes([&](int) { load<Space::global, f32>(at + 8, a, b, c, d); }),
              testing::HasSubstr("not aligned"));
  EXPECT_THAT(in_lanes([&](int) {
                add_atomically<Space::global, f32>(at + 8, {0, 0, 0, 0}, a, b, c, d);
              }),
              testing::HasSubstr("not aligned"));
  EXPECT_EQ(in_lanes([&](int) { store<Space::shared, u32>(60, 1u); }, 64), "");
  EXPECT_THAT(in_lanes([&](int) { store<Space::shared, u32>(64, 1u); }, 64),
              testing::HasSubstr("out of bounds"));
}

}  // namespace
}  // namespace ptx_on_cpu
