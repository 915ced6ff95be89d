// SPDX-License-Identifier: Apache-2.0
// Forward, row by row: every output row (n, ho) is one item; its pixels and taps go in order, and a tap's
// channels in vectors: four loads, four multiply-adds, one store. Docs: docs/operators.md, "Forward".
//
// Moves: x, offsets and y once; x rows are read again from cache. Scratch: one strip a slot; where channels
// are not adjacent, one packed image of x and a packed strip of y a slot. Deterministic: an output element is
// one sum of four terms in one order, whoever computes it.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/forward.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/simd.h"
#include "cpu/cpu.h"
#include "cpu/geometry.h"
#include "cpu/rows.h"

#ifndef TAPFIELD_CPU_FORWARD_ONCE_
#define TAPFIELD_CPU_FORWARD_ONCE_
namespace tapfield::cpu {

// A strip of packed y stays in L2.
constexpr std::int64_t kPackedStripBytes = 256 << 10;

template <class F>
struct ForwardScratch {
  std::int64_t pixels;              // of a strip
  std::int64_t block;               // channels that y is packed in at a time
  char* zeros;                      // [c] of T
  char* packed_x = nullptr;         // [h][w][c] of T, one image
  char* packed_y = nullptr;         // [slots][kh][pixels * kw][block] of T
  std::int64_t packed_y_bytes = 0;  // a slot
  Carver strips;                    // where the slots' strips begin

  ForwardScratch(Carver carver, const Problem& p, int slots, std::size_t* used) : strips(carver) {
    const std::int64_t size = size_of(p.x.dtype);
    pixels = std::min(Strip<F>::pixels(p.lanes()), p.wo);
    block = p.c;
    zeros = carver.take<char>(p.c * size);
    if (!p.x.adjacent()) packed_x = carver.take<char>(p.h * p.w * p.c * size);
    if (!p.y.adjacent()) {
      const std::int64_t line = p.taps() * size;  // of one pixel and channel
      block = std::clamp<std::int64_t>(kPackedStripBytes / line, 1, p.c);
      pixels = std::clamp<std::int64_t>(kPackedStripBytes / (line * block), 1, pixels);
      packed_y_bytes = pixels * block * line;
      packed_y = carver.take<char>(packed_y_bytes * slots);
    }
    strips = carver;
    for (int s = 0; s < slots; ++s) Strip<F>(carver, p, p.lanes());
    if (used) *used = carver.used();
  }
};

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

template <bool kTail, class T, class D, class V>
HWY_INLINE void BlendVector(D d, const CornerRows<const T>& x, std::int64_t c, V w00, V w01, V w10, V w11,
                            T* y, std::size_t n) {
  auto sum = hn::Mul(w00, LoadN<kTail>(d, x.p00 + c, n));
  sum = hn::MulAdd(w01, LoadN<kTail>(d, x.p01 + c, n), sum);
  sum = hn::MulAdd(w10, LoadN<kTail>(d, x.p10 + c, n), sum);
  sum = hn::MulAdd(w11, LoadN<kTail>(d, x.p11 + c, n), sum);
  StoreN<kTail>(sum, d, y + c, n);
}

// y[0, channels) = the blend of one live tap's corner rows.
template <class T, class F = Compute<T>>
HWY_INLINE void BlendRow(const CornerRows<const T>& x, const F* weights, T* HWY_RESTRICT y,
                         std::int64_t channels) {
  const hn::ScalableTag<F> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto w00 = hn::Set(d, weights[0]), w01 = hn::Set(d, weights[1]), w10 = hn::Set(d, weights[2]),
             w11 = hn::Set(d, weights[3]);
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) BlendVector<false>(d, x, c, w00, w01, w10, w11, y, 0);
  if (c < channels) BlendVector<true>(d, x, c, w00, w01, w10, w11, y, static_cast<std::size_t>(channels - c));
}

