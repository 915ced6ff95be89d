// SPDX-License-Identifier: Apache-2.0
// How the channel loops reach memory: the corner rows of a tap in an image whose channels are adjacent, in
// place or packed.
#pragma once

#include "execution.h"
#include "pack.h"
#include "problem.h"

namespace tapfield::cpu {

// One image, or a block of its channels: element (h, w, c) at data[h * h_stride + w * w_stride + c].
template <class E>
struct Image {
  E* data = nullptr;
  std::int64_t h_stride = 0, w_stride = 0;

  E* at(std::int64_t h, std::int64_t w) const { return data + h * h_stride + w * w_stride; }
};

template <class E>
Image<E> image_in_place(const View& v, std::int64_t n) {
  return {reinterpret_cast<E*>(v.at(n, 0, 0, 0)), v.h, v.w};
}

// The four corner rows of a live cell, first channel `c`; `outside` (as many channels of zeros) where the map
// ends.
template <class E>
struct CornerRows {
  E *p00, *p01, *p10, *p11;

  explicit CornerRows(E* all) : p00(all), p01(all), p10(all), p11(all) {}
  CornerRows(const Image<E>& image, std::int64_t h, std::int64_t w, std::int32_t h0, std::int32_t w0,
             std::int64_t c, E* outside) {
    const bool top = h0 >= 0, bottom = h0 + 1 < h, left = w0 >= 0, right = w0 + 1 < w;
    E* p = image.data + h0 * image.h_stride + w0 * image.w_stride + c;
    p00 = top && left ? p : outside;
    p01 = top && right ? p + image.w_stride : outside;
    p10 = bottom && left ? p + image.h_stride : outside;
    p11 = bottom && right ? p + image.h_stride + image.w_stride : outside;
  }
};

// An image of so many bytes does not stay in cache until it is read, if it is not read at once.
constexpr std::int64_t kPastCache = 2 << 20;

// Packs channels [c0, c1) of rows [0, rows) of image n of `view` to dst: [rows][columns][pitch], in the
// view's dtype. soon: it is read at once.
inline void pack_image(const Workers& workers, const View& view, std::int64_t n, std::int64_t rows,
                       std::int64_t columns, std::int64_t c0, std::int64_t c1, void* dst, std::int64_t pitch,
                       bool soon = true) {
  char* to = static_cast<char*>(dst);
  const std::int64_t row_bytes = columns * pitch * size_of(view.dtype);
  const bool past_cache = !soon && rows * row_bytes >= kPastCache;
  workers.run(rows, [&](std::int64_t h, int) {
    pack_row(view, n, h, 0, columns, c0, c1, to + h * row_bytes, pitch, past_cache);
  });
}

// The same, converted to F. `buffer`: for each slot, room for columns * (c1 - c0) elements of 16 bits.
template <class F>
void load_image(const Workers& workers, const View& view, std::int64_t n, std::int64_t rows,
                std::int64_t columns, std::int64_t c0, std::int64_t c1, F* dst, std::int64_t pitch,
                std::uint16_t* buffer) {
  const std::int64_t room = columns * (c1 - c0);
  workers.run(rows, [&](std::int64_t h, int slot) {
    load_row(view, n, h, 0, columns, c0, c1, dst + h * columns * pitch, pitch, buffer + slot * room);
  });
}

// Converts and unpacks channels [c0, c1) of an image of sums, [rows][columns][pitch], to `view`.
// `buffer`: for each slot, room for columns * (c1 - c0) elements of 16 bits.
template <class F>
void store_image(const Workers& workers, const View& view, std::int64_t n, std::int64_t rows,
                 std::int64_t columns, std::int64_t c0, std::int64_t c1, const F* src, std::int64_t pitch,
                 std::uint16_t* buffer) {
  const std::int64_t room = columns * (c1 - c0);
  workers.run(rows, [&](std::int64_t h, int slot) {
    store_row(view, n, h, 0, columns, c0, c1, src + h * columns * pitch, pitch, buffer + slot * room);
  });
}

}  // namespace tapfield::cpu
