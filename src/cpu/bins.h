// SPDX-License-Identifier: Apache-2.0
// The order in which binned.cpp walks the map, and its scratch. A bin is a cell of one group; bins lie in the
// order
//   (image, group) -> band of cell rows -> strip of cell columns -> cell row -> cell column
// so that a strip of a band reuses x and grad from L2, and a band is an item of work.
#pragma once

#include <algorithm>

#include "cpu/geometry.h"
#include "cpu/pack.h"
#include "cpu/slots.h"

namespace tapfield::cpu {

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
  // The row and column of the grid of a bin, of its group's.
  std::int64_t row_of(std::int64_t bin) const {
    return bin / band_bins() * band_rows + bin / strip_columns % band_rows;
  }
  std::int64_t column_of(std::int64_t bin) const {
    return bin % band_bins() / (band_rows * strip_columns) * strip_columns + bin % strip_columns;
  }
};

constexpr std::uint32_t kNoBin = 0xffffffff;  // of dead taps

// How the taps of a cell are summed: in natural order in pieces, pieces in chunks, chunks in order. Sums of n
// terms of one sign are off by some 0.08 sqrt(n) eps: 64 taps, 64 pieces, and as many chunks as there are.
constexpr std::uint32_t kPiece = 64, kChunk = 64 * kPiece;

// Where there are threads, chunks of cells with so many taps are items of work of their own; writing and
// reading a chunk's sums costs less than 4% of making them.
constexpr std::uint32_t kSharedTaps = 128;

// One chunk of a shared cell: taps [begin, end) of `order`.
struct Chunk {
  std::uint32_t bin, begin, end;
};

template <class F>
struct BinScratch : Slotted<BinScratch<F>> {
  // Of a batch of images.
  static constexpr std::size_t kBatchBytes = 4 << 20;
  // Sums of chunks, of each slot: cells beyond that are not shared.
  static constexpr std::int64_t kChunkBytes = 4 << 20;

  Grid grid;
  std::int64_t images;  // worked on together
  std::int64_t ranges;  // of their rows that are sorted side by side; each counts its taps per bin
  std::int64_t block;   // channels worked on together: all, or some of them where tensors must be packed
  std::int64_t taps;    // of one image
  // Read and written in place, else packed. grad and grad_grad share the places of their rows.
  bool direct_grads, direct_x, direct_u, direct_grad_x;

  std::uint32_t *row_bins, *column_bins;  // [rows], [columns]
  std::int64_t* rows;   // [images * taps]: a tap's row of grad, in elements from channel 0 of the block
  F* weights;           // [images * taps][4], of live taps: m b00, m b01, m b10, m b11
  F* second;            // [images * taps][4]: second_weight of the corners; null but in grad_grad
  F *dots, *dots_u;     // [images * taps][4]: with x, with gg_x; where weights and second are, if a block has
                        // whole groups: a tap's weights have served when its dots are known
  std::uint32_t* keys;  // [images * taps]: bin, kNoBin
  std::uint32_t* order;   // [images * taps]: live taps by bin, natural order within
  std::uint32_t* starts;  // [images * groups * bins + 1]: a bin's first place in `order`
  std::uint32_t* counts;  // [ranges][images * groups * bins]
  Chunk* chunks;          // [chunk_room], by bin
  F* chunk_sums;          // [chunk_room][4][chunk_pitch]
  std::int64_t chunk_room, chunk_pitch;
  F *upper,
      *lower;   // [images][bands][w][block]: what a band adds to its first row; to the row below its last
  char* zeros;  // [block] of F
  // [images][h][w][block], [images][ho * kh][wo * kw][block] of their dtypes; null if direct
  char *packed_x, *packed_u, *packed_grad, *packed_grad_grad;
  F* sums;                  // [images][h][w][block]; null if direct
  std::uint16_t* narrowed;  // [slots][w * block]

  // Of one slot: a strip while sorting and finishing; state of the sweep.
  struct Slot {
    Strip<F> strip;
    F* right;  // [band_rows][2][block]: what the last cell of a row adds to the pixels right of it, above and
               // below
    F* below;  // [strip_columns][block]: what the cell row above adds to this one
    F *chunk, *cell;  // [4][chunk_pitch]: sums
    Slot(Carver& carver, const Problem& p, const BinScratch& s)
        : strip(carver, p, p.lanes()),
          right(carver.take<F>(s.grid.band_rows * 2 * s.block)),
          below(carver.take<F>(s.grid.strip_columns * s.block)),
          chunk(carver.take<F>(4 * s.chunk_pitch)),
          cell(carver.take<F>(4 * s.chunk_pitch)) {}
  };
  BinScratch(Carver carver, const Problem& p, int slot_count, std::size_t* used) : grid(p) {
    taps = p.ho * p.wo * p.lanes();
    const View &g = p.grad, &gg = p.grad_grad;
    direct_grads = g.adjacent() && (p.pass == Pass::grad || (gg.adjacent() && gg.n == g.n && gg.h == g.h &&
                                                             gg.w == g.w && gg.ho == g.ho && gg.wo == g.wo));
    direct_x = p.x.adjacent(), direct_grad_x = p.grad_x.adjacent();
    direct_u = !p.gg_x.data || p.gg_x.adjacent();
    const bool direct = direct_grads && direct_x && direct_u && direct_grad_x;
    block = direct ? p.c : channel_block(p.c);
    if (!direct && p.pass == Pass::grad_grad) block = second_block(p);
    chunk_pitch = std::min(block, p.group_channels());
    this->carve_batch(carver, p, slot_count, kBatchBytes, used);
  }

