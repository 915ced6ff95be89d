// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/geometry.cpp"
#include <algorithm>
#include <cmath>

#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/simd.h"
#include "cpu/geometry.h"
#include "cpu/pack.h"
#include "cpu/position.h"

#ifndef TAPFIELD_CPU_GEOMETRY_ONCE_
#define TAPFIELD_CPU_GEOMETRY_ONCE_
namespace tapfield::cpu {

// Planes of offsets or grad_offsets: lane l of pixel i of plane q stands at plane[q][i * pitch + l].
template <class F>
struct Planes {
  F* plane[3];
  std::int64_t pitch;
};

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// Lanes [l, l + rest) of the pixels of a strip, rest at most a vector; the vector's other lanes are dead.
// along_h, along_w: the lanes' bases in the first pixel.
template <bool kTail, bool kClosed, class F>
HWY_INLINE void LocateLanes(const Problem& p, const Strip<F>& s, const Planes<const F>& offsets,
                            std::int64_t l, std::size_t rest, const std::int32_t* along_h,
                            const std::int32_t* along_w) {
  const hn::ScalableTag<F> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const auto base_h = hn::Load(di, along_h);
  auto base_w = hn::Load(di, along_w);
  const auto step_w = hn::Set(di, static_cast<std::int32_t>(s.count > 1 ? p.stride_w : 0));
  const bool modulated = p.modulated;
  const std::int64_t height = p.h, width = p.w, pitch = s.pitch;
  for (std::int64_t i = 0; i < s.count; ++i, base_w = hn::Add(base_w, step_w)) {
    const std::int64_t from = i * offsets.pitch + l, to = i * pitch + l;
    const auto o_w = LoadN<kTail>(d, offsets.plane[0] + from, rest);
    const auto o_h = LoadN<kTail>(d, offsets.plane[1] + from, rest);
    auto m = hn::Set(d, F{1});
    if (modulated) m = LoadN<kTail>(d, offsets.plane[2] + from, rest);
    const auto h = Locate<F>(o_h, base_h, height, kClosed), w = Locate<F>(o_w, base_w, width, kClosed);
    auto live = hn::And(h.live, w.live);
    if constexpr (kTail) live = hn::And(live, hn::FirstN(d, rest));
    const auto lh = hn::IfThenElseZero(live, h.fraction), lw = hn::IfThenElseZero(live, w.fraction);
    const auto hh = hn::IfThenElseZero(live, h.complement), hw = hn::IfThenElseZero(live, w.complement);
    m = hn::IfThenElseZero(live, m);
    hn::Store(IfLive<F>(live, h.cell, kDead, di), di, s.h0 + to);
    hn::Store(IfLive<F>(live, w.cell, 0, di), di, s.w0 + to);
    hn::Store(hh, d, s.hh + to);
    hn::Store(lh, d, s.lh + to);
    hn::Store(hw, d, s.hw + to);
    hn::Store(lw, d, s.lw + to);
    hn::Store(m, d, s.m + to);
    const auto mhh = hn::Mul(m, hh), mlh = hn::Mul(m, lh);
    hn::StoreInterleaved4(hn::Mul(mhh, hw), hn::Mul(mhh, lw), hn::Mul(mlh, hw), hn::Mul(mlh, lw), d,
                          s.weights + 4 * to);
  }
}

template <bool kClosed, class F>
HWY_INLINE void LocateAll(const Problem& p, const Strip<F>& s, const Planes<const F>& offsets) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(hn::ScalableTag<F>()));
  // Bases of many lanes at a time: vectors loaded from scalars just stored would wait for them.
  constexpr std::int64_t kLanes = 128;
  HWY_ALIGN std::int32_t along_h[kLanes], along_w[kLanes];
  std::int64_t kh = 0, kw = 0;  // of the next lane: strips begin with a group's first tap
  for (std::int64_t first = 0; first < s.lanes; first += kLanes) {
    const std::int64_t end = std::min(first + kLanes, (s.lanes + lanes - 1) / lanes * lanes);
    for (std::int64_t l = first; l < end; ++l) {
      along_h[l - first] = static_cast<std::int32_t>(p.base_h(s.ho, kh));
      along_w[l - first] = static_cast<std::int32_t>(p.base_w(s.wo0, kw));
      if (++kw == p.kw) kw = 0, kh = kh + 1 == p.kh ? 0 : kh + 1;
    }
    for (std::int64_t l = first; l < end; l += lanes) {
      const std::int64_t at = l - first;
      if (s.lanes - l >= lanes)
        LocateLanes<false, kClosed>(p, s, offsets, l, 0, along_h + at, along_w + at);
      else
        LocateLanes<true, kClosed>(p, s, offsets, l, static_cast<std::size_t>(s.lanes - l), along_h + at,
                                   along_w + at);
    }
  }
}

