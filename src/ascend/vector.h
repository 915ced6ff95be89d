// SPDX-License-Identifier: Apache-2.0
// What the vector kernels of A2 and A3 (dav-2201) share: a tile's taps, rows of channels to and from UB.
//
// A core's pipes (scalar S, vector V, copies in MTE2, copies out MTE3) run side by side; data passes between
// them through UB, and each passing needs a flag: a queue's own, or sync() below.
#pragma once

#include "ascend/device.h"
#include "ascend/tiling.h"

namespace tapfield::ascend {

// What the second pipe of the event does from here on comes after all that the first one has been given.
template <AscendC::HardEvent event>
__aicore__ inline void sync() {
  const auto id = GetTPipePtr()->FetchEventID(event);
  AscendC::SetFlag<event>(id);
  AscendC::WaitFlag<event>(id);
}

// What V does from here on comes after all that it has been given.
__aicore__ inline void vector_barrier() { AscendC::PipeBarrier<PIPE_V>(); }

// All pipes of all cores have done what they were given.
__aicore__ inline void meet() {
  AscendC::PipeBarrier<PIPE_ALL>();
  AscendC::SyncAll();
}

template <class E>
__aicore__ inline AscendC::GlobalTensor<E> tensor(Address a, std::int64_t elements) {
  AscendC::GlobalTensor<E> t;
  t.SetGlobalBuffer(at<E>(a), static_cast<std::uint64_t>(elements));
  return t;
}

template <class T>
constexpr bool kNarrow = sizeof(T) == 2;

// ------ Copies of `count` rows of `length` elements. In UB rows begin `row` elements apart, in the tensor
// `step`.

template <class E>
__aicore__ inline void copy_in(const AscendC::LocalTensor<E>& to, const AscendC::GlobalTensor<E>& from,
                               std::int32_t count, std::int32_t length, std::int32_t row, std::int64_t step) {
  constexpr std::int32_t kUnit = 32 / static_cast<std::int32_t>(sizeof(E));
  const AscendC::DataCopyExtParams shape(static_cast<std::uint16_t>(count), length * sizeof(E),
                                         static_cast<std::uint32_t>((step - length) * sizeof(E)),
                                         row / kUnit - (length + kUnit - 1) / kUnit, 0);
  AscendC::DataCopyPad(to, from, shape, AscendC::DataCopyPadExtParams<E>(false, 0, 0, E(0)));
}

template <class E>
__aicore__ inline void copy_out(const AscendC::GlobalTensor<E>& to, const AscendC::LocalTensor<E>& from,
                                std::int32_t count, std::int32_t length, std::int32_t row,
                                std::int64_t step) {
  constexpr std::int32_t kUnit = 32 / static_cast<std::int32_t>(sizeof(E));
  const AscendC::DataCopyExtParams shape(static_cast<std::uint16_t>(count), length * sizeof(E),
                                         row / kUnit - (length + kUnit - 1) / kUnit,
                                         static_cast<std::uint32_t>((step - length) * sizeof(E)), 0);
  AscendC::DataCopyPad(to, from, shape);
}

// ------ Taps

struct Tap {
  bool live;
  bool joins;             // lies in the cell of the live tap before it in the tile
  bool in_h[2], in_w[2];  // which rows and columns of its corners are inside the map
  std::int64_t h0, w0;    // its cell
  std::int64_t row;       // element of y and grad where its group's channels begin
  float hh, lh, hw, lw, m;
};

__aicore__ inline bool inside(const Tap& t, int corner) { return t.in_h[corner / 2] && t.in_w[corner % 2]; }
__aicore__ inline float weight(const Tap& t, int corner) {
  return t.m * (corner / 2 ? t.lh : t.hh) * (corner % 2 ? t.lw : t.hw);
}

__aicore__ inline bool same_cell(const Tap& a, const Tap& b) { return a.h0 == b.h0 && a.w0 == b.w0; }

// A tile's offsets in UB, one tile at a time, read by the scalar unit.
template <class T>
class TileTaps {
 public:
  __aicore__ inline void init(AscendC::TPipe& pipe, const Arguments<std::int64_t>& a, const Plan& plan) {
    a_ = &a, plan_ = plan;
    const TileBuffers bytes = tile_buffers(plan);
    if (bytes.raw) pipe.InitBuffer(raw_, bytes.raw);
    pipe.InitBuffer(wide_, bytes.wide);
    const Geometry<std::int64_t>& q = a.geometry;
    plane_ = q.groups * q.kh * q.kw;
  }

