// SPDX-License-Identifier: Apache-2.0
// grad_x on A2 and A3 (dav-2201), deterministic. A core owns bands of grad_x, some rows times some columns of
// one group, and keeps a band's sums in UB as float32. It goes through all taps of the image and group in
// their order: every sum is one sum in one order, and there are no atomics, no scratch and no meeting. Taps
// that follow each other in one cell are summed apart, up to kRun of them, and added once, so that long sums
// do not drift. The price is that each band locates all taps.
#pragma once

#include "ascend/vector.h"

namespace tapfield::ascend {

template <class T>
class BandCore {
 public:
  __aicore__ inline BandCore(const Arguments<std::int64_t>& a, const Plan& plan) : a_(a), plan_(plan) {
    const BandBuffers bytes = band_buffers(plan);
    taps_of_.init(pipe_, a_, plan_);
    pipe_.InitBuffer(in_, kBuffers, bytes.in);
    pipe_.InitBuffer(run_, bytes.run);
    pipe_.InitBuffer(sums_, bytes.sums);
    if constexpr (kNarrow<T>) {
      pipe_.InitBuffer(wide_, bytes.wide);
      pipe_.InitBuffer(out_, bytes.out);
    }
  }

  __aicore__ inline void run() {
    const Geometry<std::int64_t>& q = a_.geometry;
    const Share mine = share_of(bands(q, plan_), AscendC::GetBlockIdx(), AscendC::GetBlockNum());
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      const Band band = band_at(q, plan_, i);
      const std::int64_t pieces = up(q.channels, plan_.piece);
      for (std::int64_t p = 0; p < pieces; ++p) sum(band, piece_at(plan_, q.channels, p));
    }
  }

 private:
  __aicore__ inline void sum(const Band& band, const Piece& piece) {
    const AscendC::LocalTensor<float> sums = sums_.template Get<float>();
    sync<AscendC::HardEvent::MTE3_V>();  // the last band has been stored
    vector_barrier();
    AscendC::Duplicate(sums, 0.0f, band.rows * plan_.band_w * row_of(plan_));
    vector_barrier();
    length_ = 0;
    const std::int64_t count = tiles_of_group(a_.geometry, plan_);
    for (std::int64_t i = 0; i < count; ++i) {
      const Tile tile = tile_of_group(a_.geometry, plan_, band.n, band.g, i);
      taps_of_.locate(tile, taps_);
      fetch(tile, band, piece);
      add(tile, band, piece);
    }
    end_run(band, piece);
    store(band, piece);
  }

  // The place in the band of a tap's corner; -1 if it is not there.
  __aicore__ inline std::int32_t place(const Band& band, const Tap& t, int corner) const {
    if (!inside(t, corner)) return -1;
    const std::int64_t h = t.h0 + corner / 2 - band.h, w = t.w0 + corner % 2 - band.w;
    if (h < 0 || h >= band.rows || w < 0 || w >= band.columns) return -1;
    return static_cast<std::int32_t>(h * plan_.band_w + w);
  }
  __aicore__ inline bool touches(const Band& band, const Tap& t) const {
    for (int corner = 0; corner < 4; ++corner)
      if (place(band, t, corner) >= 0) return true;
    return false;
  }

  // Rows of grad of the taps that touch the band, in their order.
  __aicore__ inline void fetch(const Tile& tile, const Band& band, const Piece& piece) {
    const Geometry<std::int64_t>& q = a_.geometry;
    rows_ = 0;
    for (std::int32_t i = 0; i < tile.pixels * tile.taps; ++i) rows_ += touches(band, taps_[i]);
    if (!rows_) return;
    const auto grad = tensor<T>(a_.grad, q.n * q.ho * q.kh * q.wo * q.kw * q.c);
    const AscendC::LocalTensor<T> to = in_.template AllocTensor<T>();
    const std::int32_t row = row_of(plan_);
    std::int32_t at = 0;
    for (std::int32_t i = 0; i < tile.pixels * tile.taps; ++i)
      if (touches(band, taps_[i]))
        copy_in(to[at++ * row], grad[taps_[i].row + piece.first], 1, piece.length, row, q.c);
    in_.EnQue(to);
  }

