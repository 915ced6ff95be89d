// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/pack.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/cache_control.h>

#include "cpu/simd.h"
#include "cpu/pack.h"

#ifndef TAPFIELD_CPU_PACK_ONCE_
#define TAPFIELD_CPU_PACK_ONCE_
namespace tapfield::cpu {

// Rows so long, of so many bytes together, go past the cache.
constexpr std::int64_t kStreamedRow = 256, kStreamedBytes = 32 << 10;

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

template <class T, class F>
void WidenT(const T* HWY_RESTRICT src, std::int64_t count, F* HWY_RESTRICT dst) {
  const hn::ScalableTag<F> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(LoadT(d, src + i), d, dst + i);
  const auto rest = static_cast<std::size_t>(count - i);
  if (rest) StoreFirst(LoadN<true>(d, src + i, rest), d, dst + i, rest);
}

template <class T, class F>
void NarrowT(const F* HWY_RESTRICT src, std::int64_t count, T* HWY_RESTRICT dst) {
  const hn::ScalableTag<F> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const hn::Repartition<std::uint16_t, decltype(d)> d16;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes)
    hn::StoreU(Narrow2<T>(d, hn::LoadU(d, src + i), hn::LoadU(d, src + i + lanes)), d16,
               reinterpret_cast<std::uint16_t*>(dst + i));
  for (; i + lanes <= count; i += lanes) StoreT(hn::LoadU(d, src + i), d, dst + i);
  const auto rest = static_cast<std::size_t>(count - i);
  if (rest) StoreN<true>(LoadFirst(d, src + i, rest), d, dst + i, rest);
}

void Widen16(const void* src, DType dtype, std::int64_t count, float* dst) {
  if (dtype == DType::float16)
    WidenT(static_cast<const float16_t*>(src), count, dst);
  else
    WidenT(static_cast<const bfloat16_t*>(src), count, dst);
}

void Narrow16(const float* src, std::int64_t count, DType dtype, void* dst) {
  if (dtype == DType::float16)
    NarrowT(src, count, static_cast<float16_t*>(dst));
  else
    NarrowT(src, count, static_cast<bfloat16_t*>(dst));
}

// ------ Transposes

// v[0..M), M the lanes of a 128-bit block: transposes block by block. Each round is a perfect shuffle.
template <std::size_t kM, class D, class V>
HWY_INLINE void TransposeBlocks(D d, V* v) {
  V t[kM];
  for (std::size_t done = 1; done < kM; done *= 2) {
    for (std::size_t i = 0; i < kM / 2; ++i) {
      t[2 * i] = hn::InterleaveLower(d, v[i], v[i + kM / 2]);
      t[2 * i + 1] = hn::InterleaveUpper(d, v[i], v[i + kM / 2]);
    }
    for (std::size_t i = 0; i < kM; ++i) v[i] = t[i];
  }
}

// A square tile, N = lanes of d: rows of src become columns of dst. kPart: only `rows` rows of `columns`
// elements, and nothing else is touched.
template <bool kPart, class D, class E = hn::TFromD<D>>
HWY_INLINE void TransposeTile(D d, const E* src, std::int64_t src_stride, E* dst, std::int64_t dst_stride,
                              std::int64_t rows, std::int64_t columns) {
  constexpr std::size_t kN = hn::MaxLanes(D()), kM = 16 / sizeof(E);
  using V = hn::Vec<D>;
  V v[kN];
  const auto load = [&](std::int64_t r) HWY_ATTR {
    if (!kPart || columns == static_cast<std::int64_t>(kN)) return hn::LoadU(d, src + r * src_stride);
    return LoadFirst(d, src + r * src_stride, static_cast<std::size_t>(columns));
  };
  for (std::size_t r = 0; r < kN; ++r)
    v[r] = !kPart || static_cast<std::int64_t>(r) < rows ? load(static_cast<std::int64_t>(r)) : hn::Zero(d);
  if constexpr (kN > kM) {  // two blocks a vector
    V half[kN];
    for (std::size_t r = 0; r < kM; ++r) {
      half[r] = hn::ConcatLowerLower(d, v[r + kM], v[r]);
      half[r + kM] = hn::ConcatUpperUpper(d, v[r + kM], v[r]);
    }
    for (std::size_t r = 0; r < kN; ++r) v[r] = half[r];
    TransposeBlocks<kM>(d, v + kM);
  }
  TransposeBlocks<kM>(d, v);
  for (std::size_t c = 0; c < kN; ++c) {
    E* to = dst + static_cast<std::int64_t>(c) * dst_stride;
    if (kPart && static_cast<std::int64_t>(c) >= columns) break;
    if (kPart && rows < static_cast<std::int64_t>(kN))
      StoreFirst(v[c], d, to, static_cast<std::size_t>(rows));
    else
      hn::StoreU(v[c], d, to);
  }
}

