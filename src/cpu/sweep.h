// SPDX-License-Identifier: Apache-2.0
// The sweep of binned.cpp: a band of cells of one group of one image, or one chunk of a cell's taps. A cell's
// corners of x and its sums stay in registers while its taps' rows of grad stream by. Included once per
// target.
#if defined(TAPFIELD_CPU_SWEEP_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPFIELD_CPU_SWEEP_H_
#undef TAPFIELD_CPU_SWEEP_H_
#else
#define TAPFIELD_CPU_SWEEP_H_
#endif

#include <algorithm>
#include <cstring>

#include "cpu/simd.h"
#include "cpu/bins.h"
#include "cpu/rows.h"

#ifndef TAPFIELD_CPU_SWEEP_ONCE_
#define TAPFIELD_CPU_SWEEP_ONCE_
namespace tapfield::cpu {

// Rows of grad are fetched into L2 this many taps ahead of their use: fetches into L1 wait for its few fill
// buffers (Zen 4: a, d and q took 1.3 times as long).
constexpr std::uint32_t kAhead = 32;

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

// Vectors of one block of channels: 8 corners of x, 8 sums, 4 dots, 4 weights and 2 of grad fill 26
// registers of 32. The second derivative reads most of its 16 corners from L1 instead.
constexpr int kVectors = HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON ? 2 : 1;

// Vectors whose elements fill a cache line of T.
template <class T, class F = Compute<T>>
constexpr int kLineVectors = std::max<int>(1, 64 / (sizeof(T) * hn::MaxLanes(hn::ScalableTag<F>())));

// T: of x and grad; U: of gg_x; kSecond: grad_grad, else grad.
template <class T, class U, bool kSecond, class F = Compute<T>>
struct Sweep {
  const Problem& p;
  const BinScratch<F>& scratch;
  std::int64_t channels;    // of the group that are swept now, in memory from 0 on
  bool first_channels;      // of their group: dots are stored, not added
  std::uint32_t live_taps;  // places in `order`
  std::uint32_t first_bin;  // of the group
  const T* grad = nullptr;  // rows count from here
  T* grad_grad = nullptr;   // from here, too
  Image<const T> x = {};
  Image<const U> u = {};  // null: zeros
  Rows<T, F> grad_x = {};
  const Chunk *chunks = nullptr, *chunks_end = nullptr;  // the shared cells' of this block of channels
  F *upper = nullptr, *lower = nullptr;  // [w][block] of this band; null where none is before, after
  typename BinScratch<F>::Slot* slot = nullptr;

  struct Cell {
    std::int64_t h0, w0, row, column;  // row in the band, column in the strip
  };
  struct Corners {
    CornerRows<const T> x;
    CornerRows<const U> u;
  };
  Corners corners(std::int64_t h0, std::int64_t w0) const {
    const auto* x_zeros = reinterpret_cast<const T*>(scratch.zeros);
    const auto* u_zeros = reinterpret_cast<const U*>(scratch.zeros);
    const auto h = static_cast<std::int32_t>(h0), w = static_cast<std::int32_t>(w0);
    return {CornerRows<const T>(x, p.h, p.w, h, w, 0, x_zeros),
            u.data ? CornerRows<const U>(u, p.h, p.w, h, w, 0, u_zeros) : CornerRows<const U>(u_zeros)};
  }

  // ------ Taps on their way: the rows of grad up to kAhead beyond a piece; weights and dots of the piece

  struct Stream {
    static constexpr std::uint32_t kRing = 2 * kPiece;
    static_assert(kPiece + kAhead <= kRing);
    std::uint32_t filled;  // places of `order` before it are there
    std::int64_t rows[kRing];
    // By what a tap adds to its corners' sums: m b, or second and then m b, which weighs gg_x.
    F weights[kPiece][kSecond ? 8 : 4];
    alignas(64) F dots[kSecond ? 2 : 1][kPiece][kDotParts<F>];  // with x, with gg_x

    std::int64_t& row(std::uint32_t place) { return rows[place % kRing]; }
  };

  void Read(Stream& s, std::uint32_t begin, std::uint32_t end) const {
    const auto tap_at = [&](std::uint32_t place) { return scratch.order[std::min(place, live_taps - 1)]; };
    for (; s.filled < end + kAhead; ++s.filled) {
      const std::size_t tap = tap_at(s.filled);
      s.row(s.filled) = scratch.rows[tap];
      __builtin_prefetch(scratch.weights + 4 * tap);
      if (kSecond) __builtin_prefetch(scratch.second + 4 * tap);
      __builtin_prefetch(scratch.rows + tap_at(s.filled + kAhead));
    }
    for (std::uint32_t t = begin; t < end; ++t) {
      const std::size_t tap = scratch.order[t];
      F* weights = s.weights[t - begin];
      if (kSecond) std::memcpy(weights, scratch.second + 4 * tap, 4 * sizeof(F)), weights += 4;
      std::memcpy(weights, scratch.weights + 4 * tap, 4 * sizeof(F));
    }
  }

