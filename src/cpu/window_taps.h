// SPDX-License-Identifier: Apache-2.0
// Taps in windows: where they lie; and the channel loops of windowed.cpp: one output pixel's taps, in order.
// A tap reads its grad once, leaves four dots and adds to four corners; in the second derivative it leaves
// four dots with gg_x too and writes its row of grad_grad; where samples are wanted, that replaces its grad.
// Included once per target.
#if defined(TAPFIELD_CPU_WINDOW_TAPS_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPFIELD_CPU_WINDOW_TAPS_H_
#undef TAPFIELD_CPU_WINDOW_TAPS_H_
#else
#define TAPFIELD_CPU_WINDOW_TAPS_H_
#endif

#include "cpu/simd.h"
#include "cpu/windowed.h"

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// What a tap writes beside dots and sums.
enum class Written { nothing, sample, grad_grad };

// The taps of one output pixel and block of groups. What is marked + is of the second derivative alone.
template <class F>
struct Taps {
  const F *x, *u;                 // windows; +u
  F* sums;                        // windows
  std::int64_t below;             // elements from a pixel to the one below
  const std::int32_t* cells;      // [lanes]
  const F* weights;               // [lanes][4] of what is added to sums: m b_ab; or second_weight, of x too
  const F* u_weights;             // [lanes][4]: m b_ab +
  const F* grad;                  // + lane_grad: [group_channels]
  const F* grad_ahead;            // the same of a later pixel
  const std::int64_t* lane_grad;  // [lanes]
  F* row;                         // + lane_row: [group_channels], of grad_grad or of grad itself
  const std::int64_t* lane_row;
  const char* offsets_ahead[3];  // planes of offsets and grad_offsets, of a later pixel; null: not fetched
  const char* grad_offsets_ahead[3];
  std::int64_t offset_size, grad_offset_size;  // of their elements
  std::int64_t planes, lanes;
  std::size_t channels;  // of a group
  int vectors;           // that hold the group's channels
  std::size_t tail;      // channels in the last of them, 0 if it is full
  F *dots, *dots_u;      // [lanes][4]; +dots_u
};

// Taps per step of the loops below; lanes are padded to it.
constexpr std::int64_t kStep = 4;

// Into L2: L1 holds the windows, and would drop what is fetched pixels before its use.
template <class F>
HWY_INLINE void FetchAhead(const Taps<F>& t, std::int64_t l) {
  for (std::int64_t j = l; j < l + kStep; ++j) __builtin_prefetch(t.grad_ahead + t.lane_grad[j], 0, 2);
  if (l % static_cast<std::int64_t>(64 / sizeof(F))) return;
  for (std::int64_t q = 0; q < t.planes; ++q) {
    __builtin_prefetch(t.offsets_ahead[q] + l * t.offset_size, 0, 2);
    __builtin_prefetch(t.grad_offsets_ahead[q] + l * t.grad_offset_size, 1);
  }
}

template <int kChannels, bool kTail, Written kWritten, class F>
void TapsOfPixels(const Taps<F>& taps) {
  constexpr bool kSecond = kWritten == Written::grad_grad;
  const hn::CappedTag<F, kChannels> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kLanes = hn::MaxLanes(d), kVectors = kChannels / kLanes;
  const Taps<F> t = taps;  // sums may not alias it
  for (std::int64_t l = 0; l < t.lanes; l += kStep) {
    FetchAhead(t, l);
    V sums_of_dots[kStep], sums_of_dots_u[kStep];
    for (int j = 0; j < kStep; ++j) {
      const F *x = t.x + t.cells[l + j], *grad = t.grad + t.lane_grad[l + j], *w = t.weights + 4 * (l + j);
      F* HWY_RESTRICT sums = t.sums + t.cells[l + j];
      V dots[4], dots_u[4];
      for (int v = 0; v < (kTail ? t.vectors : kVectors); ++v) {
        const bool is_tail = kTail && v + 1 == t.vectors && t.tail;
        const auto g = is_tail ? LoadN<kTail>(d, grad + v * kLanes, t.tail) : hn::LoadU(d, grad + v * kLanes);
        auto out = hn::Zero(d);
        for (int k = 0; k < 4; ++k) {
          const std::int64_t at = (k / 2) * t.below + (k % 2) * kChannels + v * kLanes;
          const auto x_k = hn::Load(d, x + at), w_k = hn::Set(d, w[k]);
          dots[k] = v ? hn::MulAdd(g, x_k, dots[k]) : hn::Mul(g, x_k);
          hn::Store(hn::MulAdd(w_k, g, hn::Load(d, sums + at)), d, sums + at);
          if constexpr (kSecond) {
            const auto u_k = hn::Load(d, t.u + t.cells[l + j] + at);
            dots_u[k] = v ? hn::MulAdd(g, u_k, dots_u[k]) : hn::Mul(g, u_k);
            out = hn::MulAdd(hn::Set(d, t.u_weights[4 * (l + j) + k]), u_k, out);
          }
          if constexpr (kWritten != Written::nothing) out = hn::MulAdd(w_k, x_k, out);
        }
        if (kWritten != Written::nothing && l + j < t.lanes) {
          F* row = t.row + t.lane_row[l + j] + v * kLanes;
          is_tail ? StoreN<kTail>(out, d, row, t.tail) : hn::StoreU(out, d, row);
        }
      }
      if constexpr (sizeof(F) == 4) {
        sums_of_dots[j] = SumWithinBlocks(d, dots[0], dots[1], dots[2], dots[3]);
        if constexpr (kSecond)
          sums_of_dots_u[j] = SumWithinBlocks(d, dots_u[0], dots_u[1], dots_u[2], dots_u[3]);
      } else {
        SumLanes4(d, dots[0], dots[1], dots[2], dots[3], t.dots + 4 * (l + j));
        if constexpr (kSecond)
          SumLanes4(d, dots_u[0], dots_u[1], dots_u[2], dots_u[3], t.dots_u + 4 * (l + j));
      }
    }
    if constexpr (sizeof(F) == 4) SumBlocks4(d, sums_of_dots, t.dots + 4 * l);
    if constexpr (sizeof(F) == 4 && kSecond) SumBlocks4(d, sums_of_dots_u, t.dots_u + 4 * l);
  }
}

