// SPDX-License-Identifier: Apache-2.0
// Gradient, binned: taps are sorted by the cell they fall into (bins.h), then the map is swept cell by cell.
// A cell's four corners of x and four sums for grad_x stay in registers while its taps' rows of grad stream
// by: two loads, sixteen multiply-adds and one sum across lanes a tap and block of channels. Docs:
// docs/operators.md, "Gradient".
//
// Every element of grad_x is written once, final: a pixel's sum from its cell row, left cell after right,
// plus the one its row got from the cell row above. The two are added in one place whichever band they come
// from, so any split into bands, and any thread, gives the same bits: no zeroing, no atomics. Taps of a cell
// are summed in natural order, in pieces.
//
// Phases: sort; sweep (an item: one band of one group of one image); add the two sums where bands meet;
// finish, in natural order, grad_offsets from the dots. Tensors whose channels are not adjacent are packed, a
// block of channels at a time, and swept block after block; dots add up in block order.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/grad_binned.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/simd.h"
#include "cpu/bins.h"
#include "cpu/cpu.h"
#include "cpu/rows.h"

#ifndef TAPFIELD_CPU_GRAD_BINNED_ONCE_
#define TAPFIELD_CPU_GRAD_BINNED_ONCE_
namespace tapfield::cpu {

// Taps of a cell summed before they are added to the cell's sum: sums of 256 terms of one sign are off by
// some 1.3 eps (0.08 sqrt(n)), and adding the pieces of a cell costs nothing beside them.
constexpr std::uint32_t kPiece = 256;

// grad is fetched this many taps ahead of its use, records twice as many: some 16 x 128 bytes are under way,
// about what a core's line fill buffers and L2 queue hold.
constexpr std::uint32_t kAhead = 16;

// Where finished rows of grad_x go: the tensor itself in T or float, or an image of sums.
template <class T, class F>
struct Rows {
  char* data;
  std::int64_t h_stride, w_stride;  // in bytes
  bool narrow;                      // stored as T, else as F
  char* at(std::int64_t h, std::int64_t w) const { return data + h * h_stride + w * w_stride; }
};

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// Vectors of one block of channels: 8 corners of x, 8 sums, 4 dots, 4 weights and 2 of grad fill 32
// registers' 26.
constexpr int kVectors = HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON ? 2 : 1;

template <class T, class F>
struct Sweep {
  const Problem& p;
  const BinScratch<F>& scratch;
  std::int64_t channels;    // of the group that are swept now, in memory from 0 on
  bool first_channels;      // of their group: dots are stored, not added
  std::uint32_t live_taps;  // places in `order`
  const T* grad;            // records point from here
  Image<const T> x;
  Rows<T, F> grad_x;
  F *upper, *lower;  // [w][block] of this band; null where there is no band before, after
  F *right, *below;  // the slot's

  struct Cell {
    std::int64_t h0, w0, row, column;  // row in the band, column in the strip
    std::uint32_t begin, end;          // its taps in `order`
  };

  template <bool kTail, class D>
  HWY_INLINE void StoreRow(hn::Vec<D> v, D d, std::int64_t h, std::int64_t w, std::int64_t c,
                           std::size_t n) const {
    char* row = grad_x.at(h, w);
    if (grad_x.narrow)
      StoreN<kTail>(v, d, reinterpret_cast<T*>(row) + c, n);
    else
      StoreN<kTail>(v, d, reinterpret_cast<F*>(row) + c, n);
  }

  // What a cell adds to its left and right pixels, above and below, goes where it belongs.
  template <bool kTail, class D, class V = hn::Vec<D>>
  HWY_INLINE void Flush(D d, const Cell& cell, std::int64_t c, V s00, V s01, V s10, V s11,
                        std::size_t n) const {
    F* right_above = right + cell.row * 2 * scratch.block + c;
    F* right_below = right_above + scratch.block;
    const auto above = hn::Add(LoadN<kTail>(d, right_above, n), s00);
    const auto under = hn::Add(LoadN<kTail>(d, right_below, n), s10);
    StoreN<kTail>(s01, d, right_above, n);
    StoreN<kTail>(s11, d, right_below, n);
    if (cell.w0 < 0) return;
    F* from_above = below + cell.column * scratch.block + c;
    if (cell.row == 0 && upper)
      StoreN<kTail>(above, d, upper + cell.w0 * scratch.block + c, n);
    else if (cell.h0 >= 0)
      StoreRow<kTail>(hn::Add(above, LoadN<kTail>(d, from_above, n)), d, cell.h0, cell.w0, c, n);
    StoreN<kTail>(under, d, from_above, n);
    if (cell.row + 1 == scratch.grid.band_rows && lower)
      StoreN<kTail>(under, d, lower + cell.w0 * scratch.block + c, n);
  }

