// SPDX-License-Identifier: Apache-2.0
// A2 and A3 (dav-2201): plans of tiles and bands, and the launches.
#include <algorithm>

#include "ascend/run.h"

namespace tapfield::ascend {
namespace {

using std::int32_t;
using std::int64_t;

// A tile of at most `most` taps: whole kernels of as many pixels as that makes, or a part of one.
void set_tile(Plan& plan, const Problem& p, int64_t most) {
  if (p.taps() <= most) {
    plan.taps = static_cast<int32_t>(p.taps());
    plan.pixels = static_cast<int32_t>(std::min(most / p.taps(), p.wo));
  } else {
    plan.taps = static_cast<int32_t>(up(p.taps(), up(p.taps(), most)));  // parts of the same size
    plan.pixels = 1;
  }
}

// The longest piece with which `least` taps fit; then as many taps as fit, up to `most`.
template <class Buffers>
Plan plan_tile(const Problem& p, Buffers (*buffers)(const Plan&), int64_t least, int64_t most) {
  Plan plan{};
  plan.element_bytes = static_cast<int32_t>(size_of(p.x.dtype));
  plan.planes = static_cast<int32_t>(p.planes());
  plan.band_h = plan.band_w = 1;
  const auto fits = [&] { return buffers(plan).total() <= kUnifiedBuffer; };
  constexpr int64_t kMostChannels = 4096;  // keeps sums of bytes within 32 bits
  for (int64_t pieces = up(p.group_channels(), kMostChannels);; ++pieces) {
    plan.piece = static_cast<int32_t>(up(p.group_channels(), pieces));
    set_tile(plan, p, least);
    if (fits()) break;
  }
  for (int64_t taps = most; taps > least; --taps) {
    set_tile(plan, p, taps);
    if (fits()) return plan;
  }
  set_tile(plan, p, least);
  return plan;
}

// The largest side of a band, of plan's, up to `most`, with which its buffers fit: 1 does.
void grow_band(Plan& plan, int32_t& side, int64_t most) {
  int64_t least = 1;
  while (least < most) {
    const int64_t middle = (least + most + 1) / 2;
    side = static_cast<int32_t>(middle);
    if (band_buffers(plan).total() <= kUnifiedBuffer)
      least = middle;
    else
      most = middle - 1;
  }
  side = static_cast<int32_t>(least);
}

}  // namespace

Plan plan_forward(const Problem& p) { return plan_tile(p, forward_buffers, kLeastTaps, kMostTaps); }

Plan plan_grad(const Problem& p) { return plan_tile(p, grad_buffers, kLeastTaps, kMostTaps); }

// Small tiles: UB is for the band. As wide as the map if that fits, then as high as fits and leaves every
// core one.
Plan plan_bands(const Problem& p, int64_t cores) {
  Plan plan = plan_tile(p, band_buffers, kLeastTaps, kLeastTaps);
  const int64_t most = kUnifiedBuffer / (4 * row_of(plan));  // pixels; keeps sums of bytes within 32 bits
  grow_band(plan, plan.band_w, std::min<int64_t>({p.w, kMostBlocks, most}));
  grow_band(plan, plan.band_h,
            std::min<int64_t>({p.h, up(p.n * p.groups * p.h * up(p.w, plan.band_w), cores), most}));
  return plan;
}

void run_vector(const Problem& p, const Device& d, void* scratch) {
  const auto a = arguments_of<int64_t>(p, scratch);
  const Launch l = launch_of(p, d);
  if (p.pass == Pass::forward) return launch_forward_vector(l, a, plan_forward(p));
  if (!d.deterministic) return launch_grad_vector(l, a, plan_grad(p));
  launch_grad_bands(l, a, plan_bands(p, d.cores));
  launch_grad_offsets_vector(l, a, plan_grad(p));
}

}  // namespace tapfield::ascend