// p[0, kChannels) over and over; kTail: the first n of them, then zeros.
template <int kChannels, bool kTail, class D, class F = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> Repeat(D d, const F* p, std::size_t n) {
  if constexpr (kTail) {
    HWY_ALIGN F padded[kChannels] = {};
    std::memcpy(padded, p, n * sizeof(F));
    return Repeat<kChannels, false>(d, padded, 0);
  } else if constexpr (kChannels == 1) {
    return hn::Set(d, *p);
  } else if constexpr (kChannels * sizeof(F) == 16) {
    return hn::LoadDup128(d, p);
  } else {
    static_assert(kChannels * sizeof(F) == 8);
    double both;
    std::memcpy(&both, p, 8);
    return hn::BitCast(d, hn::Set(hn::Repartition<double, D>(), both));
  }
}

// Vector `v` of the four weights, each repeated for its corner's channels.
template <int kChannels, class D, class F = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> RepeatWeights(D d, const F* w, int v) {
  constexpr int kLanes = hn::MaxLanes(D());
  if constexpr (kChannels >= kLanes) {
    return hn::Set(d, w[v * kLanes / kChannels]);
  } else if constexpr (kChannels == 1) {
    return hn::LoadU(d, w + v * kLanes);
  } else {
    using Index = hwy::MakeSigned<F>;
    HWY_ALIGN Index lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) lanes[i] = (v * kLanes + i) / kChannels;
    const auto index = hn::SetTableIndices(d, lanes);
    if constexpr (sizeof(F) == 4)
      return hn::TableLookupLanes(hn::LoadDup128(d, w), index);
    else if constexpr (kLanes == 4)
      return hn::TableLookupLanes(hn::LoadU(d, w), index);
    else
      return hn::TableLookupLanes(hn::ZeroExtendVector(d, hn::LoadU(hn::Half<D>(), w)), index);
  }
}

// [corners][kChannels] in v, added to one corner's, to `to`. kTail: the first n channels.
template <int kChannels, bool kTail, class D, class F = hn::TFromD<D>>
HWY_INLINE void FoldCorners(D d, hn::Vec<D> v, F* to, std::size_t n) {
  if constexpr (hn::MaxLanes(D()) == kChannels) {
    StoreN<kTail>(v, d, to, n);
  } else {
    const hn::Half<D> half;
    FoldCorners<kChannels, kTail>(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), to, n);
  }
}

// Neighbours are added until each sum is one lane, in order.
template <int kChannels, class D, int kCount, class F = hn::TFromD<D>>
HWY_INLINE void PutDots(D d, hn::Vec<D> (&dots)[kCount], F* to) {
  int vectors = kCount;
  for (int channels = kChannels; channels > 1; channels /= 2, vectors /= 2)
    for (int v = 0; v < vectors / 2; ++v)
      dots[v] = hn::Add(hn::ConcatEven(d, dots[2 * v + 1], dots[2 * v]),
                        hn::ConcatOdd(d, dots[2 * v + 1], dots[2 * v]));
  for (int v = 0; v < vectors; ++v) hn::StoreU(dots[v], d, to + v * static_cast<int>(hn::Lanes(d)));
}