template <class F>
void LocateStrip(const Problem& p, const Strip<F>& s, const Planes<const F>& offsets) {
  if (p.closed)
    LocateAll<true>(p, s, offsets);
  else
    LocateAll<false>(p, s, offsets);
}

template <class F>
HWY_INLINE hn::Mask<hn::ScalableTag<F>> IsLive(const std::int32_t* h0) {
  const hn::ScalableTag<F> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const auto cell = hn::Load(di, h0);
  if constexpr (sizeof(F) == 4)
    return hn::RebindMask(d, hn::Ne(cell, hn::Set(di, kDead)));
  else
    return hn::Ne(hn::PromoteTo(d, cell), hn::Set(d, static_cast<F>(kDead)));
}

// gg_offsets of some taps: (a, b, e) along W, along H, mask; 0 where dead and where there is no such plane.
template <class F>
struct Cotangents {
  hn::Vec<hn::ScalableTag<F>> a, b, e;
  HWY_INLINE Cotangents(const Problem& p, const Planes<const F>& gg, std::int64_t at,
                        hn::Mask<hn::ScalableTag<F>> live) {
    const hn::ScalableTag<F> d;
    a = hn::IfThenElseZero(live, hn::LoadU(d, gg.plane[0] + at));
    b = hn::IfThenElseZero(live, hn::LoadU(d, gg.plane[1] + at));
    e = p.modulated ? hn::IfThenElseZero(live, hn::LoadU(d, gg.plane[2] + at)) : hn::Zero(d);
  }
};

// ------ Second derivative's weights: m (a db/dlw + b db/dlh) + e b_corner

template <class F>
void SecondStrip(const Problem& p, const Strip<F>& s, const Planes<const F>& gg) {
  const hn::ScalableTag<F> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t i = 0; i < s.count; ++i)
    for (std::int64_t l = 0; l < s.lanes; l += lanes) {
      const std::int64_t at = i * s.pitch + l;
      const Cotangents<F> cotangents(p, gg, i * gg.pitch + l, IsLive<F>(s.h0 + at));
      const auto a = cotangents.a, b = cotangents.b, e = cotangents.e;
      const auto lh = hn::Load(d, s.lh + at), lw = hn::Load(d, s.lw + at), m = hn::Load(d, s.m + at);
      const auto hh = hn::Load(d, s.hh + at), hw = hn::Load(d, s.hw + at);
      const auto ma = hn::Mul(m, a), mb = hn::Mul(m, b);
      const auto w00 = hn::MulAdd(e, hn::Mul(hh, hw), hn::Neg(hn::MulAdd(ma, hh, hn::Mul(mb, hw))));
      const auto w01 = hn::MulAdd(e, hn::Mul(hh, lw), hn::MulSub(ma, hh, hn::Mul(mb, lw)));
      const auto w10 = hn::MulAdd(e, hn::Mul(lh, hw), hn::MulSub(mb, hw, hn::Mul(ma, lh)));
      const auto w11 = hn::MulAdd(e, hn::Mul(lh, lw), hn::MulAdd(ma, lh, hn::Mul(mb, lw)));
      hn::StoreInterleaved4(w00, w01, w10, w11, d, s.second + 4 * at);
    }
}

