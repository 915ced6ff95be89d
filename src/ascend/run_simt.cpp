// SPDX-License-Identifier: Apache-2.0
// 950 (dav-3510): the width of indices, the shares of threads, and the launches.
#include <algorithm>
#include <initializer_list>

#include "ascend/run.h"

namespace tapfield::ascend {

using std::int32_t;
using std::int64_t;

namespace {

template <class Index>
void launch(const Problem& p, const Device& d, void* scratch) {
  const auto a = arguments_of<Index>(p, scratch);
  const Launch l = launch_of(p, d);
  if (p.pass == Pass::forward) return launch_forward_simt(l, a, team_of(p));
  if (!d.deterministic) return launch_grad_simt(l, a, team_of(p));
  launch_grad_simt_deterministic(l, a, band_rows(p, d.cores));
}

}  // namespace

bool fits_32_bits(const Problem& p) {
  constexpr int64_t kLimit =
      (int64_t{1} << 31) - (int64_t{1} << 20);  // 2^20: more than all threads of a device
  for (int64_t count : {p.n * p.h * p.w * p.c, p.n * p.ho * p.wo * p.planes() * p.lanes(), p.y_elements()})
    if (count >= kLimit) return false;
  // Positions, and the sums that lead to them: below the padded size on either side of 0.
  return p.groups < int64_t{1} << 20 && p.ho * p.stride_h + p.kh * p.dil_h < kLimit &&
         p.wo * p.stride_w + p.kw * p.dil_w < kLimit && p.top < kLimit && p.left < kLimit && p.h < kLimit &&
         p.w < kLimit;
}

int32_t team_of(const Problem& p) {
  int32_t team = 1;
  while (team < 32 && team < p.group_channels()) team *= 2;
  return team;
}

int32_t band_rows(const Problem& p, int64_t cores) {
  constexpr int64_t kMost = 1 << 20;
  return static_cast<int32_t>(std::min({p.h, up(p.n * p.h, cores), kMost}));
}

void run_simt(const Problem& p, const Device& d, void* scratch) {
  fits_32_bits(p) ? launch<int32_t>(p, d, scratch) : launch<int64_t>(p, d, scratch);
}

}  // namespace tapfield::ascend
