// SPDX-License-Identifier: Apache-2.0
// Offsets to cells and fractions, in vectors: math.h's position, bit for bit. Included once per target.
#if defined(TAPFIELD_CPU_POSITION_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPFIELD_CPU_POSITION_H_
#undef TAPFIELD_CPU_POSITION_H_
#else
#define TAPFIELD_CPU_POSITION_H_
#endif

#include "cpu/simd.h"

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// Floors below this convert to int32, and base + floor cannot overflow (too_wide keeps bases below 2^29).
constexpr float kReach = 0x1p30f;

template <class F>
struct Position {
  hn::Vec<hn::Rebind<std::int32_t, hn::ScalableTag<F>>> cell;  // kDead where dead, along this axis
  hn::Vec<hn::ScalableTag<F>> fraction, complement;
  hn::Mask<hn::ScalableTag<F>> live;
};

// math.h's reaches, cell, complement and live. `base` holds each lane's integer position.
template <class F>
HWY_INLINE Position<F> Locate(hn::Vec<hn::ScalableTag<F>> offset,
                              hn::Vec<hn::Rebind<std::int32_t, hn::ScalableTag<F>>> base, std::int64_t size,
                              bool closed) {
  const hn::ScalableTag<F> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const auto floor = hn::Floor(offset);
  const auto fraction = hn::Sub(offset, floor);
  const auto complement =
      hn::IfThenElse(hn::Eq(offset, floor), hn::Set(d, F{1}), hn::Sub(hn::Ceil(offset), offset));
  const auto reach = hn::Lt(hn::Abs(floor), hn::Set(d, F{kReach}));  // false for NaN
  const auto safe = hn::IfThenElseZero(reach, floor);
  if constexpr (sizeof(F) == 4) {
    const auto cell = hn::Add(base, hn::ConvertTo(di, safe));
    const auto below = hn::Lt(cell, hn::Set(di, static_cast<std::int32_t>(size)));
    const auto after = hn::Gt(cell, hn::Set(di, -1));
    const auto at = hn::Eq(cell, hn::Set(di, -1));
    const auto enters =
        closed ? hn::FirstN(di, hn::Lanes(di)) : hn::RebindMask(di, hn::Gt(fraction, hn::Zero(d)));
    const auto live = hn::And(hn::RebindMask(di, reach), hn::And(below, hn::Or(after, hn::And(at, enters))));
    return {cell, fraction, complement, hn::RebindMask(d, live)};
  } else {
    const auto cell = hn::Add(hn::PromoteTo(d, base), safe);  // exact: below 2^31
    const auto below = hn::Lt(cell, hn::Set(d, static_cast<F>(size)));
    const auto after = hn::Gt(cell, hn::Set(d, F{-1}));
    const auto at = hn::Eq(cell, hn::Set(d, F{-1}));
    const auto enters = closed ? hn::FirstN(d, hn::Lanes(d)) : hn::Gt(fraction, hn::Zero(d));
    return {hn::DemoteTo(di, cell), fraction, complement,
            hn::And(reach, hn::And(below, hn::Or(after, hn::And(at, enters))))};
  }
}

// `cell` where live, else `dead`. A mask of F's lanes has as many lanes as the int32s, but not their width.
template <class F, class DI>
HWY_INLINE hn::Vec<DI> IfLive(hn::Mask<hn::ScalableTag<F>> live, hn::Vec<DI> cell, std::int32_t dead, DI di) {
  if constexpr (sizeof(F) == 4) {
    return hn::IfThenElse(hn::RebindMask(di, live), cell, hn::Set(di, dead));
  } else {
    const hn::ScalableTag<F> d;
    return hn::DemoteTo(di, hn::IfThenElse(live, hn::PromoteTo(d, cell), hn::Set(d, static_cast<F>(dead))));
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
