// SPDX-License-Identifier: Apache-2.0
// The scratch of windowed.cpp, and its plan (rounds.cpp): where windows lie, and which tiles run side by
// side.
#pragma once

#include <algorithm>

#include "cpu/cpu.h"
#include "cpu/slots.h"
#include "cpu/windows.h"

namespace tapfield::cpu {

// The pixels [h0, h1) x [w0, w1) of grad_x that a piece's windows touch, and the cells that these have
// together.
struct Touched {
  std::int64_t h0 = 0, h1 = 0, w0 = 0, w1 = 0, cells = 0;

  void add(const Touched& t) {
    if (!t.cells) return;
    h0 = cells ? std::min(h0, t.h0) : t.h0, h1 = std::max(h1, t.h1);
    w0 = cells ? std::min(w0, t.w0) : t.w0, w1 = std::max(w1, t.w1);
    cells += t.cells;
  }
  std::int64_t pixels() const { return (h1 - h0) * (w1 - w0); }
};

// Pixels of grad_x by kSquare x kSquare, to find out which tiles touch the same ones.
constexpr std::int64_t kSquare = 4;
constexpr std::int64_t squares(std::int64_t size) { return (size + kSquare - 1) / kSquare; }

template <class F>
struct WindowsScratch : Slotted<WindowsScratch<F>> {
  // Of a batch of images.
  static constexpr std::size_t kBatchBytes = 1 << 20;
  // Of bands' own sums, of each slot.
  static constexpr std::int64_t kApartBytes = 2 << 20;

  Layout layout;
  Tiling tiled, whole;  // whole is not used where it does not fit
  Tiling split;         // tiled, where too few bands can run side by side for all threads
  std::int64_t images;  // worked on together
  std::int64_t width;   // channels of a block, at most
  // Of a strip, at most: the whole map's have fewer lanes and more pixels than the tiles'. Taps with lanes
  // padded.
  std::int64_t lanes = 0, taps = 0, fetched = 0;
  bool second;  // Pass::grad_grad: what is marked + below
  bool direct_x, direct_u, direct_grad, direct_grad_grad, direct_sums;

  Window* windows;                // [images][bands][tiles][groups]
  Touched* touched;               // [images][bands][pieces]
  Touched* touched_by_bands;      // [images][bands]
  std::int64_t* rounds;           // [images][bands][pieces]: when a piece runs
  std::int64_t* turns;            // [images * bands * pieces]: pieces by round
  std::uint32_t* taken;           // [squares of h][squares of w]: rounds with a piece that touches a square
  std::uint32_t* outliers;        // [images][taps]: a tile's and block's from its own first tap on
  std::uint32_t* outlier_counts;  // [images][bands][tiles][blocks]: room for a block a group
  F *x, *u, *sums;                // [images][h][w][c]; null if direct; +u
  std::uint16_t* narrowed;        // [slots][w * c]
  F* zeros;                       // [group_channels]
  F* apart;                       // [slots][apart_pixels][c]: bands' own sums
  std::int64_t apart_pixels;      // as many as kApartBytes hold