// dst[j * dst_stride + i] = src[i * src_stride + j], i < rows, j < columns. kFarSource: src's rows lie far
// apart and go block by block, else dst's; blocks are a line wide, and the next one's lines, after the last
// those `next` elements on, are fetched meanwhile. A block of rows of one or two lines is done before lines
// arrive: there all fetched are those `next` elements on.
template <bool kFarSource, class E>
void TransposeT(const E* src, std::int64_t src_stride, std::int64_t rows, std::int64_t columns, E* dst,
                std::int64_t dst_stride, std::int64_t next) {
  const hn::CappedTag<E, 32 / sizeof(E)> d;
  constexpr std::int64_t kTile = hn::MaxLanes(hn::CappedTag<E, 32 / sizeof(E)>()), kLine = 64 / sizeof(E);
  const std::int64_t far = kFarSource ? rows : columns, near = kFarSource ? columns : rows;
  const std::int64_t far_stride = kFarSource ? src_stride : dst_stride;
  const E* far_side = kFarSource ? src : dst;
  const bool narrow = near <= 2 * kLine;
  for (std::int64_t f0 = 0; f0 < far; f0 += kLine) {
    const std::int64_t f1 = f0 + kLine < far ? f0 + kLine : far;
    const bool block = !narrow && f1 < far;
    const E* ahead = block ? far_side + f1 * far_stride : far_side + f0 * far_stride + next;
    const std::int64_t ahead_rows = block && far - f1 < kLine ? far - f1 : f1 - f0;
    for (std::int64_t n0 = 0; n0 < near; n0 += kLine) {
      const std::int64_t n1 = n0 + kLine < near ? n0 + kLine : near;
      for (std::int64_t f = 0; f < ahead_rows; ++f)
        __builtin_prefetch(ahead + f * far_stride + n0, kFarSource ? 0 : 1, 2);
      for (std::int64_t f = f0; f < f1; f += kTile)
        for (std::int64_t n = n0; n < n1; n += kTile) {
          const std::int64_t i = kFarSource ? f : n, j = kFarSource ? n : f;
          const std::int64_t r = (kFarSource ? f1 : n1) - i, c = (kFarSource ? n1 : f1) - j;
          const E* from = src + i * src_stride + j;
          E* to = dst + j * dst_stride + i;
          if (r >= kTile && c >= kTile)
            TransposeTile<false>(d, from, src_stride, to, dst_stride, kTile, kTile);
          else
            TransposeTile<true>(d, from, src_stride, to, dst_stride, r < kTile ? r : kTile,
                                c < kTile ? c : kTile);
        }
    }
  }
}

