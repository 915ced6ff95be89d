// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/pack.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/simd.h"
#include "cpu/pack.h"

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
  std::int64_t i = 0;
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

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {
namespace {

HWY_EXPORT(Widen16);
HWY_EXPORT(Narrow16);

// Elements of sizeof(E) between a strided view and adjacent channels; kPack: from the view. The longer walk
// is the inner one where it is the view's adjacent one, in tiles that keep both sides' lines in L1.
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
              std::int64_t c0, std::int64_t c1, char* rows, std::int64_t pitch) {
  char* strided = v.at(n, h, w0, c0);
  const std::int64_t size = size_of(v.dtype);
  if (v.adjacent()) {
    for (std::int64_t i = 0; i < count; ++i) {
      char *a = strided + i * v.w * size, *b = rows + i * pitch * size;
      std::memcpy(kPack ? b : a, kPack ? a : b, static_cast<std::size_t>((c1 - c0) * size));
    }
    return;
  }
  switch (size) {
    case 2: return copy_row<std::uint16_t, kPack>(strided, v.w, v.c, count, c1 - c0, rows, pitch);
    case 4: return copy_row<std::uint32_t, kPack>(strided, v.w, v.c, count, c1 - c0, rows, pitch);
    default: return copy_row<std::uint64_t, kPack>(strided, v.w, v.c, count, c1 - c0, rows, pitch);
  }
}

}  // namespace

void pack_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
              std::int64_t c0, std::int64_t c1, void* dst, std::int64_t pitch) {
  move_row<true>(view, n, h, w0, count, c0, c1, static_cast<char*>(dst), pitch);
}

void unpack_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
                std::int64_t c0, std::int64_t c1, const void* src, std::int64_t pitch) {
  move_row<false>(view, n, h, w0, count, c0, c1, static_cast<char*>(const_cast<void*>(src)), pitch);
}

template <class F>
void load_row(const View& view, std::int64_t n, std::int64_t h, std::int64_t w0, std::int64_t count,
              std::int64_t c0, std::int64_t c1, F* dst, std::int64_t pitch, void* buffer) {
  if (view.dtype == dtype_of<F>()) return pack_row(view, n, h, w0, count, c0, c1, dst, pitch);
  const std::int64_t channels = c1 - c0;
  pack_row(view, n, h, w0, count, c0, c1, buffer, channels);
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
                         std::int64_t, F*, std::int64_t, void*);                                             \
  template void store_row(const View&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, \
                          std::int64_t, const F*, std::int64_t, void*);                                      \
  template void widen(const void*, DType, std::int64_t, F*);                                                 \
  template void narrow(const F*, std::int64_t, DType, void*);
TAPFIELD_INSTANTIATE(float)
TAPFIELD_INSTANTIATE(double)
#undef TAPFIELD_INSTANTIATE

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
