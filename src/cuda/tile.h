// SPDX-License-Identifier: Apache-2.0
// A tile: the taps of one block. Some output pixels, times some groups, times some of a group's taps; in the
// order [pixel][tap][group], in which rows of y follow each other in memory.
#pragma once

#include <algorithm>

#include "cuda/geometry.h"

namespace tapfield::cuda {

struct TileShape {
  int rows = 1, columns = 1;           // of output pixels
  int groups = 1, taps = 1;            // of the groups, of a group's taps
  Divisor by_pixel, by_group, by_row;  // groups * taps; groups; columns
  std::int64_t tiles_h = 1, tiles_w = 1, tiles_g = 1, tiles_k = 1;
  Divisor by_tiles_h, by_tiles_w, by_tiles_g, by_tiles_k;

  int size() const { return rows * columns * groups * taps; }
  std::int64_t count(std::int64_t images) const { return images * tiles_h * tiles_w * tiles_g * tiles_k; }
};

// A tile of at most `most` taps whose rows have row_bytes side by side if they can; smaller ones, of more
// than least / 2 taps, where there would be fewer than least_blocks.
inline TileShape shape_tile(const Problem& p, std::int64_t images, int most, int row_bytes, int least,
                            std::int64_t least_blocks) {
  const auto up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  TileShape s;
  s.taps = static_cast<int>(std::min<std::int64_t>(p.taps(), most));
  const std::int64_t row = p.group_channels() * size_of(p.x.dtype);
  s.groups = static_cast<int>(std::min({up(row_bytes, row), p.groups, std::int64_t{most / s.taps}}));
  const auto set = [&](int pixels) {  // near square, wider than high
    s.columns = s.rows = 1;
    for (int n = 2; n <= pixels; n *= 2) (s.columns <= s.rows ? s.columns : s.rows) *= 2;
    s.columns = static_cast<int>(std::min<std::int64_t>(s.columns, p.wo));
    s.rows = static_cast<int>(std::min<std::int64_t>(s.rows, p.ho));
    s.tiles_h = up(p.ho, s.rows), s.tiles_w = up(p.wo, s.columns);
    s.tiles_g = up(p.groups, s.groups), s.tiles_k = up(p.taps(), s.taps);
  };
  int pixels = most / (s.groups * s.taps);
  set(pixels);
  while (s.count(images) < least_blocks && pixels * s.groups * s.taps > least && pixels > 1) set(pixels /= 2);
  s.by_pixel = Divisor(s.groups * s.taps), s.by_group = Divisor(s.groups), s.by_row = Divisor(s.columns);
  s.by_tiles_h = Divisor(s.tiles_h), s.by_tiles_w = Divisor(s.tiles_w);
  s.by_tiles_g = Divisor(s.tiles_g), s.by_tiles_k = Divisor(s.tiles_k);
  return s;
}

// The tile of this block: groups fastest, so that blocks which share sectors run at the same time.
template <class Index>
struct Tile {
  const TileShape& shape;
  Place<Index> first;

  __device__ explicit Tile(const TileShape& s) : shape(s) {
    int i = static_cast<int>(blockIdx.x);
    const auto take = [&](const Divisor& tiles, int step) {
      const int all = i;
      i = tiles.quotient(all);
      return static_cast<Index>(tiles.remainder(all, i)) * step;
    };
    first.g = take(s.by_tiles_g, s.groups), first.k = take(s.by_tiles_k, s.taps);
    first.wo = take(s.by_tiles_w, s.columns), first.ho = take(s.by_tiles_h, s.rows);
    first.n = i;
  }
  __device__ int size() const { return shape.rows * shape.columns * shape.groups * shape.taps; }

  // Its tap number i. False where that is beyond the output.
  template <class T>
  __device__ bool place(const Geometry<T, Index>& q, int i, Place<Index>* at) const {
    const int pixel = shape.by_pixel.quotient(i), rest = shape.by_pixel.remainder(i, pixel);
    const int row = shape.by_row.quotient(pixel), k = shape.by_group.quotient(rest);
    *at = {first.n, first.ho + row, first.wo + shape.by_row.remainder(pixel, row),
           first.g + shape.by_group.remainder(rest, k), first.k + k};
    return at->ho < q.ho && at->wo < q.wo && at->g < q.groups && at->k < q.kh * q.kw;
  }
};

// Calls visit(i, at, offsets) for each tap of the tile that this thread has, absent(i) for what is beyond the
// output. The three loads of several taps are on their way together: one after the other, a block of 128
// threads would wait for memory some 15 times before it begins to walk.
template <class T, class Index, class Visit, class Absent>
__device__ void for_each_tap(const Geometry<T, Index>& q, const Tile<Index>& tile, const Visit& visit,
                             const Absent& absent) {
  const int size = tile.size(), step = static_cast<int>(blockDim.x);
  for (int begin = static_cast<int>(threadIdx.x); begin < size; begin += kAtATime * step) {
    Place<Index> at[kAtATime];
    Offsets<T> offsets[kAtATime];
    bool exists[kAtATime];
#pragma unroll
    for (int t = 0; t < kAtATime; ++t) {
      const int i = begin + t * step;
      exists[t] = i < size && tile.place(q, i, &at[t]);
      if (exists[t]) offsets[t] = load_offsets(q, q.offsets, at[t]);
    }
#pragma unroll
    for (int t = 0; t < kAtATime; ++t) {
      const int i = begin + t * step;
      if (exists[t])
        visit(i, at[t], offsets[t]);
      else if (i < size)
        absent(i);
    }
  }
}

}  // namespace tapfield::cuda