// count elements, of dst whole lines past the cache.
template <class E>
void StreamElements(const E* HWY_RESTRICT src, std::int64_t count, E* HWY_RESTRICT dst) {
  const hn::CappedTag<E, 64 / sizeof(E)> d;
  constexpr std::int64_t kLanes = hn::MaxLanes(hn::CappedTag<E, 64 / sizeof(E)>()), kLine = 64 / sizeof(E);
  const auto in_line = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(dst) % 64 / sizeof(E));
  std::int64_t i = in_line ? std::min(kLine - in_line, count) : 0;
  std::memcpy(dst, src, static_cast<std::size_t>(i) * sizeof(E));
  for (; i + kLine <= count; i += kLine)
    for (std::int64_t l = 0; l < kLine; l += kLanes) hn::Stream(hn::LoadU(d, src + i + l), d, dst + i + l);
  std::memcpy(dst + i, src + i, static_cast<std::size_t>(count - i) * sizeof(E));
}

// dst's rows lie far apart, and are written in lines past the cache, which else would be read first: a piece
// of them is transposed nearby, then copied.
template <class E>
void TransposeToStreamed(const E* src, std::int64_t src_stride, std::int64_t rows, std::int64_t columns,
                         E* dst, std::int64_t dst_stride) {
  constexpr std::int64_t kLine = 64 / sizeof(E), kPiece = 1024 / sizeof(E), kPitch = kPiece + kLine;
  E piece[kLine * kPitch];
  for (std::int64_t j0 = 0; j0 < columns; j0 += kLine) {
    // A row's first and last lines are shared with others, and so are read.
    for (std::int64_t j = j0 + kLine; j < std::min(j0 + 2 * kLine, columns); ++j) {
      __builtin_prefetch(dst + j * dst_stride, 1, 3);
      __builtin_prefetch(dst + j * dst_stride + rows - 1, 1, 3);
    }
    for (std::int64_t i0 = 0; i0 < rows; i0 += kPiece) {
      const std::int64_t r = std::min(kPiece, rows - i0), c = std::min(kLine, columns - j0);
      TransposeT<false>(src + i0 * src_stride + j0, src_stride, r, c, piece, kPitch, 0);
      for (std::int64_t j = 0; j < c; ++j)
        StreamElements(piece + j * kPitch, r, dst + (j0 + j) * dst_stride + i0);
    }
  }
  hwy::FlushStream();
}

// src's rows lie far apart, and dst is written past the cache: some of its rows are transposed nearby, then
// copied, while src's next lines are fetched.
template <class E>
void TransposeFromStreamed(const E* src, std::int64_t src_stride, std::int64_t rows, std::int64_t columns,
                           E* dst, std::int64_t dst_stride) {
  const hn::CappedTag<E, 32 / sizeof(E)> d;
  constexpr std::int64_t kTile = hn::MaxLanes(hn::CappedTag<E, 32 / sizeof(E)>()), kLine = 64 / sizeof(E),
                         kRows = 512 / sizeof(E), kAhead = 6 * kLine;
  HWY_ALIGN E piece[kLine * kRows];
  for (std::int64_t j0 = 0; j0 < columns; j0 += kLine)
    for (std::int64_t i0 = 0; i0 < rows; i0 += kRows) {
      const std::int64_t c = std::min(kLine, columns - j0), r = std::min(kRows, rows - i0);
      const E* from = src + i0 * src_stride + j0;
      for (std::int64_t i = 0; i < r; i += kTile) {
        const std::int64_t tile = std::min(kTile, r - i);
        for (std::int64_t k = i; k < i + tile; ++k) __builtin_prefetch(from + k * src_stride + kAhead, 0, 2);
        for (std::int64_t j = 0; j < c; j += kTile) {
          const E* corner = from + i * src_stride + j;
          if (tile == kTile && j + kTile <= c)
            TransposeTile<false>(d, corner, src_stride, piece + j * r + i, r, kTile, kTile);
          else
            TransposeTile<true>(d, corner, src_stride, piece + j * r + i, r, tile, std::min(kTile, c - j));
        }
      }
      E* to = dst + j0 * dst_stride + i0;
      if (r == dst_stride)
        StreamElements(piece, c * r, to);
      else
        for (std::int64_t j = 0; j < c; ++j) StreamElements(piece + j * r, r, to + j * dst_stride);
    }
  hwy::FlushStream();
}

