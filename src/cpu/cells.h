// SPDX-License-Identifier: Apache-2.0
// The geometry of the forward: a pixel's offsets to addresses and weights, in one pass over its lanes. Bit
// for bit math.h where a tap is live. Included once per target.
#if defined(TAPFIELD_CPU_CELLS_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPFIELD_CPU_CELLS_H_
#undef TAPFIELD_CPU_CELLS_H_
#else
#define TAPFIELD_CPU_CELLS_H_
#endif

#include <hwy/cache_control.h>

#include <limits>

#include "cpu/position.h"
#include "execution.h"
#include "problem.h"

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

inline std::int64_t room_for(std::int64_t lanes) { return (lanes + 15) / 16 * 16; }

// The taps of one output pixel, lane by lane. A corner outside the map is moved onto its neighbour inside,
// which the same tap reads anyway, and weighs 0: no corner needs a branch, and Inf and NaN spread as they
// should.
template <class F, class At>
struct Cells {
  static constexpr At kDead = std::numeric_limits<At>::min();
  At* at;            // elements from the image's first to corner 00 of the group's first channel; or kDead
  At *right, *down;  // elements from there to corners 01 and 10, or 0; not written if `interior`
  F* weights[4];     // m b00, m b01, m b10, m b11
  bool interior = false;  // all taps live, all corners inside

  Cells(Carver& carver, std::int64_t lanes) {
    const std::int64_t room = room_for(lanes);
    at = carver.take<At>(room), right = carver.take<At>(room), down = carver.take<At>(room);
    for (F*& w : weights) w = carver.take<F>(room);
  }
};

// Where a lane stands beside its pixel, and its group's first channel: [lanes], padded with the last.
struct LaneTable {
  std::int32_t *h, *w, *c;

  LaneTable(Carver& carver, std::int64_t lanes) {
    for (std::int32_t** a : {&h, &w, &c}) *a = carver.take<std::int32_t>(room_for(lanes));
  }
  void fill(const Problem& p) const {
    for (std::int64_t l = 0; l < room_for(p.lanes()); ++l) {
      const std::int64_t k = l < p.lanes() ? l : p.lanes() - 1;
      h[l] = static_cast<std::int32_t>(k / p.kw % p.kh * p.dil_h);
      w[l] = static_cast<std::int32_t>(k % p.kw * p.dil_w);
      c[l] = static_cast<std::int32_t>(k / p.taps() * p.group_channels());
    }
  }
};

// An image in place or packed, as addresses need it.
struct Grid {
  std::int64_t h, w;                // pixels
  std::int64_t h_stride, w_stride;  // elements
  bool closed;
};

// ------ Narrow: an image of fewer than 2^31 elements, padded sides below kNarrowSide

constexpr std::int64_t kNarrowSide = 1 << 21;

// Positions and addresses are computed in these integers.
template <class F>
using Whole = std::conditional_t<sizeof(F) == 4, std::int32_t, double>;

// base + table + floor. For float: adding 1.5 * 2^23 leaves the integer in the low bits, exactly for all
// positions between -2^22 and 2^22. Whatever lies further out stays out of [-1, kNarrowSide): bits of
// positive floats are in the order of the floats, those of negative ones and of NaNs are larger than any side
// or far below -1.
HWY_INLINE hn::Vec<hn::ScalableTag<std::int32_t>> PlaceOf(hn::Vec<hn::ScalableTag<float>> floor,
                                                          std::int64_t base, const std::int32_t* table) {
  const hn::ScalableTag<float> d;
  const hn::ScalableTag<std::int32_t> di;
  const auto shifted = hn::Add(floor, hn::Set(d, 0x1.8p23f + static_cast<float>(base)));
  return hn::Add(hn::BitCast(di, shifted), hn::Sub(hn::Load(di, table), hn::Set(di, 0x4B400000)));
}
HWY_INLINE hn::Vec<hn::ScalableTag<double>> PlaceOf(hn::Vec<hn::ScalableTag<double>> floor, std::int64_t base,
                                                    const std::int32_t* table) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const auto fixed = hn::Add(hn::PromoteTo(d, hn::Load(di, table)), hn::Set(d, static_cast<double>(base)));
  return hn::Add(floor, fixed);
}

// 0 <= v < size.
template <class D, class V>
HWY_INLINE hn::Mask<D> Within(D d, V v, std::int64_t size) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    const hn::RebindToUnsigned<D> du;
    return hn::RebindMask(d, hn::Lt(hn::BitCast(du, v), hn::Set(du, static_cast<std::uint32_t>(size))));
  } else {
    return hn::And(hn::Ge(v, hn::Zero(d)), hn::Lt(v, hn::Set(d, static_cast<double>(size))));
  }
}

template <class D, class V>
HWY_INLINE void StoreAt(D d, V v, std::int32_t* at) {
  if constexpr (sizeof(hn::TFromD<D>) == 4)
    hn::Store(v, d, at);
  else
    hn::Store(hn::DemoteTo(hn::Rebind<std::int32_t, D>(), v), hn::Rebind<std::int32_t, D>(), at);
}