// ------ Dots to grad_offsets

template <class F>
struct Corners {
  hn::Vec<hn::ScalableTag<F>> v00, v01, v10, v11;
};

// Dots of dead taps were never written: whatever lies there is not computed with (denormals alone would cost
// ten times the whole pass).
template <class F>
HWY_INLINE Corners<F> LoadCorners(const F* dots, hn::Mask<hn::ScalableTag<F>> live) {
  const hn::ScalableTag<F> d;
  Corners<F> c;
  hn::LoadInterleaved4(d, dots, c.v00, c.v01, c.v10, c.v11);
  return {hn::IfThenElseZero(live, c.v00), hn::IfThenElseZero(live, c.v01), hn::IfThenElseZero(live, c.v10),
          hn::IfThenElseZero(live, c.v11)};
}

// math.h's blend and its derivatives, of the corners of one vector of taps.
template <class F>
struct Blends {
  hn::Vec<hn::ScalableTag<F>> b, dw, dh;
};

template <class F, class V = hn::Vec<hn::ScalableTag<F>>>
HWY_INLINE Blends<F> Blend(const Corners<F>& c, V hh, V lh, V hw, V lw) {
  const auto top = hn::MulAdd(hw, c.v00, hn::Mul(lw, c.v01)),
             bottom = hn::MulAdd(hw, c.v10, hn::Mul(lw, c.v11));
  const auto right = hn::Sub(c.v01, c.v00), right_below = hn::Sub(c.v11, c.v10);
  const auto down = hn::Sub(c.v10, c.v00), down_right = hn::Sub(c.v11, c.v01);
  return {hn::MulAdd(hh, top, hn::Mul(lh, bottom)), hn::MulAdd(hh, right, hn::Mul(lh, right_below)),
          hn::MulAdd(hw, down, hn::Mul(lw, down_right))};
}

template <class F>
void FinishStrip(const Problem& p, const Strip<F>& s, const Planes<const F>& gg, const F* dots,
                 const F* dots_u, std::int64_t dots_pitch, const Planes<F>& out) {
  const hn::ScalableTag<F> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool second = p.pass == Pass::grad_grad;
  for (std::int64_t i = 0; i < s.count; ++i)
    for (std::int64_t l = 0; l < s.lanes; l += lanes) {
      const std::int64_t at = i * s.pitch + l, to = i * out.pitch + l;
      const std::int64_t from = 4 * (i * dots_pitch + l);
      const auto hh = hn::Load(d, s.hh + at), lh = hn::Load(d, s.lh + at), m = hn::Load(d, s.m + at);
      const auto hw = hn::Load(d, s.hw + at), lw = hn::Load(d, s.lw + at);
      const auto live = IsLive<F>(s.h0 + at);
      const auto c = LoadCorners(dots + from, live);
      const auto v = Blend<F>(c, hh, lh, hw, lw);
      auto grad_w = hn::Mul(m, v.dw), grad_h = hn::Mul(m, v.dh), grad_m = v.b;
      if (second) {
        const Cotangents<F> cotangents(p, gg, i * gg.pitch + l, live);
        const auto a = cotangents.a, b = cotangents.b, e = cotangents.e;
        const auto cross = hn::Add(hn::Sub(hn::Sub(c.v11, c.v10), c.v01), c.v00);
        const auto u = Blend<F>(LoadCorners(dots_u + from, live), hh, lh, hw, lw);
        grad_w = hn::MulAdd(m, hn::MulAdd(b, cross, u.dw), hn::Mul(e, v.dw));
        grad_h = hn::MulAdd(m, hn::MulAdd(a, cross, u.dh), hn::Mul(e, v.dh));
        grad_m = hn::Add(u.b, hn::MulAdd(a, v.dw, hn::Mul(b, v.dh)));
      }
      const hn::Vec<decltype(d)> results[3] = {grad_w, grad_h, grad_m};
      for (std::int64_t q = 0; q < p.planes(); ++q) {
        const auto r = hn::IfThenElseZero(live, results[q]);
        if (s.lanes - l >= lanes)
          hn::StoreU(r, d, out.plane[q] + to);
        else
          StoreFirst(r, d, out.plane[q] + to, static_cast<std::size_t>(s.lanes - l));
      }
    }
}