// All taps of a located strip, channels [c0, c1), to rows of y: tap (kh, kw) of pixel i at
// y[kh * kh_stride + i * wo_stride + kw * w_stride + c - c0].
template <class T, class F>
void ForwardStrip(const Problem& p, const Strip<F>& s, const Image<const T>& x, const T* zeros,
                  std::int64_t c0, std::int64_t c1, T* y, std::int64_t kh_stride, std::int64_t wo_stride,
                  std::int64_t w_stride) {
  const std::int64_t channels = p.group_channels();
  for (std::int64_t i = 0; i < s.count; ++i)
    for (std::int64_t g = c0 / channels; g * channels < c1; ++g) {
      const std::int64_t first = std::max(g * channels, c0), last = std::min((g + 1) * channels, c1);
      for (std::int64_t kh = 0; kh < p.kh; ++kh)
        for (std::int64_t kw = 0; kw < p.kw; ++kw) {
          const std::int64_t at = i * s.pitch + (g * p.kh + kh) * p.kw + kw;
          T* row = y + kh * kh_stride + i * wo_stride + kw * w_stride + first - c0;
          if (s.h0[at] == kDead)
            std::memset(static_cast<void*>(row), 0, static_cast<std::size_t>(last - first) * sizeof(T));
          else
            BlendRow<T>(CornerRows<const T>(x, p.h, p.w, s.h0[at], s.w0[at], first, zeros),
                        s.weights + 4 * at, row, last - first);
        }
    }
}

template <class T, class F = Compute<T>>
void ForwardT(const Problem& p, const Workers& workers, void* workspace) {
  const ForwardScratch<F> scratch(Carver(workspace), p, workers.slots(), nullptr);
  std::memset(scratch.zeros, 0, static_cast<std::size_t>(p.c) * sizeof(T));
  const auto* zeros = reinterpret_cast<const T*>(scratch.zeros);

  const auto row = [&](std::int64_t n, std::int64_t ho, int slot) HWY_ATTR {
    Carver carver = scratch.strips;
    for (int s = 0; s < slot; ++s) Strip<F>(carver, p, p.lanes());
    Strip<F> strip(carver, p, p.lanes());
    strip.n = n, strip.ho = ho, strip.lanes = p.lanes();
    const auto* packed = reinterpret_cast<const T*>(scratch.packed_x);
    const Image<const T> x =
        packed ? Image<const T>{packed, p.w * p.c, p.c} : image_in_place<const T>(p.x, n);
    T* packed_y = reinterpret_cast<T*>(scratch.packed_y + slot * scratch.packed_y_bytes);
    for (strip.wo0 = 0; strip.wo0 < p.wo; strip.wo0 += scratch.pixels) {
      strip.count = std::min(scratch.pixels, p.wo - strip.wo0);
      locate(p, strip);
      if (!scratch.packed_y) {
        T* y = reinterpret_cast<T*>(p.y.tap(n, ho, 0, strip.wo0, 0, 0));
        ForwardStrip<T>(p, strip, x, zeros, 0, p.c, y, p.y.h, p.y.wo, p.y.w);
        continue;
      }
      const std::int64_t columns = strip.count * p.kw;
      for (std::int64_t c0 = 0; c0 < p.c; c0 += scratch.block) {
        const std::int64_t c1 = std::min(c0 + scratch.block, p.c), pitch = c1 - c0;
        ForwardStrip<T>(p, strip, x, zeros, c0, c1, packed_y, columns * pitch, p.kw * pitch, pitch);
        for (std::int64_t kh = 0; kh < p.kh; ++kh)
          unpack_row(p.y, n, ho * p.kh + kh, strip.wo0 * p.kw, columns, c0, c1,
                     packed_y + kh * columns * pitch, pitch);
      }
    }
  };

  if (!scratch.packed_x) {
    workers.run(p.n * p.ho, [&](std::int64_t i, int slot) { row(i / p.ho, i % p.ho, slot); });
    return;
  }
  for (std::int64_t n = 0; n < p.n; ++n) {
    pack_image(workers, p.x, n, p.h, p.w, 0, p.c, scratch.packed_x, p.c);
    workers.run(p.ho, [&](std::int64_t ho, int slot) { row(n, ho, slot); });
  }
}

void Forward(const Problem& p, const Workers& workers, void* workspace) {
  switch (p.x.dtype) {
    case DType::float16: return ForwardT<float16_t>(p, workers, workspace);
    case DType::bfloat16: return ForwardT<bfloat16_t>(p, workers, workspace);
    case DType::float32: return ForwardT<float>(p, workers, workspace);
    case DType::float64: return ForwardT<double>(p, workers, workspace);
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {

HWY_EXPORT(Forward);

double forward_cost(const Problem&) { return 1; }

std::size_t forward_workspace(const Problem& p, int slots) {
  std::size_t used = 0;
  if (p.x.dtype == DType::float64)
    ForwardScratch<double>(Carver(), p, slots, &used);
  else
    ForwardScratch<float>(Carver(), p, slots, &used);
  return used;
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