// One vector of lanes. kInterior: fills in `at` and `weights` and says whether all its taps are interior; if
// not, what it filled in is of no use.
template <bool kInterior, bool kTail, class O, class F = Compute<O>>
HWY_INLINE bool LocateVector(const Grid& grid, const LaneTable& t, std::int64_t base_h, std::int64_t base_w,
                             const O* const offsets[3], std::int64_t l, std::size_t rest,
                             const Cells<F, std::int32_t>& cells) {
  using W = Whole<F>;
  const hn::ScalableTag<F> d;
  const hn::ScalableTag<W> dw;
  const auto o_w = LoadN<kTail>(d, offsets[0] + l, rest), o_h = LoadN<kTail>(d, offsets[1] + l, rest);
  const auto one = hn::Set(d, F{1});
  auto m = offsets[2] ? LoadN<kTail>(d, offsets[2] + l, rest) : one;
  const auto floor_h = hn::Floor(o_h), floor_w = hn::Floor(o_w);
  auto h = PlaceOf(floor_h, base_h, t.h + l), w = PlaceOf(floor_w, base_w, t.w + l);
  auto lh = hn::Sub(o_h, floor_h), lw = hn::Sub(o_w, floor_w);
  auto hh = hn::Sub(hn::Add(floor_h, one), o_h), hw = hn::Sub(hn::Add(floor_w, one), o_w);
  const auto h_stride = hn::Set(dw, static_cast<W>(grid.h_stride)),
             w_stride = hn::Set(dw, static_cast<W>(grid.w_stride));
  bool interior = false;
  [[maybe_unused]] auto live = hn::FirstN(dw, rest);
  if constexpr (kInterior) {
    auto inside = hn::And(Within(dw, h, grid.h - 1), Within(dw, w, grid.w - 1));
    if (kTail) inside = hn::Or(inside, hn::Not(hn::FirstN(dw, rest)));
    interior = hn::AllTrue(dw, inside);
  } else {
    const auto zero = hn::Zero(dw), unit = hn::Set(dw, W{1});
    const auto h1 = hn::Add(h, unit), w1 = hn::Add(w, unit);
    auto in = hn::And(Within(dw, h1, grid.h + 1), Within(dw, w1, grid.w + 1));
    if (kTail) in = hn::And(in, live);
    const auto top = hn::Gt(h1, zero), left = hn::Gt(w1, zero);
    if (!grid.closed) {
      const auto enters_h = hn::RebindMask(dw, hn::Gt(lh, hn::Zero(d))),
                 enters_w = hn::RebindMask(dw, hn::Gt(lw, hn::Zero(d)));
      in = hn::And(in, hn::And(hn::Or(top, enters_h), hn::Or(left, enters_w)));
    }
    live = in;
    const auto bottom = hn::Lt(h1, hn::Set(dw, static_cast<W>(grid.h))),
               right = hn::Lt(w1, hn::Set(dw, static_cast<W>(grid.w)));
    StoreAt(dw, hn::IfThenElseZero(hn::And(live, hn::And(top, bottom)), h_stride), cells.down + l);
    StoreAt(dw, hn::IfThenElseZero(hn::And(live, hn::And(left, right)), w_stride), cells.right + l);
    h = hn::Max(h, zero), w = hn::Max(w, zero);
    m = hn::IfThenElseZero(hn::RebindMask(d, live), m);
    hh = hn::IfThenElseZero(hn::RebindMask(d, hn::And(live, top)), hh);
    lh = hn::IfThenElseZero(hn::RebindMask(d, hn::And(live, bottom)), lh);
    hw = hn::IfThenElseZero(hn::RebindMask(d, hn::And(live, left)), hw);
    lw = hn::IfThenElseZero(hn::RebindMask(d, hn::And(live, right)), lw);
  }
  auto first = [&] {
    if constexpr (sizeof(F) == 4)
      return hn::Load(dw, t.c + l);
    else
      return hn::PromoteTo(dw, hn::Load(hn::Rebind<std::int32_t, decltype(dw)>(), t.c + l));
  }();
  auto at = hn::Add(hn::Mul(h, h_stride), hn::Add(hn::Mul(w, w_stride), first));
  if constexpr (!kInterior)
    at = hn::IfThenElse(live, at, hn::Set(dw, static_cast<W>(Cells<F, std::int32_t>::kDead)));
  else if constexpr (kTail)
    at = hn::IfThenElseZero(hn::FirstN(dw, rest), at);  // gathers also read the lanes past the last
  StoreAt(dw, at, cells.at + l);
  const auto mhh = hn::Mul(m, hh), mlh = hn::Mul(m, lh);
  hn::Store(hn::Mul(mhh, hw), d, cells.weights[0] + l);
  hn::Store(hn::Mul(mhh, lw), d, cells.weights[1] + l);
  hn::Store(hn::Mul(mlh, hw), d, cells.weights[2] + l);
  hn::Store(hn::Mul(mlh, lw), d, cells.weights[3] + l);
  return interior;
}

