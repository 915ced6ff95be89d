// SPDX-License-Identifier: Apache-2.0
// Forward, row by row: every output row (n, ho) is one item; its pixels and taps go in order, and a tap's
// channels in vectors: four loads, four multiply-adds, one store. Addresses and weights come from cells.h, a
// pixel ahead. Groups of 2, 4 and 8 channels have vectors of their size, groups of one gather over taps. y is
// stored past the cache where its vectors are aligned. Docs: docs/operators.md, "Forward".
//
// Moves: x, offsets and y once; x rows are read again from cache. Scratch: one strip a slot; where channels
// are not adjacent, one packed image of x and a packed strip of y a slot. Deterministic: an output element is
// one sum of four terms in one order, whoever computes it.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/forward.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/cache_control.h>

#include "cpu/simd.h"
#include "cpu/blend.h"
#include "cpu/cells.h"
#include "cpu/cpu.h"
#include "cpu/rows.h"
#include "cpu/slots.h"

#ifndef TAPFIELD_CPU_FORWARD_ONCE_
#define TAPFIELD_CPU_FORWARD_ONCE_
namespace tapfield::cpu {

// What is fetched ahead: x this many rows below, offsets this many pixels on.
constexpr std::int64_t kRowsAhead = 5, kPixelsAhead = 10;

// A strip of packed y stays in L2, and its rows are long enough to be written in whole lines: with a third of
// this b took 1.7 times and d 1.3 times as long.
constexpr std::int64_t kPackedStripBytes = 768 << 10;

// Offsets that are packed together stay in L2.
constexpr std::int64_t kPackedTaps = 16384;

// Small images of x are packed together.
constexpr std::int64_t kBatchBytes = 1 << 20;

// Is x converted before it is sampled? A conversion then serves the four corners of some taps.
inline bool widened(const Problem& p) {
  return is_16bit(p.x.dtype) && p.ho * p.wo * p.taps() >= 4 * p.h * p.w;
}

// A line of x's channels that is fetched ahead: `extra` elements after where its group's middle tap reads.
struct AheadLine {
  std::int64_t lane, extra;
};

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// Channels of a strip of packed y: all, but where a pixel's taps would not fit.
template <class T>
inline std::int64_t packed_block(const Problem& p) {
  return std::clamp<std::int64_t>(kPackedStripBytes / (p.taps() * static_cast<std::int64_t>(sizeof(T))), 1,
                                  p.c);
}

// What all slots share. S: the type of x, or Compute<T>, to which it is converted first.
template <class T, class S, class At>
struct ForwardPlan : Slotted<ForwardPlan<T, S, At>> {
  using F = Compute<T>;
  static constexpr bool kWiden = !std::is_same_v<S, T>;
  std::int64_t pixels, block;
  std::int64_t images;  // whose packed x are worked on together
  S* zeros;
  LaneTable table;
  AheadLine* ahead;  // [ahead_lines]
  std::int64_t ahead_lines;
  S* packed_x = nullptr;              // [images][h][w][c]
  std::uint16_t* narrow_x = nullptr;  // [slots][w * c]

