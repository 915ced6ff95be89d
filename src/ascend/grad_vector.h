// SPDX-License-Identifier: Apache-2.0
// Gradient on A2 and A3 (dav-2201), docs/operators.md, "Gradient". A core fetches a tile's rows of grad and,
// at its taps' corners, of x; multiplies them and reduces the products to dots, from which the scalar unit
// makes grad_offsets; scales the rows of grad.
//
// Fast: the sums are zeroed, all cores meet, then scaled rows are added to them by atomic copies. Sums are
// float32 whatever T is; where grad_x has T's 16 bits they are scratch, rounded once all have met again.
//
// Deterministic: here grad_offsets alone; grad_x is another kernel's, grad_bands.h. Dots are reduced in one
// order: the same bits on every run, in both modes.
#pragma once

#include "ascend/vector.h"

namespace tapfield::ascend {

template <class T>
class GradCore {
 public:
  __aicore__ inline GradCore(const Arguments<std::int64_t>& a, const Plan& plan) : a_(a), plan_(plan) {
    bytes_ = grad_buffers(plan);
    taps_of_.init(pipe_, a_, plan_);
    pipe_.InitBuffer(in_, kBuffers, bytes_.in);
    pipe_.InitBuffer(out_, kBuffers, bytes_.out);
    if constexpr (kNarrow<T>) {
      pipe_.InitBuffer(wide_, bytes_.wide);
      pipe_.InitBuffer(narrow_, bytes_.narrow);
    }
    pipe_.InitBuffer(dots_, bytes_.dots);
    pipe_.InitBuffer(parts_, bytes_.dots);
    pipe_.InitBuffer(values_, bytes_.grad_offsets);
  }

  __aicore__ inline void zero_sums() {
    const Share mine = share_of(elements_of_x(), AscendC::GetBlockIdx(), AscendC::GetBlockNum());
    const auto sums = tensor<float>(a_.sums, elements_of_x());
    const std::int64_t most = bytes_.out / static_cast<std::int64_t>(sizeof(float));
    AscendC::LocalTensor<float> zeros = out_.template AllocTensor<float>();
    AscendC::Duplicate(zeros, 0.0f, static_cast<std::int32_t>(most));
    out_.EnQue(zeros);
    zeros = out_.template DeQue<float>();
    for (std::int64_t i = mine.begin; i < mine.end; i += most) {
      const std::int32_t count = static_cast<std::int32_t>(i + most < mine.end ? most : mine.end - i);
      copy_out(sums[i], zeros, 1, count, padded(count), count);
    }
    out_.FreeTensor(zeros);
  }

  // kAdd: also to grad_x.
  template <bool kAdd>
  __aicore__ inline void run() {
    const Share mine = share_of(tiles(a_.geometry, plan_), AscendC::GetBlockIdx(), AscendC::GetBlockNum());
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      const Tile tile = tile_at(a_.geometry, plan_, i);
      taps_of_.locate(tile, taps_);
      const std::int64_t pieces = up(a_.geometry.channels, plan_.piece);
      for (std::int64_t p = 0; p < pieces; ++p) {
        const Piece piece = piece_at(plan_, a_.geometry.channels, p);
        fetch(tile, piece);
        // The last tile's grad_offsets have been stored; waited for here, behind the copies just begun.
        if (p == 0) sync<AscendC::HardEvent::MTE3_S>();
        multiply<kAdd>(tile, piece, p == 0);
        if constexpr (kAdd) add(tile, piece);
      }
      write_grad_offsets(tile);
    }
  }

  // Each sum once, to nearest even. Only where sums are not grad_x itself, so T has 16 bits.
  __aicore__ inline void round_sums() {
    const Share mine = share_of(elements_of_x(), AscendC::GetBlockIdx(), AscendC::GetBlockNum());
    const auto sums = tensor<float>(a_.sums, elements_of_x());
    const auto grad_x = tensor<T>(a_.grad_x, elements_of_x());
    const std::int64_t most = (bytes_.in < bytes_.out ? bytes_.in : bytes_.out) / 64 * 16;
    for (std::int64_t i = mine.begin; i < mine.end; i += most) {
      const std::int32_t count = static_cast<std::int32_t>(i + most < mine.end ? most : mine.end - i);
      AscendC::LocalTensor<float> from = in_.template AllocTensor<float>();
      copy_in(from, sums[i], 1, count, padded(count), count);
      in_.EnQue(from);
      from = in_.template DeQue<float>();
      AscendC::LocalTensor<T> to = out_.template AllocTensor<T>();
      AscendC::Cast(to, from, AscendC::RoundMode::CAST_RINT, count);
      in_.FreeTensor(from);
      out_.EnQue(to);
      to = out_.template DeQue<T>();
      copy_out(grad_x[i], to, 1, count, padded(count), count);
      out_.FreeTensor(to);
    }
  }

