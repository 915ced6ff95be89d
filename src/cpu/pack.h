// SPDX-License-Identifier: Apache-2.0
// Rows of any view to and from rows whose channels lie side by side: the one path for tensors whose channels
// are not adjacent (NCHW above all) and for converting dtypes. Row by row, so that it can run on any number
// of threads.
#pragma once

#include "problem.h"

namespace tapfield::cpu {

// Pixels of a cache line of a float32 plane: planes are read and written in such pieces where they can be.
constexpr std::int64_t kLinePixels = 16;

// dst[i * pitch + c - c0] = view(n, h, w0 + i, c) for i in [0, count) and c in [c0, c1), in the view's own
// dtype. past_cache: dst is written past the cache, if it can be, as it is not read soon. next: what is
// wanted soon lies so many elements on, 0: in the row below; of planes its lines are fetched meanwhile.
void pack_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
              std::int64_t c0, std::int64_t c1, void* dst, std::int64_t pitch, bool past_cache = false,
              std::int64_t next = 0);

// The other way.
void unpack_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
                std::int64_t c0, std::int64_t c1, const void* src, std::int64_t pitch);

// The same with conversion: F is the type computed in (float; double for float64 views). `buffer` has room
// for count * (c1 - c0) elements.
template <class F>
void load_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
              std::int64_t c0, std::int64_t c1, F* dst, std::int64_t pitch, void* buffer,
              std::int64_t next = 0);
template <class F>
void store_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
               std::int64_t c0, std::int64_t c1, const F* src, std::int64_t pitch, void* buffer);

// Calls visit(row, first, taps) for the evenly spaced stretches of the taps (kh, 0 .. taps_w - 1) of `count`
// output pixels: row is `view` from the first of them on.
template <class Visit>
void for_tap_rows(const View& view, std::int64_t taps_w, std::int64_t n, std::int64_t ho, std::int64_t kh,
                  std::int64_t wo0, std::int64_t count, const Visit& visit) {
  const bool even = view.wo == taps_w * view.w;  // all of them
  View row = view;
  for (std::int64_t i = 0; i < (even ? 1 : count); ++i) {
    row.data = view.tap(n, ho, kh, wo0 + i, 0, 0);
    visit(row, i * taps_w, even ? count * taps_w : taps_w);
  }
}

// load_row of the taps (kh, 0 .. taps_w - 1) of `count` output pixels, of y, grad or grad_grad; and the other
// way.
template <class F>
void load_taps(const View& view, std::int64_t taps_w, std::int64_t n, std::int64_t ho, std::int64_t kh,
               std::int64_t wo0, std::int64_t count, std::int64_t c0, std::int64_t c1, F* dst,
               std::int64_t pitch, void* buffer) {
  for_tap_rows(view, taps_w, n, ho, kh, wo0, count,
               [&](const View& row, std::int64_t first, std::int64_t taps) {
                 load_row(row, 0, 0, 0, taps, c0, c1, dst + first * pitch, pitch, buffer);
               });
}
template <class F>
void store_taps(const View& view, std::int64_t taps_w, std::int64_t n, std::int64_t ho, std::int64_t kh,
                std::int64_t wo0, std::int64_t count, std::int64_t c0, std::int64_t c1, const F* src,
                std::int64_t pitch, void* buffer) {
  for_tap_rows(view, taps_w, n, ho, kh, wo0, count,
               [&](const View& row, std::int64_t first, std::int64_t taps) {
                 store_row(row, 0, 0, 0, taps, c0, c1, src + first * pitch, pitch, buffer);
               });
}

// count elements of `dtype` to F and back, rounding to nearest even. F as above.
template <class F>
void widen(const void* src, DType dtype, std::int64_t count, F* dst);
template <class F>
void narrow(const F* src, std::int64_t count, DType dtype, void* dst);

template <class F>
constexpr DType dtype_of() {
  return sizeof(F) == 4 ? DType::float32 : DType::float64;
}

// Is the view's memory as kernels read it: channels adjacent and of type F?
template <class F>
bool plain(const View& view) {
  return view.adjacent() && view.dtype == dtype_of<F>();
}

// Channels a block when tensors must be packed: at most 35% of C where C allows it, so that a packed image of
// grad stays within 35% of grad; whole vectors of 16 where possible, and about as many in each block.
inline std::int64_t channel_block(std::int64_t c) {
  const std::int64_t most = c * 35 / 100 / 16 * 16;
  if (!most) return (c + 2) / 3;
  const std::int64_t blocks = (c + most - 1) / most;
  return ((c + blocks - 1) / blocks + 15) / 16 * 16;
}

}  // namespace tapfield::cpu