  void WriteDots(const Stream& s, std::uint32_t begin, std::uint32_t end) const {
    // Four side by side; some may be past the end, and are not written.
    for (std::uint32_t t = begin; t < end; t += 4)
      for (int with = 0; with < (kSecond ? 2 : 1); ++with) {
        F sums[4][4];
        SumParts(s.dots[with][t - begin], sums[0]);
        for (std::uint32_t j = 0; j < std::min(4u, end - t); ++j) {
          F* to = (with ? scratch.dots_u : scratch.dots) + 4 * std::size_t{scratch.order[t + j]};
          if (first_channels)
            std::memcpy(to, sums[j], 4 * sizeof(F));
          else
            for (int k = 0; k < 4; ++k) to[k] += sums[j][k];
        }
      }
  }

  // ------ Sums of a piece's taps

  // kCount vectors of channels from c on: what the taps add to the four corners, and their dots.
  template <int kCount, bool kTail, class D, class V = hn::Vec<D>>
  HWY_INLINE void SumVectors(D d, Stream& s, std::uint32_t begin, std::uint32_t end, const Corners& at,
                             std::int64_t c, std::size_t n, V (&sum)[4][kCount]) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    V v_ab[4][kCount], u_ab[4][kCount];
    for (int v = 0; v < kCount; ++v) {
      const std::int64_t from = c + v * lanes;
      v_ab[0][v] = LoadN<kTail>(d, at.x.p00 + from, n), v_ab[1][v] = LoadN<kTail>(d, at.x.p01 + from, n);
      v_ab[2][v] = LoadN<kTail>(d, at.x.p10 + from, n), v_ab[3][v] = LoadN<kTail>(d, at.x.p11 + from, n);
      if constexpr (kSecond) {
        u_ab[0][v] = LoadN<kTail>(d, at.u.p00 + from, n), u_ab[1][v] = LoadN<kTail>(d, at.u.p01 + from, n);
        u_ab[2][v] = LoadN<kTail>(d, at.u.p10 + from, n), u_ab[3][v] = LoadN<kTail>(d, at.u.p11 + from, n);
      }
      for (int k = 0; k < 4; ++k) sum[k][v] = hn::Zero(d);
    }
    for (std::uint32_t t = begin; t < end; ++t) {
      const T* ahead = grad + s.row(t + kAhead) + c;
      for (int v = 0; v < kCount; v += kLineVectors<T>) __builtin_prefetch(ahead + v * lanes, 0, 2);
      const std::int64_t row = s.row(t) + c;
      const F* w = s.weights[t - begin];
      V dots[4], dots_u[4];
      for (int v = 0; v < kCount; ++v) {
        const auto g = LoadN<kTail>(d, grad + row + v * lanes, n);
        for (int k = 0; k < 4; ++k) {
          sum[k][v] = hn::MulAdd(hn::Set(d, w[k]), g, sum[k][v]);
          dots[k] = v ? hn::MulAdd(g, v_ab[k][v], dots[k]) : hn::Mul(g, v_ab[k][v]);
        }
        if constexpr (kSecond) {
          auto out = hn::Mul(hn::Set(d, w[0]), v_ab[0][v]);
          for (int k = 1; k < 4; ++k) out = hn::MulAdd(hn::Set(d, w[k]), v_ab[k][v], out);
          for (int k = 0; k < 4; ++k) {
            out = hn::MulAdd(hn::Set(d, w[4 + k]), u_ab[k][v], out);
            dots_u[k] = v ? hn::MulAdd(g, u_ab[k][v], dots_u[k]) : hn::Mul(g, u_ab[k][v]);
          }
          StoreN<kTail>(out, d, grad_grad + row + v * lanes, n);
        }
      }
      AddParts(d, dots, s.dots[0][t - begin], c == 0);
      if constexpr (kSecond) AddParts(d, dots_u, s.dots[1][t - begin], c == 0);
    }
  }