  struct Slot {
    Strip<F> strip;
    F *x, *u, *sums;      // windows of a block, and a dump cell; +u: zeros where there is no gg_x
    std::int64_t room;    // elements of each
    std::int32_t* cells;  // [pixels][pitch]: where a tap lies in the windows
    F *dots, *dots_u;     // [pixels][pitch][4]; +dots_u
    F *grad, *grad_grad;  // [kh][fetched * kw][width]; null if direct; +grad_grad
    std::uint16_t* narrow_grad;
    // [pitch]: where a lane's grad lies, from the pixel's and block's first; +lane_grad_grad
    std::int64_t *lane_grad, *lane_grad_grad;
    std::int32_t *h, *w, *rows, *columns, *base;  // [pitch]: a lane's window
    F* kept;                                      // [taps][group_channels]: grad of outliers
    Slot(Carver& carver, const Problem& p, const WindowsScratch& s)
        : strip(carver, p, s.lanes, s.taps, s.fetched) {
      room = 0;
      for (const Tiling* t : {&s.tiled, &s.whole})
        if (t->fits(sizeof(F)))
          room = std::max(room, t->block_groups * t->room +
                                    2 * (s.layout.pitch(t->max_columns, sizeof(F)) + s.layout.cell()));
      x = carver.take<F>(room), u = carver.take<F>(s.second ? room : 0), sums = carver.take<F>(room);
      cells = carver.take<std::int32_t>(s.taps), dots = carver.take<F>(4 * s.taps + 64);
      dots_u = carver.take<F>(s.second ? 4 * s.taps + 64 : 0);
      const std::int64_t rows_of_grad = p.taps() * s.fetched * s.width;
      const bool direct = s.direct_grad && s.direct_grad_grad;
      grad = carver.take<F>(s.direct_grad ? 0 : rows_of_grad);
      grad_grad = carver.take<F>(s.direct_grad_grad ? 0 : rows_of_grad);
      narrow_grad = carver.take<std::uint16_t>(direct ? 0 : rows_of_grad);
      lane_grad = carver.take<std::int64_t>(strip.pitch),
      lane_grad_grad = carver.take<std::int64_t>(strip.pitch);
      for (std::int32_t** table : {&h, &w, &rows, &columns, &base})
        *table = carver.take<std::int32_t>(strip.pitch);
      kept = carver.take<F>(p.samples ? s.taps * p.group_channels() : 0);
    }
  };
  WindowsScratch(Carver carver, const Problem& p, int slot_count, std::size_t* used)
      : layout(p.group_channels(), sizeof(F)),
        tiled(p, sizeof(F), false),
        whole(p, sizeof(F), true),
        split(tiled.split(p, slot_count)),
        width(std::max(tiled.block_groups, whole.block_groups) * p.group_channels()) {
    for (const Tiling* t : {&tiled, &whole}) {
      lanes = std::max(lanes, t->lanes(p)), fetched = std::max(fetched, t->fetched);
      taps = std::max(taps, t->pixels * Strip<F>::padded(t->lanes(p)));
    }
    second = p.pass == Pass::grad_grad;
    direct_x = plain<F>(p.x), direct_grad = plain<F>(p.grad), direct_sums = plain<F>(p.grad_x);
    direct_u = !second || !p.gg_x.data || plain<F>(p.gg_x);
    direct_grad_grad = !second || plain<F>(p.grad_grad);
    this->carve_batch(carver, p, slot_count, kBatchBytes, used);
  }

 private:
  friend Slotted<WindowsScratch<F>>;

  void carve(Carver& carver, const Problem& p, int slot_count) {
    const std::int64_t bands = images * tiled.bands, tiles = bands * tiled.tiles,
                       pieces = bands * tiled.pieces, x_image = p.h * p.w * p.c;
    windows = carver.take<Window>(tiles * p.groups);
    touched = carver.take<Touched>(pieces);
    touched_by_bands = carver.take<Touched>(bands);
    rounds = carver.take<std::int64_t>(pieces), turns = carver.take<std::int64_t>(pieces);
    taken = carver.take<std::uint32_t>(squares(p.h) * squares(p.w));
    outliers = carver.take<std::uint32_t>(images * p.ho * p.wo * p.lanes());
    outlier_counts = carver.take<std::uint32_t>(tiles * p.groups);
    x = direct_x ? nullptr : carver.take<F>(images * x_image);
    u = direct_u ? nullptr : carver.take<F>(images * x_image);
    sums = direct_sums ? nullptr : carver.take<F>(images * x_image);
    narrowed =
        direct_sums && direct_x && direct_u ? nullptr : carver.take<std::uint16_t>(slot_count * p.w * p.c);
    zeros = carver.take<F>(p.group_channels());
    apart_pixels = std::min(kApartBytes / (p.c * static_cast<std::int64_t>(sizeof(F))), p.h * p.w);
    apart = carver.take<F>(slot_count * apart_pixels * p.c);
  }
};

// How a batch is worked on.
struct WindowsPlan {
  const Tiling& tiling;
  // Nearly all pieces share the few places that they touch: each band has sums of its own for these.
  // Otherwise pieces run in rounds; those of one round share no pixel of grad_x.
  bool apart = false;
  // Windows hold more cells than there are taps, but one of the whole map does not fit.
  bool scattered = false;
};

// Are scattered offsets binned? Where a window of the whole map does not fit and cells are of some lines.
template <class F>
bool bins_scattered(const Problem& p, const WindowsScratch<F>& scratch) {
  return scratch.layout.channels > 16 && !scratch.whole.fits(sizeof(F)) && !binned_why_not(p);
}

// Finds the windows of images [n0, n0 + images): fills in windows, rounds and turns for the plan's tiling.
template <class F>
WindowsPlan plan_windows(const Problem& p, const Workers& workers, const WindowsScratch<F>& scratch,
                         std::int64_t n0, std::int64_t images);

}  // namespace tapfield::cpu