  // taps[pixel * tile.taps + tap] of the tile.
  __aicore__ inline void locate(const Tile& tile, Tap* taps) {
    fetch(tile);
    const AscendC::LocalTensor<float> values = wide_.template Get<float>();
    const Geometry<std::int64_t>& q = a_->geometry;
    const std::int32_t row = tap_row_of(plan_), plane = plan_.pixels * row;
    const Tap* before = nullptr;
    for (std::int32_t pixel = 0; pixel < tile.pixels; ++pixel)
      for (std::int32_t i = 0; i < tile.taps; ++i) {
        const std::int64_t kh = (tile.k + i) / q.kw, kw = (tile.k + i) % q.kw, wo = tile.wo + pixel;
        const std::uint32_t o = static_cast<std::uint32_t>(pixel * row + i);
        Tap& t = taps[pixel * tile.taps + i];
        const bool live_w = locate_along(values.GetValue(o), wo * q.stride_w - q.left + kw * q.dil_w, q.w,
                                         q.closed != 0, t.w0, t.hw, t.lw);
        const bool live_h =
            locate_along(values.GetValue(o + plane), tile.ho * q.stride_h - q.top + kh * q.dil_h, q.h,
                         q.closed != 0, t.h0, t.hh, t.lh);
        t.m = q.planes == 3 ? values.GetValue(o + 2 * plane) : 1.0f;
        t.live = live_h && live_w;
        t.joins = t.live && before && same_cell(t, *before);
        if (t.live) before = &t;
        for (int far = 0; far < 2; ++far) {
          t.in_h[far] = t.live && math::inside(t.h0 + far, q.h);
          t.in_w[far] = t.live && math::inside(t.w0 + far, q.w);
        }
        t.row = (((tile.n * q.ho + tile.ho) * q.kh + kh) * q.wo * q.kw + wo * q.kw + kw) * q.c +
                tile.g * q.channels;
      }
  }

  // Where the tile's taps begin in the plane along W of offsets, and the elements between planes.
  __aicore__ inline std::int64_t first(const Tile& tile) const {
    const Geometry<std::int64_t>& q = a_->geometry;
    return ((tile.n * q.ho + tile.ho) * q.wo + tile.wo) * q.planes * plane_ + tile.g * q.kh * q.kw + tile.k;
  }
  __aicore__ inline std::int64_t plane() const { return plane_; }

 private:
  __aicore__ inline void fetch(const Tile& tile) {
    sync<AscendC::HardEvent::S_MTE2>();  // the last tile's have been read
    const AscendC::LocalTensor<float> wide = wide_.template Get<float>();
    if constexpr (kNarrow<T>)
      if (!a_->offsets_wide) {
        const AscendC::LocalTensor<T> raw = raw_.template Get<T>();
        copy_planes(raw, tile);
        sync<AscendC::HardEvent::MTE2_V>();
        const std::int32_t count = plan_.planes * plan_.pixels * tap_row_of(plan_);
        AscendC::Cast(wide, raw, AscendC::RoundMode::CAST_NONE, count);
        return sync<AscendC::HardEvent::V_S>();
      }
    copy_planes(wide, tile);
    sync<AscendC::HardEvent::MTE2_S>();
  }

  template <class E>
  __aicore__ inline void copy_planes(const AscendC::LocalTensor<E>& to, const Tile& tile) {
    const Geometry<std::int64_t>& q = a_->geometry;
    const std::int32_t row = tap_row_of(plan_);
    const auto offsets = tensor<E>(a_->offsets, q.n * q.ho * q.wo * q.planes * plane_);
    for (std::int32_t p = 0; p < plan_.planes; ++p)
      copy_in(to[p * plan_.pixels * row], offsets[first(tile) + p * plane_], tile.pixels, tile.taps, row,
              q.planes * plane_);
  }

  const Arguments<std::int64_t>* a_ = nullptr;
  Plan plan_;
  std::int64_t plane_ = 0;                               // elements of a plane of one pixel
  AscendC::TBuf<AscendC::TPosition::VECIN> raw_, wide_;  // [planes][pixels][tap_row]
};

// ------ Rows of channels

// A piece of a group's channels.
struct Piece {
  std::int64_t first;   // channel of the group
  std::int32_t length;  // channels
};
__aicore__ inline Piece piece_at(const Plan& plan, std::int64_t channels, std::int64_t i) {
  const std::int64_t first = i * plan.piece, left = channels - first;
  return {first, left < plan.piece ? static_cast<std::int32_t>(left) : plan.piece};
}

// Element of x, grad_x or sums at pixel (h, w).
__aicore__ inline std::int64_t pixel_at(const Geometry<std::int64_t>& q, std::int64_t n, std::int64_t h,
                                        std::int64_t w) {
  return ((n * q.h + h) * q.w + w) * q.c;
}

// A row of a tap's corners is `columns` neighbours inside the map, from first_column on.
__aicore__ inline std::int32_t columns(const Tap& t) { return t.in_w[0] + t.in_w[1]; }
__aicore__ inline std::int64_t first_column(const Tap& t) { return t.in_w[0] ? t.w0 : t.w0 + 1; }

// Rows of x to `to`, in the order of taps and corners, those inside the map. Returns how many.
template <class T>
__aicore__ inline std::int32_t fetch_corners(const Arguments<std::int64_t>& a, const Plan& plan,
                                             const Tile& tile, const Piece& piece, const Tap* taps,
                                             const AscendC::LocalTensor<T>& to) {
  const Geometry<std::int64_t>& q = a.geometry;
  const auto x = tensor<T>(a.x, q.n * q.h * q.w * q.c);
  const std::int32_t row = row_of(plan);
  std::int32_t rows = 0;
  for (std::int32_t i = 0; i < tile.pixels * tile.taps; ++i) {
    const Tap& t = taps[i];
    for (int far = 0; far < 2; ++far) {
      if (!t.in_h[far]) continue;
      copy_in(to[rows * row],
              x[pixel_at(q, tile.n, t.h0 + far, first_column(t)) + tile.g * q.channels + piece.first],
              columns(t), piece.length, row, q.c);
      rows += columns(t);
    }
  }
  return rows;
}

}  // namespace tapfield::ascend