  // Calls visit(d, integral_constant<int, vectors>, is a tail, c, channels of the tail) for all channels.
  template <class Visit>
  HWY_INLINE void ForVectors(const Visit& visit) const {
    const hn::ScalableTag<F> d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const std::integral_constant<int, kVectors> all;
    const std::integral_constant<int, 1> one;
    std::int64_t c = 0;
    for (; c + kVectors * lanes <= channels; c += kVectors * lanes) visit(d, all, std::false_type(), c, 0);
    for (; c + lanes <= channels; c += lanes) visit(d, one, std::false_type(), c, 0);
    if (c < channels) visit(d, one, std::true_type(), c, static_cast<std::size_t>(channels - c));
  }

  // The sums of taps [begin, end), a piece at most, to receive(d, tail, c, n, sums of one vector).
  template <class Receive>
  HWY_INLINE void SumPiece(Stream& s, std::uint32_t begin, std::uint32_t end, const Corners& at,
                           const Receive& receive) const {
    if (begin < end) Read(s, begin, end);
    ForVectors([&](auto d, auto count, auto tail, std::int64_t c, std::size_t n) HWY_ATTR {
      constexpr int kCount = decltype(count)::value;
      hn::Vec<decltype(d)> sum[4][kCount];
      SumVectors<kCount, tail()>(d, s, begin, end, at, c, n, sum);
      for (int v = 0; v < kCount; ++v) {
        const hn::Vec<decltype(d)> one[4] = {sum[0][v], sum[1][v], sum[2][v], sum[3][v]};
        receive(d, tail, c + v * static_cast<std::int64_t>(hn::Lanes(d)), n, one);
      }
    });
    WriteDots(s, begin, end);
  }

  // The sums of a chunk, piece after piece, to `to` [4][chunk_pitch].
  void SumChunk(Stream& s, std::uint32_t begin, std::uint32_t end, const Corners& at, F* to) const {
    for (std::uint32_t from = begin; from < end; from += kPiece)
      SumPiece(s, from, std::min(from + kPiece, end), at,
               [&](auto d, auto tail, std::int64_t c, std::size_t n, const auto& sum) HWY_ATTR {
                 for (int k = 0; k < 4; ++k) {
                   F* place = to + k * scratch.chunk_pitch + c;
                   StoreN<tail()>(from == begin ? sum[k] : hn::Add(LoadN<tail()>(d, place, n), sum[k]), d,
                                  place, n);
                 }
               });
  }

  // Chunk `index` of the list: an item of work.
  void SharedChunk(std::int64_t index) const {
    const Chunk& chunk = scratch.chunks[index];
    const std::int64_t bin = chunk.bin - first_bin;
    Stream s;
    s.filled = chunk.begin;
    SumChunk(s, chunk.begin, chunk.end,
             corners(scratch.grid.row_of(bin) - 1, scratch.grid.column_of(bin) - 1), SumsOf(index));
  }
  F* SumsOf(std::int64_t chunk) const { return scratch.chunk_sums + chunk * 4 * scratch.chunk_pitch; }

  // ------ Sums to where they belong

  template <bool kTail, class D>
  HWY_INLINE void StoreRow(hn::Vec<D> v, D d, std::int64_t h, std::int64_t w, std::int64_t c,
                           std::size_t n) const {
    char* row = grad_x.at(h, w);
    F* sums = reinterpret_cast<F*>(row) + c;
    if (p.adds) v = hn::Add(v, LoadN<kTail>(d, sums, n));
    if (grad_x.narrow)
      StoreN<kTail>(v, d, reinterpret_cast<T*>(row) + c, n);
    else
      StoreN<kTail>(v, d, sums, n);
  }

  // What a cell adds to its left and right pixels, above and below.
  template <bool kTail, class D, class V = hn::Vec<D>>
  HWY_INLINE void Flush(D d, const Cell& cell, std::int64_t c, std::size_t n, const V (&sum)[4]) const {
    F* right_above = slot->right + cell.row * 2 * scratch.block + c;
    F* right_below = right_above + scratch.block;
    const auto above = hn::Add(LoadN<kTail>(d, right_above, n), sum[0]);
    const auto under = hn::Add(LoadN<kTail>(d, right_below, n), sum[2]);
    StoreN<kTail>(sum[1], d, right_above, n);
    StoreN<kTail>(sum[3], d, right_below, n);
    if (cell.w0 < 0) return;
    F* from_above = slot->below + cell.column * scratch.block + c;
    if (cell.row == 0 && upper)
      StoreN<kTail>(above, d, upper + cell.w0 * scratch.block + c, n);
    else if (cell.h0 >= 0)
      StoreRow<kTail>(hn::Add(above, LoadN<kTail>(d, from_above, n)), d, cell.h0, cell.w0, c, n);
    StoreN<kTail>(under, d, from_above, n);
    if (cell.row + 1 == scratch.grid.band_rows && lower)
      StoreN<kTail>(under, d, lower + cell.w0 * scratch.block + c, n);
  }

