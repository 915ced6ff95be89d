// SPDX-License-Identifier: Apache-2.0
#include "cpu/windowed.h"

namespace tapfield::cpu {
namespace {

// The windows of one band, and what they touch.
template <class F>
void plan_band(const Problem& p, const WindowsScratch<F>& scratch, Strip<F>& strip, std::int64_t n0,
               std::int64_t at) {
  const Tiling& t = scratch.tiled;
  std::int64_t begin = p.h, end = 0, cells = 0;
  for (std::int64_t tile = 0; tile < t.tiles; ++tile) {
    Window* windows = scratch.windows + (at * t.tiles + tile) * p.groups;
    find_windows(p, t, strip, n0 + at / t.bands, at % t.bands * t.rows, tile * t.columns, windows);
    for (std::int64_t g = 0; g < p.groups; ++g) {
      const Window& w = windows[g];
      if (!w.rows) continue;
      begin = std::min<std::int64_t>(begin, w.h), end = std::max<std::int64_t>(end, w.h + w.rows + 1);
      cells += std::int64_t{w.rows} * w.columns;
    }
  }
  scratch.begins[at] = begin, scratch.ends[at] = end, scratch.cells[at] = cells;
}

// Each band runs in the first round whose bands before it, of its image, end where it begins. Returns the
// number of rounds.
template <class F>
std::int64_t find_rounds(const WindowsScratch<F>& scratch, std::int64_t images) {
  const std::int64_t bands = scratch.tiled.bands;
  std::int64_t count = 0, turn = 0;
  for (std::int64_t i = 0; i < images; ++i)
    for (std::int64_t b = 0; b < bands; ++b) {
      const std::int64_t at = i * bands + b;
      std::int64_t round = 0;
      for (bool free = false; !free; round += !free) {
        free = true;
        for (std::int64_t other = at - b; other < at; ++other)
          free &= scratch.rounds[other] != round || scratch.ends[other] <= scratch.begins[at] ||
                  scratch.ends[at] <= scratch.begins[other];
      }
      scratch.rounds[at] = round, count = std::max(count, round + 1);
    }
  for (std::int64_t round = 0; round < count; ++round)
    for (std::int64_t at = 0; at < images * bands; ++at)
      if (scratch.rounds[at] == round) scratch.turns[turn++] = at;
  return count;
}

}  // namespace

template <class F>
WindowsPlan plan_windows(const Problem& p, const Workers& workers, const WindowsScratch<F>& scratch,
                         std::int64_t n0, std::int64_t images) {
  const Tiling& tiled = scratch.tiled;
  const std::int64_t bands = images * tiled.bands;
  workers.run(bands, [&](std::int64_t at, int index) {
    auto slot = scratch.slot(p, index);
    plan_band(p, scratch, slot.strip, n0, at);
  });
  std::int64_t cells = 0, rows = 0;
  for (std::int64_t at = 0; at < bands; ++at)
    cells += scratch.cells[at], rows = std::max(rows, scratch.ends[at] - scratch.begins[at]);
  if (cells > images * p.ho * p.wo * p.lanes() && scratch.whole.fits(sizeof(F))) {
    for (std::int64_t i = 0; i < images; ++i) {
      for (std::int64_t g = 0; g < p.groups; ++g)
        scratch.windows[i * p.groups + g] = {-1, -1, static_cast<std::int32_t>(p.h + 1),
                                             static_cast<std::int32_t>(p.w + 1)};
      scratch.rounds[i] = 0, scratch.turns[i] = i;
    }
    return {scratch.whole, 1, false};
  }
  const std::int64_t rounds = find_rounds(scratch, images), items = bands * tiled.blocks;
  // Less than two items a round; whatever the threads, so that any number of them gives the same bits.
  if (rounds > 1 && items < 2 * rounds && rows <= scratch.apart_rows) return {tiled, rounds, true};
  return {items < 2 * workers.slots() * rounds ? scratch.split : tiled, rounds, false};
}

template WindowsPlan plan_windows(const Problem&, const Workers&, const WindowsScratch<float>&, std::int64_t,
                                  std::int64_t);
template WindowsPlan plan_windows(const Problem&, const Workers&, const WindowsScratch<double>&, std::int64_t,
                                  std::int64_t);

}  // namespace tapfield::cpu