  // One cell, kCount vectors of channels from c on.
  template <int kCount, bool kTail>
  HWY_INLINE void Block(const Cell& cell, const CornerRows<const T>& corners, std::int64_t c,
                        std::size_t n) const {
    const hn::ScalableTag<F> d;
    using V = hn::Vec<decltype(d)>;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    V v_ab[4][kCount], sum[4][kCount];
    for (int v = 0; v < kCount; ++v) {
      v_ab[0][v] = LoadN<kTail>(d, corners.p00 + c + v * lanes, n);
      v_ab[1][v] = LoadN<kTail>(d, corners.p01 + c + v * lanes, n);
      v_ab[2][v] = LoadN<kTail>(d, corners.p10 + c + v * lanes, n);
      v_ab[3][v] = LoadN<kTail>(d, corners.p11 + c + v * lanes, n);
      for (int k = 0; k < 4; ++k) sum[k][v] = hn::Zero(d);
    }
    for (std::uint32_t begin = cell.begin; begin < cell.end; begin += kPiece) {
      const std::uint32_t end = std::min(begin + kPiece, cell.end);
      V piece[4][kCount];
      for (int k = 0; k < 4; ++k)
        for (int v = 0; v < kCount; ++v) piece[k][v] = hn::Zero(d);
      for (std::uint32_t t = begin; t < end; ++t) {
        if (t + 2 * kAhead < live_taps) __builtin_prefetch(scratch.records + scratch.order[t + 2 * kAhead]);
        if (t + kAhead < live_taps) {
          const T* ahead = grad + scratch.records[scratch.order[t + kAhead]].grad + c;
          for (int v = 0; v < kCount; ++v) __builtin_prefetch(ahead + v * lanes);
        }
        const std::uint32_t tap = scratch.order[t];
        const Record<F>& record = scratch.records[tap];
        const T* row = grad + record.grad + c;
        V dots[4];
        for (int v = 0; v < kCount; ++v) {
          const auto g = LoadN<kTail>(d, row + v * lanes, n);
          for (int k = 0; k < 4; ++k) {
            piece[k][v] = hn::MulAdd(hn::Set(d, record.weights[k]), g, piece[k][v]);
            dots[k] = v ? hn::MulAdd(g, v_ab[k][v], dots[k]) : hn::Mul(g, v_ab[k][v]);
          }
        }
        F* out = scratch.dots + 4 * static_cast<std::int64_t>(tap);
        if (first_channels && c == 0) {
          SumLanes4(d, dots[0], dots[1], dots[2], dots[3], out);
        } else {
          F more[4];
          SumLanes4(d, dots[0], dots[1], dots[2], dots[3], more);
          for (int k = 0; k < 4; ++k) out[k] += more[k];
        }
      }
      for (int k = 0; k < 4; ++k)
        for (int v = 0; v < kCount; ++v) sum[k][v] = hn::Add(sum[k][v], piece[k][v]);
    }
    for (int v = 0; v < kCount; ++v)
      Flush<kTail>(d, cell, c + v * lanes, sum[0][v], sum[1][v], sum[2][v], sum[3][v], n);
  }

