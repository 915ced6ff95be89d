// SPDX-License-Identifier: Apache-2.0
// Gradient, tap by tap in natural order: for few channels a group, where sorting costs more than it saves. An
// item is some groups of one image. It goes over the output row by row, pixel by pixel; each tap adds its
// scaled grad to the four corner rows of grad_x and leaves four dots, from which its pixel strip's
// grad_offsets are written at once. Docs: docs/operators.md, "Gradient".
//
// Moves: grad, x and offsets once, grad_x rows from cache. Scratch: a strip a slot; where grad_x cannot be
// summed into (16 bits, channels not adjacent) one image of sums. Deterministic: an element of grad_x belongs
// to one group, whose taps go in natural order whichever item has them.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/grad_taps.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/simd.h"
#include "cpu/cpu.h"
#include "cpu/geometry.h"
#include "cpu/rows.h"

#ifndef TAPFIELD_CPU_GRAD_TAPS_ONCE_
#define TAPFIELD_CPU_GRAD_TAPS_ONCE_
namespace tapfield::cpu {

template <class F>
struct TapsScratch {
  std::int64_t chunks;                // items an image: groups are dealt out evenly
  char* zeros;                        // [c / groups] of T, read for corners outside
  F* sums = nullptr;                  // [h][w][c], one image
  std::uint16_t* narrowed = nullptr;  // [slots][w * c]: a row of sums on its way to 16 bits
  Carver slots;                       // where the slots' own scratch begins

  struct Slot {
    Strip<F> strip;
    F* dots;     // [pixels][pitch][4]
    F* outside;  // [c / groups], written for corners outside
    Slot(Carver& carver, const Problem& p, std::int64_t lanes)
        : strip(carver, p, lanes),
          dots(carver.take<F>(4 * Strip<F>::pixels(lanes) * strip.pitch)),
          outside(carver.take<F>(p.group_channels())) {}
  };

  std::int64_t lanes(const Problem& p) const { return (p.groups + chunks - 1) / chunks * p.taps(); }