 private:
  __aicore__ inline std::int64_t elements_of_x() const {
    return a_.geometry.n * a_.geometry.h * a_.geometry.w * a_.geometry.c;
  }

  // Rows of grad of the live taps; then of x.
  __aicore__ inline void fetch(const Tile& tile, const Piece& piece) {
    const Geometry<std::int64_t>& q = a_.geometry;
    const auto grad = tensor<T>(a_.grad, q.n * q.ho * q.kh * q.wo * q.kw * q.c);
    const AscendC::LocalTensor<T> to = in_.template AllocTensor<T>();
    const std::int32_t row = row_of(plan_), taps = tile.pixels * tile.taps;
    live_ = 0;
    for (std::int32_t i = 0; i < taps; ++i)
      if (taps_[i].live)
        copy_in(to[live_++ * row], grad[taps_[i].row + piece.first], 1, piece.length, row, q.c);
    rows_ = fetch_corners(a_, plan_, tile, piece, taps_, to[live_ * row]);
    in_.EnQue(to);
  }

  // dots (+)= grad . x of each row of x; out = the rows of grad, scaled by the corners' weights. Taps that
  // follow each other in one cell share rows of out: sums of many taps are shorter then.
  template <bool kAdd>
  __aicore__ inline void multiply(const Tile& tile, const Piece& piece, bool is_first) {
    AscendC::LocalTensor<T> raw = in_.template DeQue<T>();
    const std::int32_t row = row_of(plan_);
    AscendC::LocalTensor<float> rows = float_rows(raw, (live_ + rows_) * row);
    const AscendC::LocalTensor<float> x = rows[live_ * row];
    AscendC::LocalTensor<float> out;
    if constexpr (kAdd) out = out_.template AllocTensor<float>();
    std::int32_t grad = 0, at = 0, to = 0, end = 0;  // rows: of grad, of x, of out; out's after this run
    for (std::int32_t i = 0; i < tile.pixels * tile.taps; ++i) {
      const Tap& t = taps_[i];
      if (!t.live) continue;
      if (!t.joins) to = end;
      if (kAdd && t.joins) vector_barrier();  // what the tap before it has written is read
      end = to;
      for (int corner = 0; corner < 4; ++corner) {
        if (!inside(t, corner)) continue;
        if constexpr (kAdd)
          t.joins ? AscendC::Axpy(out[end * row], rows[grad * row], weight(t, corner), piece.length)
                  : AscendC::Muls(out[end * row], rows[grad * row], weight(t, corner), piece.length);
        AscendC::Mul(x[at * row], x[at * row], rows[grad * row], piece.length);
        ++at, ++end;
      }
      ++grad;
    }
    if constexpr (kAdd) out_.EnQue(out);
    vector_barrier();
    reduce(x, piece.length, is_first);
    in_.FreeTensor(raw);
  }

  __aicore__ inline AscendC::LocalTensor<float> float_rows(const AscendC::LocalTensor<T>& raw,
                                                           std::int32_t count) {
    if constexpr (kNarrow<T>) {
      const AscendC::LocalTensor<float> wide = wide_.template Get<float>();
      vector_barrier();  // the last piece's have been read
      if (count) AscendC::Cast(wide, raw, AscendC::RoundMode::CAST_NONE, count);
      vector_barrier();
      return wide;
    } else {
      return raw;
    }
  }

  // One instruction sums the same 64 channels of every row.
  __aicore__ inline void reduce(const AscendC::LocalTensor<float>& x, std::int32_t length, bool is_first) {
    constexpr std::int32_t kChannels = 64;
    const AscendC::LocalTensor<float> dots = dots_.template Get<float>(),
                                      parts = parts_.template Get<float>();
    if (!rows_) return;
    for (std::int32_t c = 0; c < length; c += kChannels) {
      const bool sets = is_first && c == 0;
      AscendC::ReduceRepeat<AscendC::ReduceType::SUM>(sets ? dots : parts, x[c],
                                                      length - c < kChannels ? length - c : kChannels, rows_,
                                                      1, 1, row_of(plan_) / 8);
      vector_barrier();
      if (sets) continue;
      AscendC::Add(dots, dots, parts, rows_);
      vector_barrier();
    }
  }