  void Band(std::int64_t band, const std::uint32_t* starts) const {
    const hn::ScalableTag<F> d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const Grid& grid = scratch.grid;
    std::fill_n(right, grid.band_rows * 2 * scratch.block, F{0});
    const auto* zeros = reinterpret_cast<const T*>(scratch.zeros);
    for (std::int64_t strip = 0; strip < grid.strips; ++strip)
      for (std::int64_t row = 0; row < grid.band_rows && band * grid.band_rows + row < grid.rows; ++row)
        for (std::int64_t column = 0;
             column < grid.strip_columns && strip * grid.strip_columns + column < grid.columns; ++column) {
          const std::int64_t bin = (strip * grid.band_rows + row) * grid.strip_columns + column;
          const Cell cell{band * grid.band_rows + row - 1,
                          strip * grid.strip_columns + column - 1,
                          row,
                          column,
                          starts[bin],
                          starts[bin + 1]};
          const CornerRows<const T> corners(x, p.h, p.w, static_cast<std::int32_t>(cell.h0),
                                            static_cast<std::int32_t>(cell.w0), 0, zeros);
          std::int64_t c = 0;
          for (; c + kVectors * lanes <= channels; c += kVectors * lanes)
            Block<kVectors, false>(cell, corners, c, 0);
          for (; c + lanes <= channels; c += lanes) Block<1, false>(cell, corners, c, 0);
          if (c < channels) Block<1, true>(cell, corners, c, static_cast<std::size_t>(channels - c));
        }
  }

  // Row h of grad_x, where a band begins: what both bands add to it.
  void Seam(std::int64_t h, const F* from_below, const F* from_above) const {
    const hn::ScalableTag<F> d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t w = 0; w < p.w; ++w) {
      const F *a = from_below + w * scratch.block, *b = from_above + w * scratch.block;
      std::int64_t c = 0;
      for (; c + lanes <= channels; c += lanes)
        StoreRow<false>(hn::Add(hn::LoadU(d, a + c), hn::LoadU(d, b + c)), d, h, w, c, 0);
      const auto n = static_cast<std::size_t>(channels - c);
      if (n) StoreRow<true>(hn::Add(LoadFirst(d, a + c, n), LoadFirst(d, b + c, n)), d, h, w, c, n);
    }
  }
};