 private:
  friend Slotted<BinScratch<F>>;

  // Channels of a block in grad_grad where tensors are packed: what is packed of grad and of grad_grad, and
  // the dots that stand apart, are within 35% of grad; but 8 channels at least, or whole groups of some 16,
  // half of C at most if that is a group, as x, gg_x and grad_x are packed too.
  static std::int64_t second_block(const Problem& p) {
    const std::int64_t channels = p.group_channels(), size = size_of(p.x.dtype);
    if (channels <= 16) return std::min(16 / channels, std::max<std::int64_t>(p.groups / 2, 1)) * channels;
    const std::int64_t bytes = p.c * size * 35 / 100 - p.groups * 8 * size_of_f();  // a pixel's
    return std::min(std::max<std::int64_t>(bytes / (2 * size) / 8, 1) * 8, p.c);
  }
  static constexpr std::int64_t size_of_f() { return static_cast<std::int64_t>(sizeof(F)); }

  void carve(Carver& carver, const Problem& p, int slot_count) {
    const std::int64_t all = images * taps, bins = images * p.groups * grid.bins(), size = size_of(p.x.dtype);
    const bool is_second = p.pass == Pass::grad_grad, apart = block < p.c && block % p.group_channels();
    // Counts may take 16 bytes a tap, so that scratch does not grow with threads alone.
    ranges = std::clamp<std::int64_t>(4 * all / bins, 1, std::min<std::int64_t>(slot_count, images * p.ho));
    row_bins = carver.take<std::uint32_t>(grid.rows), column_bins = carver.take<std::uint32_t>(grid.columns);
    rows = carver.take<std::int64_t>(all);
    const std::int64_t quads = 4 * all + 64;  // finish reads up to a vector of taps past the last
    weights = carver.take<F>(quads);
    second = is_second ? carver.take<F>(quads) : nullptr;
    dots = apart ? carver.take<F>(quads) : weights;
    dots_u = apart && is_second ? carver.take<F>(quads) : second;
    keys = carver.take<std::uint32_t>(all), order = carver.take<std::uint32_t>(all);
    starts = carver.take<std::uint32_t>(bins + 1), counts = carver.take<std::uint32_t>(ranges * bins);
    chunk_room = slot_count > 1
                     ? std::min(slot_count * kChunkBytes / (4 * chunk_pitch * size_of_f()), all / kSharedTaps)
                     : 0;
    chunks = carver.take<Chunk>(chunk_room), chunk_sums = carver.take<F>(4 * chunk_room * chunk_pitch);
    upper = carver.take<F>(images * grid.bands * p.w * block),
    lower = carver.take<F>(images * grid.bands * p.w * block);
    zeros = carver.take<char>(block * size_of_f());
    const std::int64_t x_image = p.h * p.w * block, grad_image = p.ho * p.kh * p.wo * p.kw * block;
    packed_x = direct_x ? nullptr : carver.take<char>(images * x_image * size);
    packed_u = direct_u ? nullptr : carver.take<char>(images * x_image * size_of(p.gg_x.dtype));
    packed_grad = direct_grads ? nullptr : carver.take<char>(images * grad_image * size);
    packed_grad_grad = direct_grads || !is_second ? nullptr : carver.take<char>(images * grad_image * size);
    sums = direct_grad_x ? nullptr : carver.take<F>(images * p.h * p.w * block);
    narrowed = direct_grad_x ? nullptr : carver.take<std::uint16_t>(slot_count * p.w * block);
  }
};

// Fills in rows, weights, second, keys, order and starts for images [n0, n0 + count). Stable: the order
// depends on the input alone.
template <class F>
void sort_taps(const Problem& p, const Workers& workers, const BinScratch<F>& scratch, std::int64_t n0,
               std::int64_t count);

// Fills in chunks from starts; returns how many there are.
template <class F>
std::int64_t list_chunks(const BinScratch<F>& scratch, std::int64_t bins);

}  // namespace tapfield::cpu
