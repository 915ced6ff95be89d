// SPDX-License-Identifier: Apache-2.0
// The order in which grad_binned walks the map, and its scratch. A bin is a cell of one group; bins lie in
// the order
//   (image, group) -> band of cell rows -> strip of cell columns -> cell row -> cell column
// so that a strip of a band reuses x and grad from L2, and a band is an item of work.
#pragma once

#include <algorithm>

#include "cpu/geometry.h"
#include "cpu/pack.h"

namespace tapfield::cpu {

// One live tap.
template <class F>
struct Record {
  std::int64_t grad;  // its row of grad: offset in elements of channel 0 of the block that is worked on
  F weights[4];       // m b00, m b01, m b10, m b11
};

// Cell (h0, w0), with h0 in [-1, H) and w0 in [-1, W), stands at row h0 + 1 and column w0 + 1 of the grid.
struct Grid {
  // A band's two edge rows go through memory once more (1/4 of x for 8 rows) and a band is an item of work: 8
  // rows are 13 items for a map 100 high. A strip's rows of x and grad_x should fit a part of L2: 16 columns
  // of 128 channels, 4 of 512.
  static constexpr std::int64_t kBandRows = 8;
  static constexpr std::int64_t kStripChannels = 2048;

  std::int64_t rows, columns;  // H + 1, W + 1
  std::int64_t band_rows, strip_columns, bands, strips;

  explicit Grid(const Problem& p) : rows(p.h + 1), columns(p.w + 1) {
    band_rows = std::min(kBandRows, rows);
    strip_columns = std::min(std::clamp<std::int64_t>(kStripChannels / p.group_channels(), 4, 16), columns);
    bands = (rows + band_rows - 1) / band_rows;
    strips = (columns + strip_columns - 1) / strip_columns;
  }
  std::int64_t band_bins() const { return strips * band_rows * strip_columns; }
  std::int64_t bins() const { return bands * band_bins(); }  // of one image and group

  // A bin's number is the sum of its row's and its column's.
  std::int64_t row_bin(std::int64_t r) const {
    return r / band_rows * band_bins() + r % band_rows * strip_columns;
  }
  std::int64_t column_bin(std::int64_t c) const {
    return c / strip_columns * band_rows * strip_columns + c % strip_columns;
  }
};

constexpr std::uint32_t kNoBin = 0xffffffff;  // of dead taps

template <class F>
struct BinScratch {
  // Small images are worked on together: as many as this much scratch allows.
  static constexpr std::size_t kBatchBytes = 4 << 20;

  Grid grid;
  std::int64_t images;  // worked on together
  std::int64_t chunks;  // pieces of their rows that are sorted side by side; each counts its taps per bin
  std::int64_t block;   // channels worked on together: all, or some of them where tensors must be packed
  std::int64_t taps;    // of one image
  bool direct_grad, direct_x, direct_grad_x;

  std::uint32_t *row_bins, *column_bins;  // [rows], [columns]
  Record<F>* records;                     // [images * taps], natural order
  std::uint32_t* keys;                    // [images * taps]: bin, kNoBin
  std::uint32_t* order;                   // [images * taps]: live taps by bin, natural order within
  F* dots;                                // [images * taps][4], natural order
  std::uint32_t* starts;                  // [images * groups * bins + 1]: a bin's first place in `order`
  std::uint32_t* counts;                  // [chunks][images * groups * bins]
  F *upper,
      *lower;   // [images][bands][w][block]: what a band adds to its first row; to the row below its last
  char* zeros;  // [block] of T
  char *packed_x,
      *packed_grad;         // [images][h][w][block], [images][ho * kh][wo * kw][block] of T; null if direct
  F* sums;                  // [images][h][w][block]; null if direct
  std::uint16_t* narrowed;  // [slots][w * block]
  Carver slots;             // where the slots' own scratch begins

  // Of one slot: a strip while sorting and finishing; state of the sweep.
  struct Slot {
    Strip<F> strip;
    F* right;  // [band_rows][2][block]: what the last cell of a row adds to the pixels right of it, above and
               // below
    F* below;  // [strip_columns][block]: what the cell row above adds to this one
    Slot(Carver& carver, const Problem& p, const BinScratch& s)
        : strip(carver, p, p.lanes()),
          right(carver.take<F>(s.grid.band_rows * 2 * s.block)),
          below(carver.take<F>(s.grid.strip_columns * s.block)) {}
  };
  Slot slot(const Problem& p, int index) const {
    Carver carver = slots;
    for (int s = 0; s < index; ++s) Slot(carver, p, *this);
    return Slot(carver, p, *this);
  }

  BinScratch(Carver carver, const Problem& p, int slot_count, std::size_t* used) : grid(p), slots(carver) {
    taps = p.ho * p.wo * p.lanes();
    direct_grad = p.grad.adjacent(), direct_x = p.x.adjacent();
    direct_grad_x = p.grad_x.adjacent();
    block = direct_grad && direct_x && direct_grad_x ? p.c : channel_block(p.c);
    images = 1;
    Carver one;
    carve(one, p, 1);
    images = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(kBatchBytes / std::max<std::size_t>(one.used(), 1)), 1, p.n);
    carve(carver, p, slot_count);
    slots = carver;
    for (int s = 0; s < slot_count; ++s) Slot(carver, p, *this);
    if (used) *used = carver.used();
  }

 private:
  void carve(Carver& carver, const Problem& p, int slot_count) {
    const std::int64_t all = images * taps, bins = images * p.groups * grid.bins(), size = size_of(p.x.dtype);
    // Counts may take 16 bytes a tap, so that scratch does not grow with threads alone.
    chunks = std::clamp<std::int64_t>(4 * all / bins, 1, std::min<std::int64_t>(slot_count, images * p.ho));
    row_bins = carver.take<std::uint32_t>(grid.rows), column_bins = carver.take<std::uint32_t>(grid.columns);
    records = carver.take<Record<F>>(all);
    keys = carver.take<std::uint32_t>(all), order = carver.take<std::uint32_t>(all);
    dots = carver.take<F>(4 * all + 64);  // finish reads up to a vector past the last
    starts = carver.take<std::uint32_t>(bins + 1), counts = carver.take<std::uint32_t>(chunks * bins);
    upper = carver.take<F>(images * grid.bands * p.w * block),
    lower = carver.take<F>(images * grid.bands * p.w * block);
    zeros = carver.take<char>(block * size);
    packed_x = direct_x ? nullptr : carver.take<char>(images * p.h * p.w * block * size);
    packed_grad =
        direct_grad ? nullptr : carver.take<char>(images * p.ho * p.kh * p.wo * p.kw * block * size);
    sums = direct_grad_x ? nullptr : carver.take<F>(images * p.h * p.w * block);
    narrowed = direct_grad_x ? nullptr : carver.take<std::uint16_t>(slot_count * p.w * block);
  }
};

// Fills in records, keys, order and starts for images [n0, n0 + count). Stable: the order depends on the
// input alone.
template <class F>
void sort_taps(const Problem& p, const Workers& workers, const BinScratch<F>& scratch, std::int64_t n0,
               std::int64_t count);

}  // namespace tapfield::cpu