template <class T, class F = Compute<T>>
void GradBinnedT(const Problem& p, const Workers& workers, void* workspace) {
  const BinScratch<F> scratch(Carver(workspace), p, workers.slots(), nullptr);
  const Grid& grid = scratch.grid;
  const std::int64_t block = scratch.block, channels = p.group_channels();
  const std::int64_t x_image = p.h * p.w * block, grad_image = p.ho * p.kh * p.wo * p.kw * block;
  std::memset(scratch.zeros, 0, static_cast<std::size_t>(block) * sizeof(T));

  for (std::int64_t n0 = 0; n0 < p.n; n0 += scratch.images) {
    const std::int64_t images = std::min(scratch.images, p.n - n0);
    sort_taps(p, workers, scratch, n0, images);
    const std::uint32_t live_taps = scratch.starts[images * p.groups * grid.bins()];

    for (std::int64_t c0 = 0; c0 < p.c; c0 += block) {
      const std::int64_t c1 = std::min(c0 + block, p.c), g0 = c0 / channels,
                         groups = (c1 + channels - 1) / channels - g0;
      for (std::int64_t i = 0; i < images; ++i) {
        if (!scratch.direct_x)
          pack_image(workers, p.x, n0 + i, p.h, p.w, c0, c1,
                     scratch.packed_x + i * x_image * size_of(p.x.dtype), block);
        if (!scratch.direct_grad)
          pack_image(workers, p.grad, n0 + i, p.ho * p.kh, p.wo * p.kw, c0, c1,
                     scratch.packed_grad + i * grad_image * size_of(p.x.dtype), block);
      }

      // The sweep of image i's part of group g.
      const auto sweep = [&](std::int64_t i, std::int64_t g, std::int64_t band) {
        const std::int64_t first = std::max(g * channels, c0), last = std::min((g + 1) * channels, c1);
        const std::int64_t in_block = first - c0;  // where its first channel lies in packed memory
        Sweep<T, F> s{p,       scratch, last - first, first == g * channels, live_taps, {}, {}, {}, nullptr,
                      nullptr, nullptr, nullptr};
        s.x = scratch.direct_x ? image_in_place<const T>(p.x, n0 + i)
                               : Image<const T>{reinterpret_cast<const T*>(scratch.packed_x) + i * x_image,
                                                p.w * block, block};
        s.x.data += scratch.direct_x ? first : in_block;
        s.grad = scratch.direct_grad ? reinterpret_cast<const T*>(p.grad.at(n0, 0, 0, first))
                                     : reinterpret_cast<const T*>(scratch.packed_grad) + in_block;
        const std::int64_t size = size_of(p.grad_x.dtype);
        const std::int64_t f = static_cast<std::int64_t>(sizeof(F));
        s.grad_x = scratch.direct_grad_x
                       ? Rows<T, F>{p.grad_x.at(n0 + i, 0, 0, first), p.grad_x.h * size, p.grad_x.w * size,
                                    p.grad_x.dtype == p.x.dtype}
                       : Rows<T, F>{reinterpret_cast<char*>(scratch.sums + i * x_image + in_block),
                                    p.w * block * f, block * f, false};
        const std::int64_t edge = (i * grid.bands + band) * p.w * block + in_block;
        if (band > 0) s.upper = scratch.upper + edge;
        if (band + 1 < grid.bands) s.lower = scratch.lower + edge;
        return s;
      };

      workers.run(images * groups * grid.bands, [&](std::int64_t item, int slot_index) {
        const std::int64_t band = item % grid.bands, g = g0 + item / grid.bands % groups,
                           i = item / grid.bands / groups;
        const auto slot = scratch.slot(p, slot_index);
        Sweep<T, F> s = sweep(i, g, band);
        s.right = slot.right, s.below = slot.below;
        s.Band(band, scratch.starts + (i * p.groups + g) * grid.bins() + band * grid.band_bins());
      });
      const std::int64_t seams = grid.bands - 1;
      workers.run(images * groups * seams, [&](std::int64_t item, int) {
        const std::int64_t band = item % seams + 1, g = g0 + item / seams % groups, i = item / seams / groups;
        const Sweep<T, F> s = sweep(i, g, band);
        s.Seam(band * grid.band_rows - 1, s.upper, scratch.lower + (s.upper - scratch.upper) - p.w * block);
      });

      for (std::int64_t i = 0; !scratch.direct_grad_x && i < images; ++i)
        store_image(workers, p.grad_x, n0 + i, p.h, p.w, c0, c1, scratch.sums + i * x_image, block,
                    scratch.narrowed);
    }

    workers.run(images * p.ho, [&](std::int64_t r, int slot_index) {
      auto slot = scratch.slot(p, slot_index);
      Strip<F>& strip = slot.strip;
      const std::int64_t pixels = Strip<F>::pixels(p.lanes());
      strip.n = n0 + r / p.ho, strip.ho = r % p.ho, strip.lanes = p.lanes();
      for (strip.wo0 = 0; strip.wo0 < p.wo; strip.wo0 += pixels) {
        strip.count = std::min(pixels, p.wo - strip.wo0);
        locate(p, strip);
        finish(p, strip, scratch.dots + 4 * (r * p.wo + strip.wo0) * p.lanes(), p.lanes());
      }
    });
  }
}

void GradBinned(const Problem& p, const Workers& workers, void* workspace) {
  switch (p.x.dtype) {
    case DType::float16: return GradBinnedT<float16_t>(p, workers, workspace);
    case DType::bfloat16: return GradBinnedT<bfloat16_t>(p, workers, workspace);
    case DType::float32: return GradBinnedT<float>(p, workers, workspace);
    case DType::float64: return GradBinnedT<double>(p, workers, workspace);
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {

HWY_EXPORT(GradBinned);

const char* grad_binned_why_not(const Problem& p) {
  if (const char* why = too_wide(p)) return why;
  // Bins and taps are numbered in 32 bits.
  constexpr double limit = 4e9;
  const Grid grid(p);
  const double lanes = static_cast<double>(p.lanes());
  const bool fits = static_cast<double>(p.ho) * static_cast<double>(p.wo) * lanes < limit &&
                    static_cast<double>(grid.bins()) * static_cast<double>(p.groups) < limit;
  return fits ? nullptr : "an image has 4e9 taps or cells or more";
}

double grad_binned_cost(const Problem&) { return 1; }

std::size_t grad_binned_workspace(const Problem& p, int slots) {
  std::size_t used = 0;
  if (p.x.dtype == DType::float64)
    BinScratch<double>(Carver(), p, slots, &used);
  else
    BinScratch<float>(Carver(), p, slots, &used);
  return used;
}

void grad_binned(const Problem& p, const Workers& workers, void* workspace) {
  HWY_DYNAMIC_DISPATCH(GradBinned)(p, workers, workspace);
}

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