  // Scaled rows to the corners, in float32.
  __aicore__ inline void add(const Tile& tile, const Piece& piece) {
    const Geometry<std::int64_t>& q = a_.geometry;
    const auto sums = tensor<float>(a_.sums, elements_of_x());
    AscendC::LocalTensor<float> from = out_.template DeQue<float>();
    const std::int32_t row = row_of(plan_);
    std::int32_t at = 0;
    AscendC::SetAtomicAdd<float>();
    for (std::int32_t i = 0; i < tile.pixels * tile.taps; ++i) {
      const Tap& t = taps_[i];
      if (t.joins) continue;
      for (int far = 0; far < 2; ++far) {
        if (!t.in_h[far]) continue;
        copy_out(sums[pixel_at(q, tile.n, t.h0 + far, first_column(t)) + tile.g * q.channels + piece.first],
                 from[at * row], columns(t), piece.length, row, q.c);
        at += columns(t);
      }
    }
    AscendC::SetAtomicNone();
    out_.FreeTensor(from);
  }

  __aicore__ inline void write_grad_offsets(const Tile& tile) {
    AscendC::LocalTensor<float> values = values_.template Get<float>();
    const AscendC::LocalTensor<float> dots = dots_.template Get<float>();
    const std::int32_t row = tap_row_of(plan_), plane = plan_.pixels * row;
    sync<AscendC::HardEvent::V_S>();  // the dots are there
    std::int32_t at = 0;
    for (std::int32_t i = 0; i < tile.pixels * tile.taps; ++i) {
      const Tap& t = taps_[i];
      float s[4] = {0, 0, 0, 0}, along_w = 0, along_h = 0, mask = 0;
      for (int corner = 0; corner < 4; ++corner)
        if (inside(t, corner)) s[corner] = dots.GetValue(at++);
      if (t.live) {
        along_w = math::grad_offset_w(t.hh, t.lh, t.m, s[0], s[1], s[2], s[3]);
        along_h = math::grad_offset_h(t.hw, t.lw, t.m, s[0], s[1], s[2], s[3]);
        mask = math::grad_mask(t.hh, t.lh, t.hw, t.lw, s[0], s[1], s[2], s[3]);
      }
      const std::uint32_t o = static_cast<std::uint32_t>(i / tile.taps * row + i % tile.taps);
      values.SetValue(o, along_w);
      values.SetValue(o + plane, along_h);
      if (plan_.planes == 3) values.SetValue(o + 2 * plane, mask);
    }
    sync<AscendC::HardEvent::S_V>();  // the next tile's dots, and a cast of these, come after
    if constexpr (kNarrow<T>)
      if (!a_.grad_offsets_wide) {
        const AscendC::LocalTensor<T> narrow = narrow_.template Get<T>();
        AscendC::Cast(narrow, values, AscendC::RoundMode::CAST_RINT, plan_.planes * plane);
        sync<AscendC::HardEvent::V_MTE3>();
        return store_planes(narrow, tile);
      }
    sync<AscendC::HardEvent::S_MTE3>();
    store_planes(values, tile);
  }

  template <class E>
  __aicore__ inline void store_planes(const AscendC::LocalTensor<E>& from, const Tile& tile) {
    const Geometry<std::int64_t>& q = a_.geometry;
    const std::int32_t row = tap_row_of(plan_);
    const std::int64_t step = q.planes * taps_of_.plane();
    const auto grad_offsets = tensor<E>(a_.grad_offsets, q.n * q.ho * q.wo * step);
    for (std::int32_t p = 0; p < plan_.planes; ++p)
      copy_out(grad_offsets[taps_of_.first(tile) + p * taps_of_.plane()], from[p * plan_.pixels * row],
               tile.pixels, tile.taps, row, step);
  }

  const Arguments<std::int64_t>& a_;
  const Plan plan_;
  GradBuffers bytes_;
  AscendC::TPipe pipe_;
  TileTaps<T> taps_of_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> in_;           // rows of grad, then of x, as T
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> out_;         // scaled rows, float32
  AscendC::TBuf<AscendC::TPosition::VECCALC> wide_;          // in_ as float32
  AscendC::TBuf<AscendC::TPosition::VECCALC> dots_, parts_;  // [row of x]
  // grad_offsets: [planes][pixels][tap_row], as float32, as T.
  AscendC::TBuf<AscendC::TPosition::VECOUT> values_, narrow_;
  Tap taps_[kMostTaps];
  std::int32_t live_ = 0, rows_ = 0;  // rows of grad, of x, that were fetched
};

// ------ Kernels: one launch each. Cores meet in the fast one, so all of them must run at once: not more than
// the device has, and none left to another stream (schedmode 1).

template <class T>
__schedmode__(1) __global__ __mix__(0, 1) void grad_vector(Arguments<std::int64_t> a, Plan plan) {
  GradCore<T> core(a, plan);
  core.zero_sums();
  meet();
  core.template run<true>();
  if constexpr (kNarrow<T>)
    if (!a.grad_x_wide) {
      meet();
      core.round_sums();
    }
}

template <class T>
__global__ __vector__ void grad_offsets_vector(Arguments<std::int64_t> a, Plan plan) {
  GradCore<T>(a, plan).template run<false>();
}

}  // namespace tapfield::ascend