  void FlushSums(const Cell& cell, const F* sums) const {
    ForVectors([&](auto d, auto count, auto tail, std::int64_t c, std::size_t n) HWY_ATTR {
      for (int v = 0; v < count; ++v) {
        const std::int64_t at = c + v * static_cast<std::int64_t>(hn::Lanes(d));
        const F* from = sums + at;
        const std::int64_t pitch = scratch.chunk_pitch;
        const hn::Vec<decltype(d)> sum[4] = {LoadN<tail()>(d, from, n), LoadN<tail()>(d, from + pitch, n),
                                             LoadN<tail()>(d, from + 2 * pitch, n),
                                             LoadN<tail()>(d, from + 3 * pitch, n)};
        Flush<tail()>(d, cell, at, n, sum);
      }
    });
  }

  // A cell of more than a piece: its chunks' sums in order. `chunk`: the first of its own in the list, or
  // null.
  void LongCell(Stream& s, const Cell& cell, std::uint32_t begin, std::uint32_t end,
                const Chunk* chunk) const {
    const Corners at = corners(cell.h0, cell.w0);
    const std::int64_t elements = 4 * scratch.chunk_pitch;
    for (std::uint32_t from = begin; from < end; from += std::min(kChunk, end - from)) {
      F* to = from == begin ? slot->cell : slot->chunk;
      if (chunk)
        std::copy_n(SumsOf(chunk++ - scratch.chunks), elements, to);
      else
        SumChunk(s, from, from + std::min(kChunk, end - from), at, to);
      if (from != begin)
        for (std::int64_t i = 0; i < elements; ++i) slot->cell[i] += to[i];
    }
    FlushSums(cell, slot->cell);
  }

  // An item of work: band `band` of the group.
  void Band(std::int64_t band) const {
    const Grid& grid = scratch.grid;
    std::fill_n(slot->right, grid.band_rows * 2 * scratch.block, F{0});
    const auto first = static_cast<std::uint32_t>(first_bin + band * grid.band_bins());
    const std::uint32_t* starts = scratch.starts + first;
    Stream s;
    s.filled = *starts;
    const Chunk* chunk = std::lower_bound(chunks, chunks_end, first,
                                          [](const Chunk& c, std::uint32_t bin) { return c.bin < bin; });
    for (std::int64_t strip = 0; strip < grid.strips; ++strip)
      for (std::int64_t row = 0; row < grid.band_rows && band * grid.band_rows + row < grid.rows; ++row)
        for (std::int64_t column = 0;
             column < grid.strip_columns && strip * grid.strip_columns + column < grid.columns; ++column) {
          const std::int64_t bin = (strip * grid.band_rows + row) * grid.strip_columns + column;
          const Cell cell{band * grid.band_rows + row - 1, strip * grid.strip_columns + column - 1, row,
                          column};
          const std::uint32_t begin = starts[bin], end = starts[bin + 1];
          const bool shared = chunk != chunks_end && chunk->bin == first + bin;
          if (!shared && end - begin <= kPiece) {
            SumPiece(s, begin, end, corners(cell.h0, cell.w0),
                     [&](auto d, auto tail, std::int64_t c, std::size_t n, const auto& sum)
                         HWY_ATTR { Flush<tail()>(d, cell, c, n, sum); });
            continue;
          }
          LongCell(s, cell, begin, end, shared ? chunk : nullptr);
          if (shared) {
            s.filled = std::max(s.filled, end);
            while (chunk != chunks_end && chunk->bin == first + bin) ++chunk;
          }
        }
  }

  // Row h of grad_x, where a band begins: what both bands add to it.
  void Seam(std::int64_t h, const F* from_below, const F* from_above) const {
    for (std::int64_t w = 0; w < p.w; ++w) {
      const F *a = from_below + w * scratch.block, *b = from_above + w * scratch.block;
      ForVectors([&](auto d, auto count, auto tail, std::int64_t c, std::size_t n) HWY_ATTR {
        for (int v = 0; v < count; ++v) {
          const std::int64_t at = c + v * static_cast<std::int64_t>(hn::Lanes(d));
          StoreRow<tail()>(hn::Add(LoadN<tail()>(d, a + at, n), LoadN<tail()>(d, b + at, n)), d, h, w, at, n);
        }
      });
    }
  }
};

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