// By size of element.
template <bool kFarSource>
void TransposeBytes(std::int64_t size, const void* src, std::int64_t src_stride, std::int64_t rows,
                    std::int64_t columns, void* dst, std::int64_t dst_stride, std::int64_t next,
                    bool past_cache) {
  const auto run = [&](auto element) HWY_ATTR {
    using E = decltype(element);
    const E* from = static_cast<const E*>(src);
    E* to = static_cast<E*>(dst);
    if (!past_cache)
      TransposeT<kFarSource>(from, src_stride, rows, columns, to, dst_stride, next);
    else if (kFarSource)
      TransposeFromStreamed(from, src_stride, rows, columns, to, dst_stride);
    else
      TransposeToStreamed(from, src_stride, rows, columns, to, dst_stride);
  };
  size == 2 ? run(std::uint16_t()) : size == 4 ? run(std::uint32_t()) : run(std::uint64_t());
}

void TransposeFrom(std::int64_t size, const void* src, std::int64_t src_stride, std::int64_t rows,
                   std::int64_t columns, void* dst, std::int64_t dst_stride, std::int64_t next,
                   bool past_cache) {
  TransposeBytes<true>(size, src, src_stride, rows, columns, dst, dst_stride, next, past_cache);
}

void TransposeTo(std::int64_t size, const void* src, std::int64_t src_stride, std::int64_t rows,
                 std::int64_t columns, void* dst, std::int64_t dst_stride, std::int64_t next) {
  const bool past_cache = rows * size >= kStreamedRow && rows * columns * size >= kStreamedBytes;
  TransposeBytes<false>(size, src, src_stride, rows, columns, dst, dst_stride, next, past_cache);
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {
namespace {

HWY_EXPORT(Widen16);
HWY_EXPORT(Narrow16);
HWY_EXPORT(TransposeFrom);
HWY_EXPORT(TransposeTo);

// Elements of sizeof(E) between a view with neither channels nor columns adjacent and adjacent channels, one
// by one, in tiles that keep both sides' lines in L1. kPack: from the view.
template <class E, bool kPack>
void copy_row(char* strided, std::int64_t stride_w, std::int64_t stride_c, std::int64_t count,
              std::int64_t channels, char* adjacent, std::int64_t pitch) {
  E* view = reinterpret_cast<E*>(strided);
  E* rows = reinterpret_cast<E*>(adjacent);
  constexpr std::int64_t kTile = 16;
  for (std::int64_t i0 = 0; i0 < count; i0 += kTile)
    for (std::int64_t c0 = 0; c0 < channels; c0 += kTile) {
      const std::int64_t i1 = i0 + kTile < count ? i0 + kTile : count,
                         c1 = c0 + kTile < channels ? c0 + kTile : channels;
      for (std::int64_t c = c0; c < c1; ++c)
        for (std::int64_t i = i0; i < i1; ++i) {
          E& a = view[i * stride_w + c * stride_c];
          E& b = rows[i * pitch + c];
          if constexpr (kPack)
            b = a;
          else
            a = b;
        }
    }
}

template <bool kPack>
void move_row(const View& v, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
              std::int64_t c0, std::int64_t c1, char* rows, std::int64_t pitch, bool past_cache,
              std::int64_t next) {
  if (next == 0) next = v.h;
  char* strided = v.at(n, h, w0, c0);
  const std::int64_t size = size_of(v.dtype);
  if (v.adjacent()) {
    for (std::int64_t i = 0; i < count; ++i) {
      char *a = strided + i * v.w * size, *b = rows + i * pitch * size;
      std::memcpy(kPack ? b : a, kPack ? a : b, static_cast<std::size_t>((c1 - c0) * size));
    }
    return;
  }
  if (v.w == 1 && kPack)
    return HWY_DYNAMIC_DISPATCH(TransposeFrom)(size, strided, v.c, c1 - c0, count, rows, pitch, next,
                                               past_cache);
  if (v.w == 1)
    return HWY_DYNAMIC_DISPATCH(TransposeTo)(size, rows, pitch, count, c1 - c0, strided, v.c, next);
  switch (size) {
    case 2: return copy_row<std::uint16_t, kPack>(strided, v.w, v.c, count, c1 - c0, rows, pitch);
    case 4: return copy_row<std::uint32_t, kPack>(strided, v.w, v.c, count, c1 - c0, rows, pitch);
    default: return copy_row<std::uint64_t, kPack>(strided, v.w, v.c, count, c1 - c0, rows, pitch);
  }
}

}  // namespace

void pack_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
              std::int64_t c0, std::int64_t c1, void* dst, std::int64_t pitch, bool past_cache,
              std::int64_t next) {
  move_row<true>(view, n, h, w0, count, c0, c1, static_cast<char*>(dst), pitch, past_cache, next);
}

void unpack_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
                std::int64_t c0, std::int64_t c1, const void* src, std::int64_t pitch) {
  move_row<false>(view, n, h, w0, count, c0, c1, static_cast<char*>(const_cast<void*>(src)), pitch, false, 0);
}

