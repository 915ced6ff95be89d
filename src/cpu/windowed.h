// SPDX-License-Identifier: Apache-2.0
// The scratch of windowed.cpp, and its plan: which windows, and which bands run side by side.
#pragma once

#include <algorithm>

#include "cpu/cpu.h"
#include "cpu/slots.h"
#include "cpu/windows.h"

namespace tapfield::cpu {

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
  bool second;          // Pass::grad_grad: what is marked + below
  bool direct_x, direct_u, direct_grad, direct_grad_grad, direct_sums;

  Window* windows;                // [images][bands][tiles][groups]
  std::int64_t *begins, *ends;    // [images][bands]: rows of grad_x that a band's windows touch
  std::int64_t* cells;            // [images][bands]: of all windows
  std::int64_t* rounds;           // [images][bands]: when a band runs
  std::int64_t* turns;            // [images * bands]: bands by round
  std::uint32_t* outliers;        // [images][taps]: a band's and block's from its own first tap on
  std::uint32_t* outlier_counts;  // [images][bands][blocks]
  F *x, *u, *sums;                // [images][h][w][c]; null if direct; +u
  std::uint16_t* narrowed;        // [slots][w * c]
  F* zeros;                       // [group_channels]
  F* apart;                       // [slots][apart_rows][w][c]: bands' own sums
  std::int64_t apart_rows;        // as many as kApartBytes hold

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
    Slot(Carver& carver, const Problem& p, const WindowsScratch& s)
        : strip(carver, p, std::max(s.tiled.lanes(p), s.whole.lanes(p)),
                std::max(s.tiled.fetched, s.whole.fetched)) {
      std::int64_t taps = 0, fetched = 0;
      room = 0;
      for (const Tiling* t : {&s.tiled, &s.whole}) {
        taps = std::max(taps, t->pixels * Strip<F>::padded(t->lanes(p))),
        fetched = std::max(fetched, t->fetched);
        if (t->fits(sizeof(F)))
          room = std::max(room, t->block_groups * t->room +
                                    2 * (s.layout.pitch(t->max_columns, sizeof(F)) + s.layout.cell()));
      }
      x = carver.take<F>(room), u = carver.take<F>(s.second ? room : 0), sums = carver.take<F>(room);
      cells = carver.take<std::int32_t>(taps), dots = carver.take<F>(4 * taps + 64);
      dots_u = carver.take<F>(s.second ? 4 * taps + 64 : 0);
      const std::int64_t rows_of_grad = p.taps() * fetched * s.width;
      const bool direct = s.direct_grad && s.direct_grad_grad;
      grad = carver.take<F>(s.direct_grad ? 0 : rows_of_grad);
      grad_grad = carver.take<F>(s.direct_grad_grad ? 0 : rows_of_grad);
      narrow_grad = carver.take<std::uint16_t>(direct ? 0 : rows_of_grad);
      lane_grad = carver.take<std::int64_t>(strip.pitch),
      lane_grad_grad = carver.take<std::int64_t>(strip.pitch);
      for (std::int32_t** table : {&h, &w, &rows, &columns, &base})
        *table = carver.take<std::int32_t>(strip.pitch);
    }
  };
  WindowsScratch(Carver carver, const Problem& p, int slot_count, std::size_t* used)
      : layout(p.group_channels(), sizeof(F)),
        tiled(p, sizeof(F), false),
        whole(p, sizeof(F), true),
        split(tiled.split(p, slot_count)),
        width(std::max(tiled.block_groups, whole.block_groups) * p.group_channels()) {
    second = p.pass == Pass::grad_grad;
    direct_x = plain<F>(p.x), direct_grad = plain<F>(p.grad), direct_sums = plain<F>(p.grad_x);
    direct_u = !second || !p.gg_x.data || plain<F>(p.gg_x);
    direct_grad_grad = !second || plain<F>(p.grad_grad);
    this->carve_batch(carver, p, slot_count, kBatchBytes, used);
  }

 private:
  friend Slotted<WindowsScratch<F>>;

  void carve(Carver& carver, const Problem& p, int slot_count) {
    const std::int64_t bands = images * tiled.bands, x_image = p.h * p.w * p.c;
    windows = carver.take<Window>(bands * tiled.tiles * p.groups);
    for (std::int64_t** table : {&begins, &ends, &cells, &rounds, &turns})
      *table = carver.take<std::int64_t>(bands);
    outliers = carver.take<std::uint32_t>(images * p.ho * p.wo * p.lanes());
    outlier_counts = carver.take<std::uint32_t>(std::max(bands * split.blocks, images * whole.blocks));
    x = direct_x ? nullptr : carver.take<F>(images * x_image);
    u = direct_u ? nullptr : carver.take<F>(images * x_image);
    sums = direct_sums ? nullptr : carver.take<F>(images * x_image);
    narrowed =
        direct_sums && direct_x && direct_u ? nullptr : carver.take<std::uint16_t>(slot_count * p.w * p.c);
    zeros = carver.take<F>(p.group_channels());
    apart_rows = std::min(kApartBytes / (p.w * p.c * static_cast<std::int64_t>(sizeof(F))), p.h);
    apart = carver.take<F>(slot_count * apart_rows * p.w * p.c);
  }
};

// How a batch is worked on.
struct WindowsPlan {
  const Tiling& tiling;
  std::int64_t rounds;  // bands of one round share no row of grad_x
  bool apart;  // instead: nearly all bands share the few rows that they touch, and each has sums of its own
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
