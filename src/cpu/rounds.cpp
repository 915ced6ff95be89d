// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <numeric>
#include <span>
#include <utility>

#include "cpu/windowed.h"

namespace tapfield::cpu {
namespace {

// ------ Where windows lie

// Cells [begin, begin + count) that hold [low, high] as far as the map goes, at most `most` about its middle.
void place(std::int64_t low, std::int64_t high, std::int64_t size, std::int64_t most, std::int32_t& begin,
           std::int32_t& count) {
  low = std::max<std::int64_t>(low, -1), high = std::min(high, size - 1);
  if (high - low >= most) low += (high - low + 1 - most) / 2, high = low + most - 1;
  begin = static_cast<std::int32_t>(low),
  count = static_cast<std::int32_t>(std::max<std::int64_t>(high - low + 1, 0));
}

// A range of cells along one axis.
struct Range {
  std::int64_t low = 0, high = 0;
  bool empty = true;

  void add(std::int64_t v) {
    low = empty ? v : std::min(low, v), high = empty ? v : std::max(high, v);
    empty = false;
  }
  // The range of all taps, where this is a sample's: for 100 to 300 normal values that reach 2.5 to 3
  // deviations to either side, half as much again leaves out one in a million.
  std::int64_t margin() const { return (high - low + 3) / 4; }
};

// Where some taps' cells lie along one axis: beside where zero offsets would put them, as where they follow a
// flow; and on the map, as where they all seek one place.
struct Spread {
  Range beside, on;

  void add(std::int64_t cell, std::int64_t base) { beside.add(cell - base), on.add(cell); }
  // Cells that hold all taps of a tile whose bases are [first, last]: the fewer of the two.
  void window(std::int64_t first, std::int64_t last, std::int64_t size, std::int64_t most,
              std::int32_t& begin, std::int32_t& count) const {
    begin = count = 0;
    if (on.empty) return;
    place(first + beside.low - beside.margin(), last + beside.high + beside.margin(), size, most, begin,
          count);
    std::int32_t other_begin = 0, other_count = 0;
    place(on.low - on.margin(), on.high + on.margin(), size, most, other_begin, other_count);
    if (other_count < count) begin = other_begin, count = other_count;
  }
};

Window whole_map(const Problem& p) {
  return {-1, -1, static_cast<std::int32_t>(p.h + 1), static_cast<std::int32_t>(p.w + 1)};
}

// Finds the windows of all groups of the tile whose first output pixel is (ho, wo) of image n.
template <class F>
void find_windows(const Problem& p, const Tiling& t, Strip<F>& s, std::int64_t n, std::int64_t ho,
                  std::int64_t wo, Window* windows) {
  const std::int64_t rows = std::min(t.rows, p.ho - ho), columns = std::min(t.columns, p.wo - wo);
  // All of a map that is one tile and not much larger: it costs less than to look where the taps are.
  if (t.bands * t.tiles == 1 && 2 * (p.h + 1) * (p.w + 1) <= rows * columns * p.taps() && p.h < t.max_rows &&
      p.w < t.max_columns) {
    std::fill_n(windows, p.groups, whole_map(p));
    return;
  }
  // 16 pixels of a tile, spread evenly, the last row and column's too: four of each of four rows; of planes,
  // whose pixels are fetched in lines, eight of each of two.
  const bool planes = !p.offsets_adjacent();
  const std::int64_t most = planes ? t.fetched : 1, in_row = planes ? 8 : 4, in_column = 16 / in_row;
  const std::int64_t step_h = std::max<std::int64_t>((rows + in_column / 2) / in_column, 1),
                     step_w = std::max<std::int64_t>((columns + in_row / 2) / in_row, 1);
  for (std::int64_t b = 0; b < t.blocks; ++b) {
    const std::int64_t g0 = t.block_begin(b), g1 = t.block_end(b, p);
    Spread along_h[Tiling::kGroups], along_w[Tiling::kGroups];
    s.n = n, s.lane0 = g0 * p.taps(), s.lanes = (g1 - g0) * p.taps();
    for (std::int64_t i = step_h / 2; i < rows; i += step_h)
      for (std::int64_t j = step_w / 2, fetched = 0; j < columns; j += step_w) {
        s.ho = ho + i;
        if (j >= fetched) {
          const std::int64_t first = j / most * most;
          fetched = std::min(first + most, columns);
          s.wo0 = wo + first, s.count = fetched - first;
          fetch(p, s, t.columns);  // and, meanwhile, of the next tile
        }
        s.wo0 = wo + j, s.count = 1;
        locate(p, s);
        std::int64_t l = 0;
        for (std::int64_t g = 0; g < g1 - g0; ++g)
          for (std::int64_t kh = 0; kh < p.kh; ++kh)
            for (std::int64_t kw = 0; kw < p.kw; ++kw, ++l)
              if (s.h0[l] != kDead) {
                along_h[g].add(s.h0[l], p.base_h(s.ho, kh));
                along_w[g].add(s.w0[l], p.base_w(s.wo0, kw));
              }
      }
    for (std::int64_t g = 0; g < g1 - g0; ++g) {
      Window& window = windows[g0 + g];
      along_h[g].window(p.base_h(ho, 0), p.base_h(ho + rows - 1, p.kh - 1), p.h, t.max_rows, window.h,
                        window.rows);
      along_w[g].window(p.base_w(wo, 0), p.base_w(wo + columns - 1, p.kw - 1), p.w, t.max_columns, window.w,
                        window.columns);
      if (!window.rows || !window.columns) window = {};
    }
  }
}

// ------ Which tiles run side by side

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