  TapsScratch(Carver carver, const Problem& p, int slot_count, std::size_t* used) : slots(carver) {
    chunks = p.n >= slot_count ? 1 : std::min<std::int64_t>(p.groups, slot_count);
    zeros = carver.take<char>(p.group_channels() * size_of(p.x.dtype));
    if (!plain<F>(p.grad_x)) {
      chunks = std::min<std::int64_t>(p.groups, slot_count);
      sums = carver.take<F>(p.h * p.w * p.c);
      narrowed = carver.take<std::uint16_t>(slot_count * p.w * p.c);
    }
    slots = carver;
    for (int s = 0; s < slot_count; ++s) Slot(carver, p, lanes(p));
    if (used) *used = carver.used();
  }
};

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

template <bool kTail, class T, class D, class V, class F = hn::TFromD<D>>
HWY_INLINE void TapVector(D d, const CornerRows<const T>& x, const CornerRows<F>& sums, const T* grad,
                          std::int64_t c, const V (&w)[4], V (&dots)[4], std::size_t n) {
  const auto g = LoadN<kTail>(d, grad + c, n);
  dots[0] = hn::MulAdd(g, LoadN<kTail>(d, x.p00 + c, n), dots[0]);
  dots[1] = hn::MulAdd(g, LoadN<kTail>(d, x.p01 + c, n), dots[1]);
  dots[2] = hn::MulAdd(g, LoadN<kTail>(d, x.p10 + c, n), dots[2]);
  dots[3] = hn::MulAdd(g, LoadN<kTail>(d, x.p11 + c, n), dots[3]);
  StoreN<kTail>(hn::MulAdd(w[0], g, LoadN<kTail>(d, sums.p00 + c, n)), d, sums.p00 + c, n);
  StoreN<kTail>(hn::MulAdd(w[1], g, LoadN<kTail>(d, sums.p01 + c, n)), d, sums.p01 + c, n);
  StoreN<kTail>(hn::MulAdd(w[2], g, LoadN<kTail>(d, sums.p10 + c, n)), d, sums.p10 + c, n);
  StoreN<kTail>(hn::MulAdd(w[3], g, LoadN<kTail>(d, sums.p11 + c, n)), d, sums.p11 + c, n);
}

// One live tap: adds to its corner rows of grad_x, and gives the four dots.
template <class D, class T, class F = hn::TFromD<D>>
HWY_INLINE void TapRow(D d, const CornerRows<const T>& x, const CornerRows<F>& sums, const T* grad,
                       const F* weights, std::int64_t channels, F* dots) {
  using V = hn::Vec<D>;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const V w[4] = {hn::Set(d, weights[0]), hn::Set(d, weights[1]), hn::Set(d, weights[2]),
                  hn::Set(d, weights[3])};
  V s[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) TapVector<false>(d, x, sums, grad, c, w, s, 0);
  if (c < channels) TapVector<true>(d, x, sums, grad, c, w, s, static_cast<std::size_t>(channels - c));
  SumLanes4(d, s[0], s[1], s[2], s[3], dots);
}

template <class D, class T, class F = hn::TFromD<D>>
void TapsStrip(D d, const Problem& p, const Strip<F>& s, const Image<const T>& x, const T* zeros,
               const Image<F>& sums, F* outside, F* dots) {
  const std::int64_t channels = p.group_channels(), groups = s.lanes / p.taps(), g0 = s.lane0 / p.taps();
  for (std::int64_t i = 0; i < s.count; ++i)
    for (std::int64_t g = 0; g < groups; ++g)
      for (std::int64_t kh = 0; kh < p.kh; ++kh) {
        const std::int64_t c = (g0 + g) * channels;
        const auto* grad =
            reinterpret_cast<const T*>(p.grad.tap(s.n, s.ho, kh, s.wo0 + i, 0, c));
        std::int64_t at = i * s.pitch + (g * p.kh + kh) * p.kw;
        for (std::int64_t kw = 0; kw < p.kw; ++kw, ++at, grad += p.grad.w)
          if (s.h0[at] != kDead)
            TapRow(d, CornerRows<const T>(x, p.h, p.w, s.h0[at], s.w0[at], c, zeros),
                   CornerRows<F>(sums, p.h, p.w, s.h0[at], s.w0[at], c, outside), grad, s.weights + 4 * at,
                   channels, dots + 4 * at);
      }
}

// Vectors no wider than a group, where a narrower one holds it.
template <class T, class F = Compute<T>>
void TapsStripSized(const Problem& p, const Strip<F>& s, const Image<const T>& x, const T* zeros,
                    const Image<F>& sums, F* outside, F* dots) {
  constexpr std::size_t kQuarter = 16 / sizeof(F), kHalf = 32 / sizeof(F);
  const auto channels = static_cast<std::size_t>(p.group_channels());
  if (channels <= kQuarter)
    TapsStrip(hn::CappedTag<F, kQuarter>(), p, s, x, zeros, sums, outside, dots);
  else if (channels <= kHalf)
    TapsStrip(hn::CappedTag<F, kHalf>(), p, s, x, zeros, sums, outside, dots);
  else
    TapsStrip(hn::ScalableTag<F>(), p, s, x, zeros, sums, outside, dots);
}

template <class T, class F = Compute<T>>
void GradTapsT(const Problem& p, const Workers& workers, void* workspace) {
  const TapsScratch<F> scratch(Carver(workspace), p, workers.slots(), nullptr);
  const std::int64_t channels = p.group_channels();
  std::memset(scratch.zeros, 0, static_cast<std::size_t>(channels) * sizeof(T));

  const auto item = [&](std::int64_t n, std::int64_t chunk, int slot_index) {
    Carver carver = scratch.slots;
    for (int s = 0; s < slot_index; ++s) typename TapsScratch<F>::Slot(carver, p, scratch.lanes(p));
    typename TapsScratch<F>::Slot slot(carver, p, scratch.lanes(p));
    Strip<F>& strip = slot.strip;
    const std::int64_t g0 = p.groups * chunk / scratch.chunks, g1 = p.groups * (chunk + 1) / scratch.chunks;
    strip.n = n, strip.lane0 = g0 * p.taps(), strip.lanes = (g1 - g0) * p.taps();
    const auto x = image_in_place<const T>(p.x, n);
    const Image<F> sums =
        scratch.sums ? Image<F>{scratch.sums, p.w * p.c, p.c} : image_in_place<F>(p.grad_x, n);
    std::fill_n(slot.outside, channels, F{0});
    for (std::int64_t h = 0; h < p.h; ++h)
      for (std::int64_t w = 0; w < p.w; ++w)
        std::fill_n(sums.at(h, w) + g0 * channels, (g1 - g0) * channels, F{0});
    const std::int64_t pixels = Strip<F>::pixels(scratch.lanes(p));
    for (strip.ho = 0; strip.ho < p.ho; ++strip.ho)
      for (strip.wo0 = 0; strip.wo0 < p.wo; strip.wo0 += pixels) {
        strip.count = std::min(pixels, p.wo - strip.wo0);
        locate(p, strip);
        TapsStripSized<T>(p, strip, x, reinterpret_cast<const T*>(scratch.zeros), sums, slot.outside,
                          slot.dots);
        finish(p, strip, slot.dots, strip.pitch);
      }
  };

  if (!scratch.sums) {
    workers.run(p.n * scratch.chunks,
                [&](std::int64_t i, int slot) { item(i / scratch.chunks, i % scratch.chunks, slot); });
    return;
  }
  for (std::int64_t n = 0; n < p.n; ++n) {
    workers.run(scratch.chunks, [&](std::int64_t chunk, int slot) { item(n, chunk, slot); });
    store_image(workers, p.grad_x, n, p.h, p.w, 0, p.c, scratch.sums, p.c, scratch.narrowed);
  }
}

void GradTaps(const Problem& p, const Workers& workers, void* workspace) {
  switch (p.x.dtype) {
    case DType::float16: return GradTapsT<float16_t>(p, workers, workspace);
    case DType::bfloat16: return GradTapsT<bfloat16_t>(p, workers, workspace);
    case DType::float32: return GradTapsT<float>(p, workers, workspace);
    case DType::float64: return GradTapsT<double>(p, workers, workspace);
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {

HWY_EXPORT(GradTaps);

const char* grad_taps_why_not(const Problem& p) {
  if (const char* why = too_wide(p)) return why;
  return p.x.adjacent() && p.grad.adjacent() ? nullptr : "channels are not adjacent in memory";
}

// Beside the binned schedule, whose sort costs as much as some 32 channels of a tap (cases c, q of bench/).
// One group of one image is one item, which threads cannot share: then binned is better on two.
double grad_taps_cost(const Problem& p) {
  return p.n * p.groups == 1 ? 1.5 : static_cast<double>(p.group_channels()) / 32;
}

std::size_t grad_taps_workspace(const Problem& p, int slots) {
  std::size_t used = 0;
  if (p.x.dtype == DType::float64)
    TapsScratch<double>(Carver(), p, slots, &used);
  else
    TapsScratch<float>(Carver(), p, slots, &used);
  return used;
}

void grad_taps(const Problem& p, const Workers& workers, void* workspace) {
  HWY_DYNAMIC_DISPATCH(GradTaps)(p, workers, workspace);
}

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