void LocateF32(const Problem& p, const Strip<float>& s, const Planes<const float>& o) {
  LocateStrip(p, s, o);
}
void LocateF64(const Problem& p, const Strip<double>& s, const Planes<const double>& o) {
  LocateStrip(p, s, o);
}
void SecondF32(const Problem& p, const Strip<float>& s, const Planes<const float>& gg) {
  SecondStrip(p, s, gg);
}
void SecondF64(const Problem& p, const Strip<double>& s, const Planes<const double>& gg) {
  SecondStrip(p, s, gg);
}
void FinishF32(const Problem& p, const Strip<float>& s, const Planes<const float>& gg, const float* dots,
               const float* dots_u, std::int64_t pitch, const Planes<float>& out) {
  FinishStrip(p, s, gg, dots, dots_u, pitch, out);
}
void FinishF64(const Problem& p, const Strip<double>& s, const Planes<const double>& gg, const double* dots,
               const double* dots_u, std::int64_t pitch, const Planes<double>& out) {
  FinishStrip(p, s, gg, dots, dots_u, pitch, out);
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {
namespace {

HWY_EXPORT(LocateF32);
HWY_EXPORT(LocateF64);
HWY_EXPORT(SecondF32);
HWY_EXPORT(SecondF64);
HWY_EXPORT(FinishF32);
HWY_EXPORT(FinishF64);

const View* planes_apart(const View (&planes)[3]) { return planes[0].data ? planes : nullptr; }

// Can kernels read and write these planes where they lie?
template <class F>
bool in_place(const View& view, const View (&apart)[3]) {
  return plain<F>(view) && !planes_apart(apart);
}

// The planes of a strip where they lie in the tensor, or in `room`, which holds the pixels fetched.
template <class F>
Planes<F> planes_of(const Problem& p, const View& view, F* const room[3], bool direct, const Strip<F>& s) {
  Planes<F> r{{}, direct ? view.w : s.pitch};
  for (std::int64_t q = 0; q < p.planes(); ++q)
    r.plane[q] = direct ? reinterpret_cast<F*>(view.at(s.n, s.ho, s.wo0, q * p.lanes() + s.lane0))
                        : room[q] + (s.wo0 - s.fetched_wo0) * s.pitch;
  return r;
}
template <class F>
Planes<const F> read_only(const Planes<F>& r) {
  return {{r.plane[0], r.plane[1], r.plane[2]}, r.pitch};
}

template <class F>
void fetch_planes(const Problem& p, const View& view, const View* apart, const Strip<F>& s, F* const room[3],
                  std::int64_t next) {
  for (std::int64_t q = 0; q < p.planes(); ++q) {
    const std::int64_t c0 = (apart ? 0 : q * p.lanes()) + s.lane0;
    if (view.data)
      load_row(apart ? apart[q] : view, s.n, s.ho, s.wo0, s.count, c0, c0 + s.lanes, room[q], s.pitch,
               s.buffer, next);
    else
      std::memset(room[q], 0, static_cast<std::size_t>(s.count * s.pitch) * sizeof(F));
  }
}

}  // namespace

const char* too_wide(const Problem& p) {
  constexpr std::int64_t limit = std::int64_t{1} << 29;
  // Bases run from -top to the last tap's, which stays inside the padded map.
  const bool fits = p.h < limit && p.w < limit && p.top < limit && p.left < limit &&
                    p.base_h(p.ho - 1, p.kh - 1) < limit && p.base_w(p.wo - 1, p.kw - 1) < limit;
  return fits ? nullptr : "a side of the padded map is 2^29 pixels or more";
}

template <class F>
Strip<F>::Strip(Carver& carver, const Problem& p, std::int64_t most, std::int64_t taps,
                std::int64_t fetched) {
  pitch = padded(most);
  const std::int64_t fetched_size = fetched * pitch;
  h0 = carver.take<std::int32_t>(taps), w0 = carver.take<std::int32_t>(taps);
  hh = carver.take<F>(taps), lh = carver.take<F>(taps), hw = carver.take<F>(taps), lw = carver.take<F>(taps);
  m = carver.take<F>(taps);
  weights = carver.take<F>(4 * taps);
  const bool needs_second = p.pass == Pass::grad_grad;
  second = needs_second ? carver.take<F>(4 * taps) : nullptr;
  for (F*& plane : planes) plane = carver.take<F>(fetched_size);
  for (F*& plane : gg) plane = needs_second ? carver.take<F>(fetched_size) : nullptr;
  buffer = carver.take<F>(fetched_size);
}

template <class F>
void fetch(const Problem& p, Strip<F>& s, std::int64_t next) {
  s.fetched_wo0 = s.wo0, s.fetched_count = s.count;
  if (!in_place<F>(p.offsets, p.offsets_planes))
    fetch_planes(p, p.offsets, planes_apart(p.offsets_planes), s, s.planes, next);
  if (s.second) fetch_planes(p, p.gg_offsets, nullptr, s, s.gg, next);  // in whole vectors, and maybe absent
}

template <class F>
void locate(const Problem& p, Strip<F>& s) {
  const auto offsets =
      read_only(planes_of(p, p.offsets, s.planes, in_place<F>(p.offsets, p.offsets_planes), s));
  if constexpr (sizeof(F) == 4)
    HWY_DYNAMIC_DISPATCH(LocateF32)(p, s, offsets);
  else
    HWY_DYNAMIC_DISPATCH(LocateF64)(p, s, offsets);
  if (!s.second) return;
  const auto gg = read_only(planes_of(p, p.gg_offsets, s.gg, false, s));
  if constexpr (sizeof(F) == 4)
    HWY_DYNAMIC_DISPATCH(SecondF32)(p, s, gg);
  else
    HWY_DYNAMIC_DISPATCH(SecondF64)(p, s, gg);
}

template <class F>
void finish(const Problem& p, Strip<F>& s, const F* dots, const F* dots_u, std::int64_t dots_pitch) {
  const auto gg = s.second ? read_only(planes_of(p, p.gg_offsets, s.gg, false, s)) : Planes<const F>();
  const auto out =
      planes_of(p, p.grad_offsets, s.planes, in_place<F>(p.grad_offsets, p.grad_offsets_planes), s);
  if constexpr (sizeof(F) == 4)
    HWY_DYNAMIC_DISPATCH(FinishF32)(p, s, gg, dots, dots_u, dots_pitch, out);
  else
    HWY_DYNAMIC_DISPATCH(FinishF64)(p, s, gg, dots, dots_u, dots_pitch, out);
}

template <class F>
void flush(const Problem& p, Strip<F>& s) {
  if (in_place<F>(p.grad_offsets, p.grad_offsets_planes)) return;
  const View* apart = planes_apart(p.grad_offsets_planes);
  for (std::int64_t q = 0; q < p.planes(); ++q) {
    const std::int64_t c0 = (apart ? 0 : q * p.lanes()) + s.lane0;
    store_row(apart ? apart[q] : p.grad_offsets, s.n, s.ho, s.fetched_wo0, s.fetched_count, c0, c0 + s.lanes,
              s.planes[q], s.pitch, s.buffer);
  }
}

template struct Strip<float>;
template struct Strip<double>;
template void fetch(const Problem&, Strip<float>&, std::int64_t);
template void fetch(const Problem&, Strip<double>&, std::int64_t);
template void locate(const Problem&, Strip<float>&);
template void locate(const Problem&, Strip<double>&);
template void finish(const Problem&, Strip<float>&, const float*, const float*, std::int64_t);
template void finish(const Problem&, Strip<double>&, const double*, const double*, std::int64_t);
template void flush(const Problem&, Strip<float>&);
template void flush(const Problem&, Strip<double>&);

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
