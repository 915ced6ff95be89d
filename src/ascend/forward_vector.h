// SPDX-License-Identifier: Apache-2.0
// Forward on A2 and A3 (dav-2201): y = the masked blend of x at every tap, docs/operators.md, "Forward". A
// core fetches the corner rows of a tile's taps, blends them, and writes rows of y. Every element is one sum
// in one order: the same bits on every run.
#pragma once

#include "ascend/vector.h"

namespace tapfield::ascend {

template <class T>
class ForwardCore {
 public:
  __aicore__ inline ForwardCore(const Arguments<std::int64_t>& a, const Plan& plan) : a_(a), plan_(plan) {
    const ForwardBuffers bytes = forward_buffers(plan);
    taps_of_.init(pipe_, a_, plan_);
    pipe_.InitBuffer(in_, kBuffers, bytes.in);
    pipe_.InitBuffer(out_, kBuffers, bytes.out);
    if constexpr (kNarrow<T>) {
      pipe_.InitBuffer(wide_, bytes.wide);
      pipe_.InitBuffer(sums_, bytes.sums);
    }
  }

  __aicore__ inline void run() {
    const Share mine = share_of(tiles(a_.geometry, plan_), AscendC::GetBlockIdx(), AscendC::GetBlockNum());
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      const Tile tile = tile_at(a_.geometry, plan_, i);
      taps_of_.locate(tile, taps_);
      const std::int64_t pieces = up(a_.geometry.channels, plan_.piece);
      for (std::int64_t p = 0; p < pieces; ++p) {
        const Piece piece = piece_at(plan_, a_.geometry.channels, p);
        fetch(tile, piece);
        blend(tile, piece);
        store(tile, piece);
      }
    }
  }

 private:
  __aicore__ inline void fetch(const Tile& tile, const Piece& piece) {
    const AscendC::LocalTensor<T> to = in_.template AllocTensor<T>();
    rows_ = fetch_corners(a_, plan_, tile, piece, taps_, to);
    in_.EnQue(to);
  }

  __aicore__ inline void blend(const Tile& tile, const Piece& piece) {
    AscendC::LocalTensor<T> x = in_.template DeQue<T>(), y = out_.template AllocTensor<T>();
    const std::int32_t row = row_of(plan_);
    if constexpr (kNarrow<T>) {
      const AscendC::LocalTensor<float> wide = wide_.template Get<float>(),
                                        sums = sums_.template Get<float>();
      vector_barrier();  // the last tile's have been read
      if (rows_) AscendC::Cast(wide, x, AscendC::RoundMode::CAST_NONE, rows_ * row);
      vector_barrier();
      sum(tile, piece, wide, sums);
      AscendC::Cast(y, sums, AscendC::RoundMode::CAST_RINT, tile.pixels * tile.taps * row);
    } else {
      sum(tile, piece, x, y);
    }
    in_.FreeTensor(x);
    out_.EnQue(y);
  }

  // sums[tap] = its weights times its rows of x; 0 where it is dead. A tap's corners are added one after the
  // other, all taps' at the same time.
  __aicore__ inline void sum(const Tile& tile, const Piece& piece, const AscendC::LocalTensor<float>& x,
                             const AscendC::LocalTensor<float>& sums) {
    const std::int32_t row = row_of(plan_), taps = tile.pixels * tile.taps;
    for (std::int32_t i = 0; i < taps; ++i)
      // Whole rows of 16-bit types, which are then cast as one.
      AscendC::Duplicate(sums[i * row], 0.0f, kNarrow<T> ? row : piece.length);
    vector_barrier();
    for (int corner = 0; corner < 4; ++corner) {
      std::int32_t at = 0;
      for (std::int32_t i = 0; i < taps; ++i)
        for (int k = 0; k < 4; ++k) {
          if (!inside(taps_[i], k)) continue;
          if (k == corner) AscendC::Axpy(sums[i * row], x[at * row], weight(taps_[i], k), piece.length);
          ++at;
        }
      vector_barrier();
    }
  }

  __aicore__ inline void store(const Tile& tile, const Piece& piece) {
    const Geometry<std::int64_t>& q = a_.geometry;
    const auto y = tensor<T>(a_.y, q.n * q.ho * q.kh * q.wo * q.kw * q.c);
    AscendC::LocalTensor<T> from = out_.template DeQue<T>();
    const std::int32_t row = row_of(plan_);
    for (std::int32_t i = 0; i < tile.pixels * tile.taps; ++i)
      copy_out(y[taps_[i].row + piece.first], from[i * row], 1, piece.length, row, q.c);
    out_.FreeTensor(from);
  }

  const Arguments<std::int64_t>& a_;
  const Plan plan_;
  AscendC::TPipe pipe_;
  TileTaps<T> taps_of_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> in_;    // rows of x, as T
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> out_;  // [tap][row], as T
  AscendC::TBuf<AscendC::TPosition::VECCALC> wide_;   // rows of x as float32
  AscendC::TBuf<AscendC::TPosition::VECCALC> sums_;   // [tap][row] as float32
  Tap taps_[kMostTaps];
  std::int32_t rows_ = 0;  // fetched
};

// One launch on every core, with no scratch.
template <class T>
__global__ __vector__ void forward_vector(Arguments<std::int64_t> a, Plan plan) {
  ForwardCore<T>(a, plan).run();
}

}  // namespace tapfield::ascend
