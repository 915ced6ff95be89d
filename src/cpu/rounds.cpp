// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <numeric>
#include <span>
#include <utility>

#include "cpu/windowed.h"

namespace tapfield::cpu {
namespace {

// The windows of one piece, and what they touch.
template <class F>
void plan_piece(const Problem& p, const WindowsScratch<F>& scratch, Strip<F>& strip, std::int64_t n0,
                std::int64_t at) {
  const Tiling& t = scratch.tiled;
  const std::int64_t band = at / t.pieces;  // of all images
  Touched& touched = scratch.touched[at] = {};
  for (std::int64_t tile = t.piece_begin(at % t.pieces); tile < t.piece_end(at % t.pieces); ++tile) {
    Window* windows = scratch.windows + (band * t.tiles + tile) * p.groups;
    find_windows(p, t, strip, n0 + band / t.bands, band % t.bands * t.rows, tile * t.columns, windows);
    for (const Window& w : std::span(windows, p.groups))
      touched.add({std::max<std::int64_t>(w.h, 0), std::min<std::int64_t>(w.h + w.rows + 1, p.h),
                   std::max<std::int64_t>(w.w, 0), std::min<std::int64_t>(w.w + w.columns + 1, p.w),
                   std::int64_t{w.rows} * w.columns});
  }
}

// Each piece runs in the first round whose pieces before it, of its image, touch other squares than it; or,
// if none of 32 rounds is free, alone. Returns the number of rounds.
template <class F>
std::int64_t find_rounds(const Problem& p, const WindowsScratch<F>& scratch, std::int64_t images) {
  const std::int64_t pieces = scratch.tiled.bands * scratch.tiled.pieces, width = squares(p.w);
  std::int64_t shared = 0, alone = 0;
  for (std::int64_t at = 0; at < images * pieces; ++at) {
    if (at % pieces == 0) std::fill_n(scratch.taken, squares(p.h) * width, 0);
    const Touched& t = scratch.touched[at];
    const auto each_square = [&](const auto& visit) {
      for (std::int64_t h = t.h0 / kSquare; h < squares(t.h1); ++h)
        for (std::int64_t w = t.w0 / kSquare; w < squares(t.w1); ++w) visit(scratch.taken[h * width + w]);
    };
    std::uint32_t taken = 0;
    each_square([&](std::uint32_t rounds) { taken |= rounds; });
    const int free = std::countr_one(taken);
    scratch.rounds[at] = free < 32 ? free : 32 + alone++;
    if (free == 32) continue;
    each_square([&](std::uint32_t& rounds) { rounds |= std::uint32_t{1} << free; });
    shared = std::max<std::int64_t>(shared, free + 1);
  }
  std::iota(scratch.turns, scratch.turns + images * pieces, 0);
  std::sort(scratch.turns, scratch.turns + images * pieces, [&](std::int64_t a, std::int64_t b) {
    return std::pair(scratch.rounds[a], a) < std::pair(scratch.rounds[b], b);
  });
  return shared + alone;
}

// What the windows of each band touch; the most pixels of any.
template <class F>
std::int64_t touched_by_bands(const WindowsScratch<F>& scratch, std::int64_t images) {
  const Tiling& t = scratch.tiled;
  std::int64_t most = 0;
  for (std::int64_t band = 0; band < images * t.bands; ++band) {
    Touched& all = scratch.touched_by_bands[band] = {};
    for (std::int64_t piece = 0; piece < t.pieces; ++piece) all.add(scratch.touched[band * t.pieces + piece]);
    most = std::max(most, all.pixels());
  }
  return most;
}

}  // namespace

template <class F>
WindowsPlan plan_windows(const Problem& p, const Workers& workers, const WindowsScratch<F>& scratch,
                         std::int64_t n0, std::int64_t images) {
  const Tiling& tiled = scratch.tiled;
  const std::int64_t pieces = images * tiled.bands * tiled.pieces;
  workers.run(pieces, [&](std::int64_t at, int index) {
    auto slot = scratch.slot(p, index);
    plan_piece(p, scratch, slot.strip, n0, at);
  });
  std::int64_t cells = 0;
  for (std::int64_t at = 0; at < pieces; ++at) cells += scratch.touched[at].cells;
  const bool scattered = cells > images * p.ho * p.wo * p.lanes();
  if (scattered && scratch.whole.fits(sizeof(F))) {
    for (std::int64_t i = 0; i < images; ++i) {
      std::fill_n(scratch.windows + i * p.groups, p.groups, whole_map(p));
      scratch.rounds[i] = 0, scratch.turns[i] = i;
    }
    return {scratch.whole};
  }
  const std::int64_t rounds = find_rounds(p, scratch, images), items = pieces * tiled.blocks;
  // Where an image has half as many bands again as all have pieces in a round; whatever the threads, so that
  // any number of them gives the same bits.
  if (3 * pieces < 2 * tiled.bands * rounds && touched_by_bands(scratch, images) <= scratch.apart_pixels)
    return {.tiling = tiled, .apart = true, .scattered = scattered};
  return {.tiling = items < 2 * workers.slots() * rounds ? scratch.split : tiled, .scattered = scattered};
}

template WindowsPlan plan_windows(const Problem&, const Workers&, const WindowsScratch<float>&, std::int64_t,
                                  std::int64_t);
template WindowsPlan plan_windows(const Problem&, const Workers&, const WindowsScratch<double>&, std::int64_t,
                                  std::int64_t);

}  // namespace tapfield::cpu