template <class F>
void load_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
              std::int64_t c0, std::int64_t c1, F* dst, std::int64_t pitch, void* buffer, std::int64_t next) {
  if (view.dtype == dtype_of<F>()) return pack_row(view, n, h, w0, count, c0, c1, dst, pitch, false, next);
  const std::int64_t channels = c1 - c0;
  pack_row(view, n, h, w0, count, c0, c1, buffer, channels, false, next);
  const auto* packed = static_cast<const std::uint16_t*>(buffer);
  if (pitch == channels) return widen(packed, view.dtype, count * channels, dst);
  for (std::int64_t i = 0; i < count; ++i)
    widen(packed + i * channels, view.dtype, channels, dst + i * pitch);
}

template <class F>
void store_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
               std::int64_t c0, std::int64_t c1, const F* src, std::int64_t pitch, void* buffer) {
  if (view.dtype == dtype_of<F>()) return unpack_row(view, n, h, w0, count, c0, c1, src, pitch);
  const std::int64_t channels = c1 - c0;
  auto* packed = static_cast<std::uint16_t*>(buffer);
  if (pitch == channels)
    narrow(src, count * channels, view.dtype, packed);
  else
    for (std::int64_t i = 0; i < count; ++i)
      narrow(src + i * pitch, channels, view.dtype, packed + i * channels);
  unpack_row(view, n, h, w0, count, c0, c1, packed, channels);
}

template <class F>
void widen(const void* src, DType dtype, std::int64_t count, F* dst) {
  if constexpr (sizeof(F) == 4)
    if (is_16bit(dtype)) return HWY_DYNAMIC_DISPATCH(Widen16)(src, dtype, count, dst);
  std::memcpy(dst, src, static_cast<std::size_t>(count) * sizeof(F));
}

template <class F>
void narrow(const F* src, std::int64_t count, DType dtype, void* dst) {
  if constexpr (sizeof(F) == 4)
    if (is_16bit(dtype)) return HWY_DYNAMIC_DISPATCH(Narrow16)(src, count, dtype, dst);
  std::memcpy(dst, src, static_cast<std::size_t>(count) * sizeof(F));
}

#define TAPFIELD_INSTANTIATE(F)                                                                              \
  template void load_row(const View&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,  \
                         std::int64_t, F*, std::int64_t, void*, std::int64_t);                               \
  template void store_row(const View&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, \
                          std::int64_t, const F*, std::int64_t, void*);                                      \
  template void widen(const void*, DType, std::int64_t, F*);                                                 \
  template void narrow(const F*, std::int64_t, DType, void*);
TAPFIELD_INSTANTIATE(float)
TAPFIELD_INSTANTIATE(double)
#undef TAPFIELD_INSTANTIATE

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