template <int kChannels, bool kTail, Written kWritten, class F>
void TapsOfQuads(const Taps<F>& taps) {
  constexpr bool kSecond = kWritten == Written::grad_grad;
  const Taps<F> t = taps;  // sums may not alias it
  const hn::CappedTag<F, 4 * kChannels> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kLanes = hn::MaxLanes(d), kVectors = 4 * kChannels / kLanes;
  for (std::int64_t l = 0; l < t.lanes; l += kStep) {
    FetchAhead(t, l);
    V dots[kStep * kVectors], dots_u[kStep * kVectors];
    for (int j = 0; j < kStep; ++j) {
      const F *x = t.x + t.cells[l + j], *w = t.weights + 4 * (l + j);
      F* HWY_RESTRICT sums = t.sums + t.cells[l + j];
      const auto g = Repeat<kChannels, kTail>(d, t.grad + t.lane_grad[l + j], t.channels);
      auto out = hn::Zero(d);
      for (int v = 0; v < kVectors; ++v) {
        const int at = v * kLanes;
        const auto x_v = hn::Load(d, x + at), w_v = RepeatWeights<kChannels>(d, w, v);
        dots[j * kVectors + v] = hn::Mul(g, x_v);
        hn::Store(hn::MulAdd(w_v, g, hn::Load(d, sums + at)), d, sums + at);
        if constexpr (kSecond) {
          const auto u_v = hn::Load(d, t.u + t.cells[l + j] + at);
          dots_u[j * kVectors + v] = hn::Mul(g, u_v);
          out = hn::MulAdd(RepeatWeights<kChannels>(d, t.u_weights + 4 * (l + j), v), u_v, out);
        }
        if constexpr (kWritten != Written::nothing) out = hn::MulAdd(w_v, x_v, out);
      }
      if (kWritten != Written::nothing && l + j < t.lanes)
        FoldCorners<kChannels, kTail>(d, out, t.row + t.lane_row[l + j], t.channels);
    }
    PutDots<kChannels>(d, dots, t.dots + 4 * l);
    if constexpr (kSecond) PutDots<kChannels>(d, dots_u, t.dots_u + 4 * l);
  }
}

template <class F>
using TapsFunction = void (*)(const Taps<F>&);

template <class F, int kChannels, bool kTail, Written kWritten>
constexpr TapsFunction<F> taps_function() {
  if constexpr (kChannels * sizeof(F) <= 16)
    return TapsOfQuads<kChannels, kTail, kWritten, F>;
  else
    return TapsOfPixels<kChannels, kTail, kWritten, F>;
}

template <class F, Written kWritten>
TapsFunction<F> ChooseTaps(const Layout& layout, std::int64_t channels) {
  const bool tail = layout.channels != channels;
  return for_channels(layout.channels, [&](auto padded) -> TapsFunction<F> {
    constexpr int kChannels = decltype(padded)::value;
    return tail ? taps_function<F, kChannels, (kChannels > 2), kWritten>()
                : taps_function<F, kChannels, false, kWritten>();
  });
}

// Where each tap of a located strip lies in the windows; `dump` for dead ones and for those outside. Returns
// whether there are any of these.
template <class F>
bool FindCells(const typename WindowsScratch<F>::Slot& slot, std::int64_t pitch, std::int64_t cell,
               std::int32_t dump) {
  const hn::ScalableTag<std::int32_t> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const Strip<F>& s = slot.strip;
  const auto row_step = hn::Set(d, static_cast<std::int32_t>(pitch)),
             column_step = hn::Set(d, static_cast<std::int32_t>(cell));
  bool outliers = false;
  for (std::int64_t i = 0; i < s.count; ++i) {
    const std::int64_t from = i * s.pitch;
    for (std::int64_t l = 0; l < s.lanes; l += lanes) {
      const auto h0 = hn::Load(d, s.h0 + from + l);
      const auto row = hn::Sub(h0, hn::Load(d, slot.h + l)),
                 column = hn::Sub(hn::Load(d, s.w0 + from + l), hn::Load(d, slot.w + l));
      const auto inside =
          hn::And(hn::Lt(hn::BitCast(du, row), hn::BitCast(du, hn::Load(d, slot.rows + l))),
                  hn::Lt(hn::BitCast(du, column), hn::BitCast(du, hn::Load(d, slot.columns + l))));
      const auto at =
          hn::Add(hn::Load(d, slot.base + l), hn::Add(hn::Mul(row, row_step), hn::Mul(column, column_step)));
      hn::Store(hn::IfThenElse(hn::RebindMask(d, inside), at, hn::Set(d, dump)), d, slot.cells + from + l);
      auto outside = hn::AndNot(hn::RebindMask(d, inside), hn::Ne(h0, hn::Set(d, kDead)));
      if (s.lanes - l < lanes)
        outside = hn::And(outside, hn::FirstN(d, static_cast<std::size_t>(s.lanes - l)));
      outliers |= !hn::AllFalse(d, outside);
    }
    for (std::int64_t l = s.lanes; l % kStep; ++l) slot.cells[from + l] = dump;
  }
  return outliers;
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
