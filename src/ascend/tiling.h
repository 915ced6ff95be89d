// SPDX-License-Identifier: Apache-2.0
// How vector cores share a call, and what lies in their unified buffer (UB): plain arithmetic, the same on
// the host, which plans, and in the kernels, which follow the plan.
//
// A tile is what a core works on at a time: some of an output row's pixels times some of one group's taps, at
// most kMostTaps. Channels are fetched a piece at a time. A row in UB is a piece, rounded up to kRow
// elements: 32 bytes of a 16-bit type, the unit in which copies and vector instructions begin.
#pragma once

#include <cstdint>

#if defined(TAPFIELD_DEVICE)
#define TAPFIELD_TILING TAPFIELD_DEVICE
#else
#define TAPFIELD_TILING inline
#endif

namespace tapfield::ascend {

// UB of a vector core of Atlas A2 and A3 is 192 KiB; 8 KiB are left to the compiler's own.
constexpr std::int32_t kUnifiedBuffer = 184 << 10;

// Records of taps are on a core's stack, and one reduction sums at most 255 rows, 4 a tap.
constexpr std::int32_t kMostTaps = 32;

// With fewer taps at a time than this, waiting for a tile would take longer than its copies: channels are cut
// into pieces instead. The longest piece is then of 640 channels, 2.5 KiB, enough for a copy to be worth it.
constexpr std::int32_t kLeastTaps = 4;

constexpr std::int32_t kRow = 16;           // elements that a row is a multiple of
constexpr std::int32_t kBuffers = 2;        // of a queue: one is filled while the other is worked on
constexpr std::int32_t kMostBlocks = 4095;  // of one copy

TAPFIELD_TILING std::int64_t up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
TAPFIELD_TILING std::int32_t padded(std::int32_t elements) { return (elements + kRow - 1) / kRow * kRow; }

struct Plan {
  std::int32_t pixels, taps;           // of a tile
  std::int32_t piece;                  // channels fetched at a time, of a group's
  std::int32_t band_h, band_w;         // rows and columns of grad_x that a core owns at a time: grad_bands
  std::int32_t element_bytes, planes;  // of T; of offsets
};

TAPFIELD_TILING std::int32_t most_taps(const Plan& p) { return p.pixels * p.taps; }
TAPFIELD_TILING std::int32_t row_of(const Plan& p) { return padded(p.piece); }
TAPFIELD_TILING std::int32_t tap_row_of(const Plan& p) { return padded(p.taps); }

// ------ Tiles: [n, ho, tiles of pixels, groups, tiles of taps]

struct Tile {
  std::int64_t n, ho, wo, g, k;  // the first tap's; k = kh*Kw + kw
  std::int32_t pixels, taps;     // what of it lies inside the output
};

template <class G>
TAPFIELD_TILING std::int64_t tiles_of_group(const G& g, const Plan& p) {  // of one image and one group
  return g.ho * up(g.wo, p.pixels) * up(g.kh * g.kw, p.taps);
}
template <class G>
TAPFIELD_TILING std::int64_t tiles(const G& g, const Plan& p) {
  return g.n * g.groups * tiles_of_group(g, p);
}

// Tile i of image n's group, in the order of its output rows.
template <class G>
TAPFIELD_TILING Tile tile_of_group(const G& g, const Plan& p, std::int64_t n, std::int64_t group,
                                   std::int64_t i) {
  const std::int64_t across_k = up(g.kh * g.kw, p.taps), across_w = up(g.wo, p.pixels);
  Tile t{n,     i / (across_k * across_w), i / across_k % across_w * p.pixels,
         group, i % across_k * p.taps,     p.pixels,
         p.taps};
  if (t.pixels > g.wo - t.wo) t.pixels = static_cast<std::int32_t>(g.wo - t.wo);
  if (t.taps > g.kh * g.kw - t.k) t.taps = static_cast<std::int32_t>(g.kh * g.kw - t.k);
  return t;
}

// Tile i of all: a pixel's groups follow each other, as they do in memory.
template <class G>
TAPFIELD_TILING Tile tile_at(const G& g, const Plan& p, std::int64_t i) {
  const std::int64_t across_k = up(g.kh * g.kw, p.taps), across_w = up(g.wo, p.pixels);
  const std::int64_t k = i % across_k, group = i / across_k % g.groups,
                     w = i / (across_k * g.groups) % across_w, row = i / (across_k * g.groups * across_w);
  return tile_of_group(g, p, row / g.ho, group, (row % g.ho * across_w + w) * across_k + k);
}

// ------ Bands of grad_x: [n, groups, bands of rows, bands of columns]

struct Band {
  std::int64_t n, g, h, w;     // the first pixel's
  std::int32_t rows, columns;  // what of it lies inside the map
};

template <class G>
TAPFIELD_TILING std::int64_t bands(const G& g, const Plan& p) {
  return g.n * g.groups * up(g.h, p.band_h) * up(g.w, p.band_w);
}
template <class G>
TAPFIELD_TILING Band band_at(const G& g, const Plan& p, std::int64_t i) {
  const std::int64_t across = up(g.w, p.band_w), down = up(g.h, p.band_h);
  Band b{i / (across * down * g.groups),
         i / (across * down) % g.groups,
         i / across % down * p.band_h,
         i % across * p.band_w,
         p.band_h,
         p.band_w};
  if (b.rows > g.h - b.h) b.rows = static_cast<std::int32_t>(g.h - b.h);
  if (b.columns > g.w - b.w) b.columns = static_cast<std::int32_t>(g.w - b.w);
  return b;
}

// ------ A core's share of `count` items

struct Share {
  std::int64_t begin, end;
};
TAPFIELD_TILING Share share_of(std::int64_t count, std::int64_t core, std::int64_t cores) {
  const std::int64_t each = count / cores, more = count % cores;  // the first `more` cores have one more
  const std::int64_t begin = core * each + (core < more ? core : more);
  return {begin, begin + each + (core < more ? 1 : 0)};
}

// ------ UB: bytes of each buffer, in the kernels' own order

struct TileBuffers {       // of a tile's offsets
  std::int32_t raw, wide;  // as they are; as float32: [planes][pixels][tap_row]
  TAPFIELD_TILING std::int32_t total() const { return raw + wide; }
};
TAPFIELD_TILING TileBuffers tile_buffers(const Plan& p) {
  const std::int32_t taps = p.planes * p.pixels * tap_row_of(p);
  return {p.element_bytes == 2 ? taps * 2 : 0, taps * 4};
}

struct ForwardBuffers {
  TileBuffers tile;
  std::int32_t in, wide, sums, out;  // rows of x; the same as float32; y's rows as float32; as T
  TAPFIELD_TILING std::int32_t total() const { return tile.total() + kBuffers * (in + out) + wide + sums; }
};
TAPFIELD_TILING ForwardBuffers forward_buffers(const Plan& p) {
  const std::int32_t rows = most_taps(p) * row_of(p), bytes = p.element_bytes;
  const bool narrow = bytes == 2;  // else what is read and what is written is worked on in place
  return {tile_buffers(p), 4 * rows * bytes, narrow ? 4 * rows * 4 : 0, narrow ? rows * 4 : 0, rows * bytes};
}

struct GradBuffers {
  TileBuffers tile;
  std::int32_t in, wide, out;         // rows of grad, then of x; the same as float32; what is added to grad_x
  std::int32_t dots;                  // sums of products: in all, of 64 channels of each row
  std::int32_t grad_offsets, narrow;  // as float32, as T: as tile
  TAPFIELD_TILING std::int32_t total() const {
    return tile.total() + kBuffers * (in + out) + wide + 2 * dots + grad_offsets + narrow;
  }
};
TAPFIELD_TILING GradBuffers grad_buffers(const Plan& p) {
  const std::int32_t rows = most_taps(p) * row_of(p), bytes = p.element_bytes;
  const TileBuffers tile = tile_buffers(p);
  GradBuffers b{};
  b.tile = tile, b.grad_offsets = tile.wide, b.narrow = tile.raw;
  b.in = 5 * rows * bytes, b.wide = bytes == 2 ? 5 * rows * 4 : 0, b.out = 4 * rows * 4;
  b.dots = padded(4 * most_taps(p)) * 4;
  return b;
}

struct BandBuffers {
  TileBuffers tile;
  std::int32_t in, wide;   // rows of grad; the same as float32
  std::int32_t run;        // sums of a run of taps in one cell, [4][row]
  std::int32_t sums, out;  // the band, [rows][columns][row], as float32; one of its rows as T
  TAPFIELD_TILING std::int32_t total() const {
    return tile.total() + kBuffers * in + wide + run + sums + out;
  }
};
TAPFIELD_TILING BandBuffers band_buffers(const Plan& p) {
  const std::int32_t rows = most_taps(p) * row_of(p), bytes = p.element_bytes;
  const std::int32_t line = p.band_w * row_of(p);
  BandBuffers b{};
  b.tile = tile_buffers(p);
  b.in = rows * bytes, b.wide = bytes == 2 ? rows * 4 : 0, b.run = 4 * row_of(p) * 4;
  b.sums = p.band_h * line * 4, b.out = bytes == 2 ? line * 2 : 0;
  return b;
}

}  // namespace tapfield::ascend
