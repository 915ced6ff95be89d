// SPDX-License-Identifier: Apache-2.0
// The channel loops of the forward: corners to y, for groups of any size, and for those of 1, 2, 4 and 8
// channels. S: the type of x, or of its copy; T: of y. Included once per target.
#if defined(TAPFIELD_CPU_BLEND_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPFIELD_CPU_BLEND_H_
#undef TAPFIELD_CPU_BLEND_H_
#else
#define TAPFIELD_CPU_BLEND_H_
#endif

#include <limits>

#include "cpu/cells.h"
#include "cpu/simd.h"

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// How a group's channels fill vectors: kOne, one narrower vector; kExact, whole vectors; kTails, any number;
// kGather, one channel, so that a vector is as many taps.
enum Kind { kOne, kExact, kTails, kGather };

template <bool kTail, class S, class D, class V>
HWY_INLINE V BlendVector(D d, const S* p00, const S* p01, const S* p10, const S* p11, V w00, V w01, V w10,
                         V w11, std::size_t n) {
  auto sum = hn::Mul(w00, LoadN<kTail>(d, p00, n));
  sum = hn::MulAdd(w01, LoadN<kTail>(d, p01, n), sum);
  sum = hn::MulAdd(w10, LoadN<kTail>(d, p10, n), sum);
  return hn::MulAdd(w11, LoadN<kTail>(d, p11, n), sum);
}

template <bool kStream, class T, class D>
HWY_INLINE void Put(D d, hn::Vec<D> v, T* y) {
  const hn::Rebind<Bits<T>, D> db;
  if constexpr (kStream && sizeof(T) * hn::MaxLanes(D()) >= 16)
    hn::Stream(Narrow<T>(d, v), db, reinterpret_cast<Bits<T>*>(y));
  else
    hn::StoreU(Narrow<T>(d, v), db, reinterpret_cast<Bits<T>*>(y));
}

// Two neighbours.
template <bool kStream, class T, class D>
HWY_INLINE void Put2(D d, hn::Vec<D> a, hn::Vec<D> b, T* y) {
  if constexpr (sizeof(T) == 2) {
    const hn::Repartition<std::uint16_t, D> d16;
    const auto both = Narrow2<T>(d, a, b);
    if constexpr (kStream && sizeof(T) * hn::MaxLanes(d16) >= 16)
      hn::Stream(both, d16, reinterpret_cast<std::uint16_t*>(y));
    else
      hn::StoreU(both, d16, reinterpret_cast<std::uint16_t*>(y));
  } else {
    Put<kStream>(d, a, y), Put<kStream>(d, b, y + hn::MaxLanes(D()));
  }
}

// Corner 00 of a tap, dead ones at `zeros`: by a table, for a branch would be mispredicted.
template <class S, class At>
HWY_INLINE const S* Corner(const S* x, At at, const std::int64_t* dead_shift) {
  return x + at + dead_shift[at == std::numeric_limits<At>::min()];
}

template <bool kInterior, bool kStream, std::size_t kLanes, class S, class T, class At, class F = Compute<T>>
HWY_INLINE void BlendOne(const Cells<F, At>& cells, const S* x, const Grid& grid,
                         const std::int64_t* dead_shift, std::int64_t k, std::int64_t lanes,
                         std::int64_t taps, T* HWY_RESTRICT y) {
  const hn::CappedTag<F, kLanes> d;
  const At *HWY_RESTRICT at = cells.at, *HWY_RESTRICT right = cells.right, *HWY_RESTRICT down = cells.down;
  const F *HWY_RESTRICT w0 = cells.weights[0], *HWY_RESTRICT w1 = cells.weights[1],
                        *HWY_RESTRICT w2 = cells.weights[2], *HWY_RESTRICT w3 = cells.weights[3];
  const S *x01 = x + grid.w_stride, *x10 = x + grid.h_stride, *x11 = x10 + grid.w_stride;
  const auto blend = [&](std::int64_t l) HWY_ATTR {
    const auto w00 = hn::Set(d, w0[l]), w01 = hn::Set(d, w1[l]), w10 = hn::Set(d, w2[l]),
               w11 = hn::Set(d, w3[l]);
    const std::int64_t a = at[l];
    if constexpr (kInterior) {
      return BlendVector<false>(d, x + a, x01 + a, x10 + a, x11 + a, w00, w01, w10, w11, 0);
    } else {
      const S* p00 = Corner(x, at[l], dead_shift);
      const S* p10 = p00 + down[l];
      const std::int64_t r = right[l];
      return BlendVector<false>(d, p00, p00 + r, p10, p10 + r, w00, w01, w10, w11, 0);
    }
  };
  std::int64_t l = k;
  for (; l + taps < lanes; l += 2 * taps, y += 2 * kLanes) Put2<kStream>(d, blend(l), blend(l + taps), y);
  if (l < lanes) Put<kStream>(d, blend(l), y);
}

