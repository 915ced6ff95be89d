// SPDX-License-Identifier: Apache-2.0
// Launch shapes and thresholds, with their arithmetic. Figures are of an H100: 132 SMs, 3.35 TB/s, 227 KiB of
// shared memory and 64 Ki registers an SM. None has been measured yet: no GPU was at hand.
#pragma once

#include <cstdint>

namespace tapfield::cuda {

// At most this many threads are in a block, whatever Tuning says: kernels are compiled for it.
constexpr int kMaxThreads = 128;

// Blocks that an SM shall have room for, at least, where a kernel walks taps: 3 of 128 threads leave 168
// registers to each. Without a word ptxas spills some bytes to fit a fourth or ninth.
constexpr int kLeastBlocks = 3;

// Terms that one register sums before they are passed on: sums of 64 terms of one sign are off by some 0.6
// eps (0.08 sqrt(n)), and passing on a sum costs as much as half a tap.
constexpr int kTerms = 64;

struct Tuning {
  // Threads of a block. A kernel of 128 registers then has 4 blocks, 16 warps, on an SM; small blocks make a
  // barrier wait for few.
  int threads = kMaxThreads;

  // Taps of a block's tile, at most: 8 x 8 output pixels of a 3 x 3 kernel. Of standard normal offsets some
  // 14 x 14 cells are hit, each by 3 taps, and a cell passes on 2 to 4 vectors where taps alone would pass on
  // 12. A larger tile has longer runs, but fewer blocks and more shared memory.
  int tile_taps = 576;

  // Blocks that shall find room in an SM's shared memory: as many as in its registers, or one more (16 bits).
  // 56 KiB each on sm_90.
  int blocks_by_shared = 4;

  // Cells that the sort tells apart, at most: 16 x 16 are enough for the tile above, and a scan of them by
  // one warp is 8 steps.
  int buckets = 1024;

  // A tile is halved, down to this many taps, while there are fewer blocks than blocks_an_sm for each SM: 2
  // rounds of 4. A smaller one adds more to grad_x for each tap; the forward loses nothing by it.
  int least_tile_taps = 144, least_forward_taps = 32;
  int blocks_an_sm = 8;

  // Bytes side by side that a tile's rows should have: a sector where rows are read in the order of the sort,
  // a line where they are written in theirs. Several groups share a tile where one has fewer.
  int read_bytes = 32, write_bytes = 128;

  // Columns of grad_x that a team sweeps: it reads the taps of 17 cells for 16. Halved, down to the least,
  // while there are fewer blocks than blocks_an_sm for each SM.
  int strip = 16, least_strip = 4;

  // Taps that a team locates before it walks them, at least: four are walked together.
  int least_batch = 8;

  // Scratch, at most, unless one image needs more: images are taken together up to it.
  std::int64_t scratch_bytes = std::int64_t{256} << 20;
};

// The tuning in use. Tests change it.
inline Tuning& tuning() {
  static Tuning t;
  return t;
}

}  // namespace tapfield::cuda
