// SPDX-License-Identifier: Apache-2.0
// Plans of vector cores: no buffers beyond UB, every tap in one tile, every pixel of grad_x in one band,
// every channel in one piece, every item in one core's share. For every case of the table and for random
// shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "ascend/run.h"
#include "case_table.h"

namespace tapfield::testing {
namespace {

using namespace ascend;

struct Counts {
  std::vector<unsigned char> seen;
  explicit Counts(std::int64_t items) : seen(static_cast<std::size_t>(items)) {}
  void add(std::int64_t i) { ++seen.at(static_cast<std::size_t>(i)); }
  bool once() const {
    return std::all_of(seen.begin(), seen.end(), [](unsigned char n) { return n == 1; });
  }
};

void check_tiles(const Problem& p, const Plan& plan) {
  const auto g = arguments_of<std::int64_t>(p, nullptr).geometry;
  EXPECT_GE(plan.pixels, 1);
  EXPECT_GE(plan.taps, 1);
  EXPECT_LE(most_taps(plan), kMostTaps);
  EXPECT_LE(4 * most_taps(plan), 255) << "one reduction's rows";
  Counts taps(p.n * p.ho * p.wo * p.lanes());
  for (std::int64_t i = 0; i < tiles(g, plan); ++i) {
    const Tile t = tile_at(g, plan, i);
    for (std::int64_t pixel = 0; pixel < t.pixels; ++pixel)
      for (std::int64_t k = 0; k < t.taps; ++k)
        taps.add((((t.n * p.ho + t.ho) * p.wo + t.wo + pixel) * p.groups + t.g) * p.taps() + t.k + k);
  }
  EXPECT_TRUE(taps.once()) << "taps";
  std::int64_t channels = 0;
  for (std::int64_t i = 0; i < up(g.channels, plan.piece); ++i)
    channels += std::min<std::int64_t>(plan.piece, g.channels - i * plan.piece);
  EXPECT_EQ(channels, g.channels);
}

void check_bands(const Problem& p, const Plan& plan) {
  const auto g = arguments_of<std::int64_t>(p, nullptr).geometry;
  EXPECT_LE(plan.band_w, kMostBlocks);
  Counts pixels(p.n * p.groups * p.h * p.w);
  for (std::int64_t i = 0; i < bands(g, plan); ++i) {
    const Band b = band_at(g, plan, i);
    for (std::int64_t h = b.h; h < b.h + b.rows; ++h)
      for (std::int64_t w = b.w; w < b.w + b.columns; ++w)
        pixels.add(((b.n * p.groups + b.g) * p.h + h) * p.w + w);
  }
  EXPECT_TRUE(pixels.once()) << "pixels of grad_x";
  // The tiles of a band's image and group are those of all, in another order.
  std::int64_t taps = 0;
  for (std::int64_t i = 0; p.n && i < tiles_of_group(g, plan); ++i) {
    const Tile t = tile_of_group(g, plan, 0, 0, i);
    taps += t.pixels * t.taps;
  }
  if (p.n) { EXPECT_EQ(taps, p.ho * p.wo * p.taps()); }
}

void check(Problem p, std::int64_t cores) {
  for (DType t : {DType::float16, DType::float32}) {
    p.x.dtype = t;
    const Plan forward = plan_forward(p), grad = plan_grad(p), by_band = plan_bands(p, cores);
    EXPECT_LE(forward_buffers(forward).total(), kUnifiedBuffer);
    EXPECT_LE(grad_buffers(grad).total(), kUnifiedBuffer);
    EXPECT_LE(band_buffers(by_band).total(), kUnifiedBuffer);
    check_tiles(p, forward), check_tiles(p, grad), check_tiles(p, by_band), check_bands(p, by_band);
  }
}

Problem problem_of(const Case& c) {
  Problem p;
  p.n = c.x[0], p.h = c.x[1], p.w = c.x[2], p.c = c.x[3], p.ho = c.ho(), p.wo = c.wo();
  p.kh = c.kh, p.kw = c.kw, p.groups = c.groups, p.modulated = c.modulated;
  return p;
}

TEST(Tiling, EveryCaseOfTheTable) {
  for (const Case& c : read_cases()) {
    SCOPED_TRACE(c.name);
    check(problem_of(c), 40);
    if (HasFailure()) return;
  }
}

TEST(Tiling, TenThousandRandomShapes) {
  std::mt19937 random(20261128);
  const auto pick = [&](std::int64_t most) { return std::int64_t{1} + random() % most; };
  for (int i = 0; i < 10000; ++i) {
    Problem p;
    // Some of these are large at a time, so that all taps can be counted.
    p.n = pick(3), p.h = pick(12), p.w = pick(12), p.ho = pick(9), p.wo = pick(9);
    p.kh = pick(4), p.kw = pick(4), p.groups = pick(4);
    switch (random() % 4) {
      case 0: p.kh = pick(40), p.kw = pick(40), p.ho = pick(2), p.wo = pick(3); break;
      case 1: p.wo = pick(300), p.ho = 1; break;
      case 2: p.w = pick(5000), p.h = pick(3); break;
      default: p.groups = pick(64);
    }
    p.c = p.groups * (random() % 3 ? pick(300) : pick(20000));
    p.modulated = random() % 2;
    const std::int64_t cores = pick(64);
    SCOPED_TRACE("shape " + std::to_string(i) + ": n " + std::to_string(p.n) + ", x " + std::to_string(p.h) +
                 " x " + std::to_string(p.w) + " x " + std::to_string(p.c) + ", output " +
                 std::to_string(p.ho) + " x " + std::to_string(p.wo) + ", ksize " + std::to_string(p.kh) +
                 " x " + std::to_string(p.kw) + ", groups " + std::to_string(p.groups) + ", cores " +
                 std::to_string(cores));
    check(p, cores);
    if (HasFailure()) return;
  }
}

TEST(Tiling, SharesCoverAll) {
  for (std::int64_t count : {0, 1, 2, 39, 40, 41, 1000})
    for (std::int64_t cores : {1, 2, 40}) {
      std::int64_t at = 0;
      for (std::int64_t core = 0; core < cores; ++core) {
        const Share s = share_of(count, core, cores);
        EXPECT_EQ(s.begin, at);
        EXPECT_LE(s.end - s.begin, up(count, cores));
        at = s.end;
      }
      EXPECT_EQ(at, count);
    }
}

// A tile is worth waiting for: not one tap at a time where several fit.
TEST(Tiling, TilesAreNotSmallerThanTheyNeedBe) {
  Problem p;
  p.n = 1, p.h = p.w = p.ho = p.wo = 64, p.kh = p.kw = 3, p.c = 256, p.groups = 1, p.x.dtype = DType::float16;
  const Plan plan = plan_grad(p);
  EXPECT_EQ(plan.piece, 256);
  EXPECT_EQ(most_taps(plan), 9);
  p.c = 64;
  EXPECT_EQ(most_taps(plan_grad(p)), 27);
  p.c = 4096;
  EXPECT_GE(most_taps(plan_grad(p)), kLeastTaps - 1);  // 9 taps in parts of the same size
  EXPECT_GE(plan_grad(p).piece, 512);
}

}  // namespace
}  // namespace tapfield::testing