  struct Slot {
    Cells<F, At> cells[2];
    char* offsets;          // [planes][pixels][lanes]
    std::uint16_t* narrow;  // [pixels][lanes]: of a layer's mask, where only its offsets are float32
    T* y;
    F* sums;  // [lanes], and as far as a gather reads
    Slot(Carver& carver, const Problem& p, const ForwardPlan& f)
        : cells{{carver, p.lanes()}, {carver, p.lanes()}},
          offsets(carver.take<char>(p.offsets_adjacent()
                                        ? 0
                                        : p.planes() * f.pixels * p.lanes() *
                                              std::max<std::int64_t>(4, size_of(p.offsets.dtype)))),
          narrow(carver.take<std::uint16_t>(p.offsets_planes[0].data ? f.pixels * p.lanes() : 0)),
          y(carver.take<T>(p.y.adjacent() ? 0 : f.pixels * f.block * p.taps())),
          sums(carver.take<F>(p.lanes() + 16 * p.taps())) {}
  };
  ForwardPlan(Carver carver, const Problem& p, int slot_count, std::size_t* used)
      : pixels(p.wo),
        block(p.c),
        images(p.n),
        zeros(carver.take<S>(p.group_channels())),
        table(carver, p.lanes()) {
    const std::int64_t image = p.h * p.w * p.c;
    ahead_lines = (p.c * static_cast<std::int64_t>(sizeof(S)) + 63) / 64;
    ahead = carver.take<AheadLine>(ahead_lines);
    if (kWiden || !p.x.adjacent()) {
      images = std::clamp<std::int64_t>(kBatchBytes / (image * static_cast<std::int64_t>(sizeof(S))), 1, p.n);
      packed_x = carver.take<S>(images * image);
      if (kWiden) narrow_x = carver.take<std::uint16_t>(slot_count * p.w * p.c);
    }
    if (!p.y.adjacent()) {
      const std::int64_t line = p.taps() * static_cast<std::int64_t>(sizeof(T));
      block = packed_block<T>(p);
      pixels = std::clamp<std::int64_t>(kPackedStripBytes / (line * block), 1, pixels);
    }
    if (!p.offsets_adjacent()) {
      const std::int64_t most = std::max<std::int64_t>(kPackedTaps / p.lanes(), 1);
      pixels = std::min(pixels, most < kLinePixels ? most : most / kLinePixels * kLinePixels);
    }
    this->carve_slots(carver, p, slot_count, used);
  }
};

template <class T>
struct Output {
  T* y;
  std::int64_t kh_stride, wo_stride, w_stride, c0, c1;
};

template <Kind kKind, bool kInterior, bool kStream, std::size_t kLanes, class T, class S, class At,
          class F = Compute<T>>
HWY_NOINLINE void BlendPixel(const Problem& p, const Grid& grid, const ForwardPlan<T, S, At>& plan,
                             const S* x, const Cells<F, At>& cells, const std::int64_t* dead_shift, F* sums,
                             const Output<T>& out) {
  const std::int64_t channels = p.group_channels(), taps = p.taps();
  const S* below = x + kRowsAhead * grid.h_stride;
  if constexpr (kKind == kGather) GatherPixel<kInterior>(cells, x, grid, p.lanes(), sums);
  std::int64_t k = 0, line = 0;
  for (std::int64_t kh = 0; kh < p.kh; ++kh)
    for (std::int64_t kw = 0; kw < p.kw; ++kw, ++k) {
      for (const std::int64_t last = (k + 1) * plan.ahead_lines / taps; line < last; ++line)
        hwy::Prefetch(below + cells.at[plan.ahead[line].lane] + plan.ahead[line].extra);
      T* row = out.y + kh * out.kh_stride + kw * out.w_stride;
      if constexpr (kKind == kGather) {
        TransposeTaps<kStream>(sums, p.groups, taps, k, row);
      } else if constexpr (kKind == kOne) {
        BlendOne<kInterior, kStream, kLanes>(cells, x, grid, dead_shift, k, p.lanes(), taps, row);
      } else {
        for (std::int64_t g = out.c0 / channels; g * channels < out.c1; ++g) {
          const std::int64_t first = std::max(g * channels, out.c0),
                             last = std::min((g + 1) * channels, out.c1);
          BlendRow<kKind, kInterior, kStream>(cells, x + (first - g * channels), grid, dead_shift,
                                              g * taps + k, last - first, row + first - out.c0);
        }
      }
    }
}

template <Kind kKind, std::size_t kLanes, class T, class S, class At, class O, class F = Compute<T>>
void ForwardItems(const Problem& p, const Workers& workers, void* workspace) {
  const ForwardPlan<T, S, At> plan(Carver(workspace), p, workers.slots(), nullptr);
  std::memset(static_cast<void*>(plan.zeros), 0, static_cast<std::size_t>(p.group_channels()) * sizeof(S));
  plan.table.fill(p);
  const std::int64_t channels = p.group_channels();
  for (std::int64_t j = 0; j < plan.ahead_lines; ++j) {
    const std::int64_t c = j * 64 / static_cast<std::int64_t>(sizeof(S)), g = c / channels;
    plan.ahead[j] = {g * p.taps() + p.taps() / 2, c - g * channels};
  }
  // What is stored at once: a vector; two of 16 bits, where there are two.
  constexpr std::int64_t kVector = hn::MaxLanes(hn::CappedTag<F, kLanes>());
  const std::int64_t run = kKind == kExact ? channels : p.c;  // that lies together
  const std::int64_t at_once = sizeof(T) == 2 && run >= 2 * kVector ? 2 * kVector : kVector;
  const std::int64_t stored = std::max<std::int64_t>(16, at_once * static_cast<std::int64_t>(sizeof(T)));
  const auto aligned = [&](std::int64_t elements) {
    return elements * static_cast<std::int64_t>(sizeof(T)) % stored == 0;
  };
  const bool stream = kKind != kTails && p.y.adjacent() && !p.soon && aligned(run) &&
                      reinterpret_cast<std::uintptr_t>(p.y.data) % static_cast<std::uintptr_t>(stored) == 0 &&
                      aligned(p.y.n) && aligned(p.y.h) && aligned(p.y.ho) && aligned(p.y.w) &&
                      aligned(p.y.wo);

  const auto row = [&](std::int64_t n0, std::int64_t i0, std::int64_t ho, int slot_index) HWY_ATTR {
    auto slot = plan.slot(p, slot_index);
    const std::int64_t n = n0 + i0;
    const Image<const S> x = plan.packed_x
                                 ? Image<const S>{plan.packed_x + i0 * p.h * p.w * p.c, p.w * p.c, p.c}
                                 : image_in_place<const S>(p.x, n);
    const Grid grid{p.h, p.w, x.h_stride, x.w_stride, p.closed};
    const std::int64_t dead_shift[2] = {
        0, (reinterpret_cast<const char*>(plan.zeros) - reinterpret_cast<const char*>(x.data)) /
                   static_cast<std::int64_t>(sizeof(S)) -
               Cells<F, At>::kDead};
    for (std::int64_t wo0 = 0; wo0 < p.wo; wo0 += plan.pixels) {
      const std::int64_t count = std::min(plan.pixels, p.wo - wo0);
      const O* planes[3] = {};
      std::int64_t pitch = p.offsets.w;
      for (std::int64_t q = 0; q < p.planes(); ++q)
        if (p.offsets_adjacent()) {
          planes[q] = reinterpret_cast<const O*>(p.offsets.at(n, ho, wo0, q * p.lanes()));
        } else {
          pitch = p.lanes();
          char* to = slot.offsets + q * plan.pixels * p.lanes() * static_cast<std::int64_t>(sizeof(O));
          const bool apart = p.offsets_planes[0].data != nullptr;
          const View& view = apart ? p.offsets_planes[q] : p.offsets;
          const std::int64_t first = apart ? 0 : q * p.lanes(), last = first + p.lanes();
          if constexpr (std::is_same_v<O, float>)  // a mask of 16 bits beside float32 offsets is widened
            load_row(view, n, ho, wo0, count, first, last, reinterpret_cast<float*>(to), pitch, slot.narrow,
                     plan.pixels);
          else
            pack_row(view, n, ho, wo0, count, first, last, to, pitch, false, plan.pixels);
          planes[q] = reinterpret_cast<const O*>(to);
        }
      const auto locate = [&](std::int64_t i) HWY_ATTR {
        const O* at[3] = {planes[0] + i * pitch, planes[1] + i * pitch,
                          planes[2] ? planes[2] + i * pitch : nullptr};
        LocatePixel<O>(p, grid, plan.table, ho, wo0 + i, at, kPixelsAhead * pitch, slot.cells[i & 1]);
      };
      for (std::int64_t c0 = 0; c0 < p.c; c0 += plan.block) {
        const std::int64_t c1 = std::min(c0 + plan.block, p.c), columns = count * p.kw;
        Output<T> out{slot.y, columns * (c1 - c0), p.kw * (c1 - c0), c1 - c0, c0, c1};
        if (p.y.adjacent())
          out = {reinterpret_cast<T*>(p.y.tap(n, ho, 0, wo0, 0, 0)), p.y.h, p.y.wo, p.y.w, 0, p.c};
        locate(0);
        for (std::int64_t i = 0; i < count; ++i) {
          if (i + 1 < count) locate(i + 1);
          const auto& cells = slot.cells[i & 1];
          const auto blend = [&](auto interior, auto streams) HWY_ATTR {
            if constexpr (kKind != kTails || !streams())
              BlendPixel<kKind, interior(), streams(), kLanes>(p, grid, plan, x.data, cells, dead_shift,
                                                               slot.sums, out);
          };
          if (cells.interior)
            stream ? blend(std::true_type(), std::true_type()) : blend(std::true_type(), std::false_type());
          else
            stream ? blend(std::false_type(), std::true_type()) : blend(std::false_type(), std::false_type());
          out.y += out.wo_stride;
        }
        if (!p.y.adjacent())
          for (std::int64_t kh = 0; kh < p.kh; ++kh)
            unpack_row(p.y, n, ho * p.kh + kh, wo0 * p.kw, columns, c0, c1, slot.y + kh * columns * (c1 - c0),
                       c1 - c0);
      }
    }
    if (stream) hwy::FlushStream();
  };

  for (std::int64_t n0 = 0; n0 < p.n; n0 += plan.images) {
    const std::int64_t images = std::min(plan.images, p.n - n0);
    for (std::int64_t i = 0; plan.packed_x && i < images; ++i) {
      S* to = plan.packed_x + i * p.h * p.w * p.c;
      if constexpr (plan.kWiden)
        load_image(workers, p.x, n0 + i, p.h, p.w, 0, p.c, to, p.c, plan.narrow_x);
      else
        pack_image(workers, p.x, n0 + i, p.h, p.w, 0, p.c, to, p.c);
    }
    workers.run(images * p.ho, [&](std::int64_t i, int slot) { row(n0, i / p.ho, i % p.ho, slot); });
  }
}

template <class T, class S, class O>
void ForwardKinds(const Problem& p, const Workers& workers, void* workspace) {
  using F = Compute<T>;
  using At = std::int32_t;
  constexpr std::size_t kFull = hn::MaxLanes(hn::ScalableTag<F>());
  const auto channels = static_cast<std::size_t>(p.group_channels());
  if (p.y.adjacent() || packed_block<T>(p) == p.c) {
    if constexpr (std::is_same_v<S, F>) {
      if (channels == 1) return ForwardItems<kGather, kFull, T, S, At, O>(p, workers, workspace);
      if (channels == 2 && kFull > 2) return ForwardItems<kOne, 2, T, S, At, O>(p, workers, workspace);
      if (channels == 4 && kFull > 4) return ForwardItems<kOne, 4, T, S, At, O>(p, workers, workspace);
      if (channels == 8 && kFull > 8) return ForwardItems<kOne, 8, T, S, At, O>(p, workers, workspace);
    }
    if (channels % kFull == 0) return ForwardItems<kExact, kFull, T, S, At, O>(p, workers, workspace);
  }
  return ForwardItems<kTails, kFull, T, S, At, O>(p, workers, workspace);
}

// Do addresses fit 32 bits?
inline bool fits_32_bits(const Problem& p) {
  const std::int64_t span = (p.h - 1) * std::abs(p.x.h) + (p.w - 1) * std::abs(p.x.w) + p.c;
  return std::max(span, p.h * p.w * p.c) < std::int64_t{1} << 31 &&
         p.base_h(p.ho, p.kh) + p.top < kNarrowSide && p.base_w(p.wo, p.kw) + p.left < kNarrowSide &&
         std::max(p.h, p.w) < kNarrowSide;
}

template <class T, class O>
void ForwardOf(const Problem& p, const Workers& workers, void* workspace) {
  if (!fits_32_bits(p))
    ForwardItems<kTails, hn::MaxLanes(hn::ScalableTag<Compute<T>>()), T, T, std::int64_t, O>(p, workers,
                                                                                             workspace);
  else if (widened(p))
    ForwardKinds<T, Compute<T>, O>(p, workers, workspace);
  else
    ForwardKinds<T, T, O>(p, workers, workspace);
}

void Forward(const Problem& p, const Workers& workers, void* workspace) {
  bool wide = p.offsets.dtype == DType::float32;
  for (const View& plane : p.offsets_planes) wide |= plane.data && plane.dtype == DType::float32;
  switch (p.x.dtype) {
    case DType::float16:
      return wide ? ForwardOf<float16_t, float>(p, workers, workspace)
                  : ForwardOf<float16_t, float16_t>(p, workers, workspace);
    case DType::bfloat16:
      return wide ? ForwardOf<bfloat16_t, float>(p, workers, workspace)
                  : ForwardOf<bfloat16_t, bfloat16_t>(p, workers, workspace);
    case DType::float32: return ForwardOf<float, float>(p, workers, workspace);
    case DType::float64: return ForwardOf<double, double>(p, workers, workspace);
  }
}

template <class T>
std::size_t ForwardWorkspaceOf(const Problem& p, int slots) {
  std::size_t used = 0;
  if (!fits_32_bits(p))
    ForwardPlan<T, T, std::int64_t>(Carver(), p, slots, &used);
  else if (widened(p))
    ForwardPlan<T, Compute<T>, std::int32_t>(Carver(), p, slots, &used);
  else
    ForwardPlan<T, T, std::int32_t>(Carver(), p, slots, &used);
  return used;
}

std::size_t ForwardWorkspace(const Problem& p, int slots) {
  switch (p.x.dtype) {
    case DType::float16: return ForwardWorkspaceOf<float16_t>(p, slots);
    case DType::bfloat16: return ForwardWorkspaceOf<bfloat16_t>(p, slots);
    case DType::float32: return ForwardWorkspaceOf<float>(p, slots);
    default: return ForwardWorkspaceOf<double>(p, slots);
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {

HWY_EXPORT(Forward);
HWY_EXPORT(ForwardWorkspace);

double forward_cost(const Problem&) { return 1; }

std::size_t forward_workspace(const Problem& p, int slots) {
  return HWY_DYNAMIC_DISPATCH(ForwardWorkspace)(p, slots);
}

void forward(const Problem& p, const Workers& workers, void* workspace) {
  HWY_DYNAMIC_DISPATCH(Forward)(p, workers, workspace);
}

// The best of the targets that this CPU has and this build was compiled for.
const char* simd_target() {
  const auto targets = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(targets & -targets);
}

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
