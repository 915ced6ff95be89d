// SPDX-License-Identifier: Apache-2.0
// The tiles and windows of windowed.cpp. A tile is some output pixels of an image; for each
// group it has a window: a compact copy of the part of x that its taps fall on, and as much room for grad_x.
// Where a window lies is found from a sample of the tile's offsets, so that it follows a flow and widens with
// its spread.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/geometry.h"
#include "cpu/rows.h"

namespace tapfield::cpu {

// The cells [h, h + rows) x [w, w + columns) of the map; none where rows = 0. A cell needs its four corners.
struct Window {
  std::int32_t h = 0, w = 0, rows = 0, columns = 0;
};

// How a pixel's or a cell's channels lie in a window. kPixels: [rows + 1][columns + 1][channels], a tap reads
// four places. kQuads: [rows][columns][4 corners][channels], a tap reads one place: for 16 bytes of channels
// and less, where a place is a vector or less. Channels are padded to a power of two.
struct Layout {
  std::int64_t channels;  // padded
  bool quads;

  Layout(std::int64_t group_channels, std::size_t size) : channels(1) {
    while (channels < group_channels) channels *= 2;
    quads = channels * static_cast<std::int64_t>(size) <= 16;
  }
  std::int64_t cell() const { return quads ? 4 * channels : channels; }  // elements
  std::int64_t beyond() const { return quads ? 0 : 1; }                  // rows, columns beyond the cells
  std::int64_t pitch(std::int64_t columns, std::size_t size) const;      // elements of a row
};

// How a call is cut: into tiles, each with its own windows; or, where offsets are scattered, not at all: one
// tile, one window of the whole map, and few groups at a time.
struct Tiling {
  // Taps of a group in a tile. More of them share a window's building and adding up; fewer keep windows in
  // L2 and bound the length of a sum (an error of 0.08 sqrt(n) eps where all n terms have one sign).
  static constexpr std::int64_t kTaps = 2304;
  // Bytes of one slot's windows, of x and of sums.
  static constexpr std::int64_t kBytes = 8 << 20;
  // A tile's windows reach this many cells beyond its own, at most, along each axis.
  static constexpr std::int64_t kReach = 32;
  // Groups worked on together, at most.
  static constexpr std::int64_t kGroups = 16;
  // Tiles of a piece where a tile is one block, at most: neighbours find some of x and grad_x in cache (on
  // case c of bench/, one tile a piece took 10% longer). Several blocks share grad's cache lines, so these
  // follow upon each other, tile by tile (on case g, four tiles a piece took 8% longer).
  static constexpr std::int64_t kPiece = 4;
  // Where tensors are planes, whose lines go on in the next tile (one tile a piece: e and g 20% longer than
  // bands; so many: 5%).
  static constexpr std::int64_t kPlanesPiece = 8;
  // Pieces of an image at least, if it has as many tiles.
  static constexpr std::int64_t kPieces = 32;
  // Taps of a strip of pixels, about: what locate leaves for them (some 50 bytes each) stays in L1.
  static constexpr std::int64_t kStripTaps = 640;
  // A line's pixels are fetched at once where tensors are planes, if their taps are no more than these.
  static constexpr std::int64_t kFetchedTaps = 8192;

  bool whole;                          // one tile, one window
  std::int64_t rows, columns;          // output pixels of a tile
  std::int64_t bands, tiles;           // bands (rows of tiles) of an image; tiles of a band
  std::int64_t piece, pieces;          // tiles of a piece, and pieces of a band
  std::int64_t max_rows, max_columns;  // cells of a window
  std::int64_t room;                   // elements of a group's window, at most
  std::int64_t block_groups, blocks;   // groups worked on together, and how many times that is
  std::int64_t pixels;                 // of a strip
  std::int64_t fetched;                // of some strips, whose packed tensors are fetched together

  Tiling(const Problem& p, std::size_t size, bool whole);
  bool fits(std::size_t size) const {
    return room * block_groups * static_cast<std::int64_t>(2 * size) <= kBytes;
  }
  // The same tiles with fewer groups worked on together: a tile is `items` of work, or as many as it has
  // groups.
  Tiling split(const Problem& p, std::int64_t items) const {
    Tiling t = *this;
    t.block_groups = std::clamp<std::int64_t>(p.groups / items, 1, block_groups);
    t.blocks = (p.groups + t.block_groups - 1) / t.block_groups;
    return t;
  }
  std::int64_t lanes(const Problem& p) const { return block_groups * p.taps(); }
  std::int64_t piece_begin(std::int64_t i) const { return i * piece; }
  std::int64_t piece_end(std::int64_t i) const { return std::min((i + 1) * piece, tiles); }
  std::int64_t block_begin(std::int64_t b) const { return b * block_groups; }
  std::int64_t block_end(std::int64_t b, const Problem& p) const {
    return std::min((b + 1) * block_groups, p.groups);
  }
};

// visit(integral_constant<int, padded channels>), for those of a Layout.
template <class Visit>
auto for_channels(std::int64_t channels, const Visit& visit) {
  switch (channels) {
    case 1: return visit(std::integral_constant<int, 1>());
    case 2: return visit(std::integral_constant<int, 2>());
    case 4: return visit(std::integral_constant<int, 4>());
    case 8: return visit(std::integral_constant<int, 8>());
    case 16: return visit(std::integral_constant<int, 16>());
    default: return visit(std::integral_constant<int, 32>());
  }
}

// Windows of groups [g0, g0 + count) of one tile in scratch: all with the same pitch.
template <class F>
struct Windows {
  const Problem& p;
  Layout layout;
  const Window* at;  // [count]
  std::int64_t count;
  std::int64_t pitch = 0, size = 0;  // elements: of a row, of a window
  F *x, *sums;                       // [count][size], and room for a dump cell behind the last

  Windows(const Problem& p, const Layout& layout, const Window* at, std::int64_t count, F* x, F* sums);

  // Copies x: `image` points at the first group's channels.
  void build(const Image<const F>& image) const;
  // Adds the sums to grad_x.
  void add(const Image<F>& image) const;
};

}  // namespace tapfield::cpu