template <Kind kKind, bool kInterior, bool kStream, class S, class T, class At, class F = Compute<T>>
HWY_INLINE void BlendRow(const Cells<F, At>& cells, const S* x, const Grid& grid,
                         const std::int64_t* dead_shift, std::int64_t l, std::int64_t channels,
                         T* HWY_RESTRICT y) {
  const hn::ScalableTag<F> d;
  const auto vector = static_cast<std::int64_t>(hn::Lanes(d));
  const auto w00 = hn::Set(d, cells.weights[0][l]), w01 = hn::Set(d, cells.weights[1][l]),
             w10 = hn::Set(d, cells.weights[2][l]), w11 = hn::Set(d, cells.weights[3][l]);
  const S* p00 = kInterior ? x + cells.at[l] : Corner(x, cells.at[l], dead_shift);
  const std::int64_t r = kInterior ? grid.w_stride : cells.right[l];
  const S* p10 = p00 + (kInterior ? grid.h_stride : cells.down[l]);
  const auto blend = [&](std::int64_t c) HWY_ATTR {
    return BlendVector<false>(d, p00 + c, p00 + r + c, p10 + c, p10 + r + c, w00, w01, w10, w11, 0);
  };
  std::int64_t c = 0;
  for (; c + 2 * vector <= channels; c += 2 * vector) Put2<kStream>(d, blend(c), blend(c + vector), y + c);
  for (; c + vector <= channels; c += vector) Put<kStream>(d, blend(c), y + c);
  if (kKind == kTails && c < channels) {
    const auto n = static_cast<std::size_t>(channels - c);
    StoreN<true>(BlendVector<true>(d, p00 + c, p00 + r + c, p10 + c, p10 + r + c, w00, w01, w10, w11, n), d,
                 y + c, n);
  }
}

// One channel a group: a vector is as many taps, its corners gathered.
template <bool kInterior, class F>
HWY_INLINE void GatherPixel(const Cells<F, std::int32_t>& cells, const F* x, const Grid& grid,
                            std::int64_t lanes, F* HWY_RESTRICT sums) {
  const hn::ScalableTag<F> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const hn::RebindToSigned<decltype(d)> ds;
  const auto index = [&](const std::int32_t* from) HWY_ATTR {
    if constexpr (sizeof(F) == 4)
      return hn::Load(di, from);
    else
      return hn::PromoteTo(ds, hn::Load(di, from));
  };
  const F *x01 = x + grid.w_stride, *x10 = x + grid.h_stride, *x11 = x10 + grid.w_stride;
  for (std::int64_t l = 0; l < lanes; l += static_cast<std::int64_t>(hn::Lanes(d))) {
    auto at = index(cells.at + l);
    [[maybe_unused]] auto live = hn::FirstN(ds, 0);
    hn::Vec<decltype(d)> v00, v01, v10, v11;
    if constexpr (kInterior) {
      v00 = hn::GatherIndex(d, x, at), v01 = hn::GatherIndex(d, x01, at);
      v10 = hn::GatherIndex(d, x10, at), v11 = hn::GatherIndex(d, x11, at);
    } else {
      live = hn::Ne(at, hn::Set(ds, std::numeric_limits<std::int32_t>::min()));
      at = hn::IfThenElseZero(live, at);
      const auto right = index(cells.right + l), down = hn::Add(at, index(cells.down + l));
      v00 = hn::GatherIndex(d, x, at), v01 = hn::GatherIndex(d, x, hn::Add(at, right));
      v10 = hn::GatherIndex(d, x, down), v11 = hn::GatherIndex(d, x, hn::Add(down, right));
    }
    auto sum = hn::Mul(hn::Load(d, cells.weights[0] + l), v00);
    sum = hn::MulAdd(hn::Load(d, cells.weights[1] + l), v01, sum);
    sum = hn::MulAdd(hn::Load(d, cells.weights[2] + l), v10, sum);
    sum = hn::MulAdd(hn::Load(d, cells.weights[3] + l), v11, sum);
    if (!kInterior) sum = hn::IfThenElseZero(hn::RebindMask(d, live), sum);
    hn::Store(sum, d, sums + l);
  }
}

// sums [groups][taps] to rows of y.
template <bool kStream, class T, class F = Compute<T>>
HWY_INLINE void TransposeTaps(const F* sums, std::int64_t groups, std::int64_t taps, std::int64_t k, T* y) {
  const hn::ScalableTag<F> d;
  const hn::RebindToSigned<decltype(d)> ds;
  using S = hn::TFromD<decltype(ds)>;
  const auto vector = static_cast<std::int64_t>(hn::Lanes(d));
  HWY_ALIGN S steps[hn::MaxLanes(ds)];
  for (std::size_t j = 0; j < hn::MaxLanes(ds); ++j)
    steps[j] = static_cast<S>(static_cast<std::int64_t>(j) * taps);
  const auto index = hn::Load(ds, steps);
  std::int64_t g = 0;
  for (; g + vector <= groups; g += vector)
    Put<kStream>(d, hn::GatherIndex(d, sums + g * taps + k, index), y + g);
  if (g < groups)
    StoreN<true>(hn::GatherIndex(d, sums + g * taps + k, index), d, y + g,
                 static_cast<std::size_t>(groups - g));
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