  __aicore__ inline void add(const Tile& tile, const Band& band, const Piece& piece) {
    const std::int32_t row = row_of(plan_);
    AscendC::LocalTensor<T> raw;
    AscendC::LocalTensor<float> grad;
    if (rows_) {
      raw = in_.template DeQue<T>();
      if constexpr (kNarrow<T>) {
        grad = wide_.template Get<float>();
        AscendC::Cast(grad, raw, AscendC::RoundMode::CAST_NONE, rows_ * row);
        vector_barrier();
      } else {
        grad = raw;
      }
    }
    const AscendC::LocalTensor<float> run = run_.template Get<float>();
    std::int32_t at = 0;
    for (std::int32_t i = 0; i < tile.pixels * tile.taps; ++i) {
      const Tap& t = taps_[i];
      if (!t.live) continue;
      const bool here = touches(band, t);
      // Whatever the band, so that sums do not depend on it.
      if (!here || length_ == kRun || !same_cell(t, in_run_)) end_run(band, piece);
      if (!here) continue;
      for (int corner = 0; corner < 4; ++corner)
        length_ ? AscendC::Axpy(run[corner * row], grad[at * row], weight(t, corner), piece.length)
                : AscendC::Muls(run[corner * row], grad[at * row], weight(t, corner), piece.length);
      vector_barrier();
      in_run_ = t;
      ++length_, ++at;
    }
    if (rows_) in_.FreeTensor(raw);
  }

  // The run's sums, if there is one, to the band.
  __aicore__ inline void end_run(const Band& band, const Piece& piece) {
    if (!length_) return;
    const AscendC::LocalTensor<float> sums = sums_.template Get<float>(), run = run_.template Get<float>();
    const std::int32_t row = row_of(plan_);
    for (int corner = 0; corner < 4; ++corner) {
      const std::int32_t pixel = place(band, in_run_, corner);
      if (pixel >= 0) AscendC::Add(sums[pixel * row], sums[pixel * row], run[corner * row], piece.length);
    }
    vector_barrier();  // the next run may add to the same pixel
    length_ = 0;
  }

  __aicore__ inline void store(const Band& band, const Piece& piece) {
    const Geometry<std::int64_t>& q = a_.geometry;
    const std::int32_t row = row_of(plan_), line = plan_.band_w * row;
    const AscendC::LocalTensor<float> sums = sums_.template Get<float>();
    sync<AscendC::HardEvent::V_MTE3>();
    for (std::int32_t h = 0; h < band.rows; ++h) {
      const std::int64_t to = pixel_at(q, band.n, band.h + h, band.w) + band.g * q.channels + piece.first;
      if constexpr (kNarrow<T>)
        if (!a_.grad_x_wide) {
          const AscendC::LocalTensor<T> narrow = out_.template Get<T>();
          sync<AscendC::HardEvent::MTE3_V>();  // the last row has been stored
          AscendC::Cast(narrow, sums[h * line], AscendC::RoundMode::CAST_RINT, line);
          sync<AscendC::HardEvent::V_MTE3>();
          copy_out(tensor<T>(a_.grad_x, q.n * q.h * q.w * q.c)[to], narrow, band.columns, piece.length, row,
                   q.c);
          continue;
        }
      copy_out(tensor<float>(a_.grad_x, q.n * q.h * q.w * q.c)[to], sums[h * line], band.columns,
               piece.length, row, q.c);
    }
  }

  const Arguments<std::int64_t>& a_;
  const Plan plan_;
  AscendC::TPipe pipe_;
  TileTaps<T> taps_of_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> in_;   // rows of grad, as T
  AscendC::TBuf<AscendC::TPosition::VECCALC> wide_;  // the same as float32
  AscendC::TBuf<AscendC::TPosition::VECCALC> run_;   // [corner][row]: taps in one cell
  AscendC::TBuf<AscendC::TPosition::VECOUT> sums_;   // [band_h][band_w][row]
  AscendC::TBuf<AscendC::TPosition::VECOUT> out_;    // one of its rows, as T
  Tap taps_[kMostTaps];
  std::int32_t rows_ = 0;    // fetched
  std::int32_t length_ = 0;  // taps in the run
  Tap in_run_;               // its last
};

// One launch on every core, with no scratch.
template <class T>
__global__ __vector__ void grad_bands(Arguments<std::int64_t> a, Plan plan) {
  BandCore<T>(a, plan).run();
}

}  // namespace tapfield::ascend