// Locates the taps of one pixel. offsets: its lanes in each plane, the third null if there is none; what lies
// `ahead` of them is fetched.
template <class O, class F = Compute<O>>
HWY_INLINE void LocatePixel(const Problem& p, const Grid& grid, const LaneTable& t, std::int64_t ho,
                            std::int64_t wo, const O* const offsets[3], std::int64_t ahead,
                            Cells<F, std::int32_t>& cells) {
  const auto vector = static_cast<std::int64_t>(hn::Lanes(hn::ScalableTag<F>()));
  const std::int64_t lanes = p.lanes(), whole = lanes / vector * vector;
  const std::int64_t base_h = p.base_h(ho, 0), base_w = p.base_w(wo, 0);
  const auto rest = static_cast<std::size_t>(lanes - whole);
  bool interior = grid.h > 1 && grid.w > 1;
  if (interior) {
    for (std::int64_t l = 0; l < whole; l += vector) {
      for (std::int64_t q = 0; q < p.planes(); ++q) hwy::Prefetch(offsets[q] + l + ahead);
      interior &= LocateVector<true, false>(grid, t, base_h, base_w, offsets, l, 0, cells);
    }
    if (rest) {
      for (std::int64_t q = 0; q < p.planes(); ++q) hwy::Prefetch(offsets[q] + whole + ahead);
      interior &= LocateVector<true, true>(grid, t, base_h, base_w, offsets, whole, rest, cells);
    }
  }
  cells.interior = interior;
  if (interior) return;
  for (std::int64_t l = 0; l < whole; l += vector)
    LocateVector<false, false>(grid, t, base_h, base_w, offsets, l, 0, cells);
  if (rest) LocateVector<false, true>(grid, t, base_h, base_w, offsets, whole, rest, cells);
}

// ------ Wide: anything else that too_wide lets through

template <class O, class F = Compute<O>>
void LocatePixel(const Problem& p, const Grid& grid, const LaneTable& t, std::int64_t ho, std::int64_t wo,
                 const O* const offsets[3], std::int64_t, Cells<F, std::int64_t>& cells) {
  const hn::ScalableTag<F> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const auto vector = static_cast<std::int64_t>(hn::Lanes(d));
  HWY_ALIGN F hh[hn::MaxLanes(d)], lh[hn::MaxLanes(d)], hw[hn::MaxLanes(d)], lw[hn::MaxLanes(d)],
      m[hn::MaxLanes(d)];
  HWY_ALIGN std::int32_t h0[hn::MaxLanes(d)], w0[hn::MaxLanes(d)], alive[hn::MaxLanes(d)];
  cells.interior = false;
  for (std::int64_t l = 0; l < p.lanes(); l += vector) {
    const auto rest = static_cast<std::size_t>(p.lanes() - l);
    const auto load = [&](const O* from) HWY_ATTR {
      return rest < hn::Lanes(d) ? LoadN<true>(d, from + l, rest) : LoadN<false>(d, from + l, 0);
    };
    const auto base_h =
                   hn::Add(hn::Set(di, static_cast<std::int32_t>(p.base_h(ho, 0))), hn::Load(di, t.h + l)),
               base_w =
                   hn::Add(hn::Set(di, static_cast<std::int32_t>(p.base_w(wo, 0))), hn::Load(di, t.w + l));
    const auto h = Locate<F>(load(offsets[1]), base_h, grid.h, grid.closed),
               w = Locate<F>(load(offsets[0]), base_w, grid.w, grid.closed);
    hn::Store(h.complement, d, hh), hn::Store(h.fraction, d, lh), hn::Store(h.cell, di, h0);
    hn::Store(w.complement, d, hw), hn::Store(w.fraction, d, lw), hn::Store(w.cell, di, w0);
    hn::Store(offsets[2] ? load(offsets[2]) : hn::Set(d, F{1}), d, m);
    hn::Store(IfLive<F>(hn::And(h.live, w.live), hn::Set(di, 1), 0, di), di, alive);
    for (std::size_t j = 0; j < hn::Lanes(d) && j < rest; ++j) {
      const auto i = static_cast<std::size_t>(l) + j;
      const bool live = alive[j], top = live && h0[j] >= 0, left = live && w0[j] >= 0,
                 bottom = live && h0[j] + 1 < grid.h, right = live && w0[j] + 1 < grid.w;
      cells.at[i] = live ? (top ? h0[j] : 0) * grid.h_stride + (left ? w0[j] : 0) * grid.w_stride + t.c[i]
                         : Cells<F, std::int64_t>::kDead;
      cells.down[i] = top && bottom ? grid.h_stride : 0;
      cells.right[i] = left && right ? grid.w_stride : 0;
      cells.weights[0][i] = top && left ? m[j] * hh[j] * hw[j] : F{0};
      cells.weights[1][i] = top && right ? m[j] * hh[j] * lw[j] : F{0};
      cells.weights[2][i] = bottom && left ? m[j] * lh[j] * hw[j] : F{0};
      cells.weights[3][i] = bottom && right ? m[j] * lh[j] * lw[j] : F{0};
    }
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
