// SPDX-License-Identifier: Apache-2.0
// Second derivative, row by row. Image by image, and where tensors must be packed a block of channels at a
// time:
//   1. rows of output pixels: each tap's row of grad_grad, and its eight dots (grad with v = x and with u =
//   gg_x);
//   2. pieces of channels: each tap's scaled grad added to its four corner rows of grad_x, taps in natural
//   order;
//   3. rows of output pixels: grad_offsets from the dots.
// Docs: docs/operators.md, "Second derivative".
//
// Scratch: eight dots a tap; gg_x in the type computed in, if it is another; where grad_x cannot be summed
// into, an image of sums; packed tensors. Deterministic: an element of grad_x is summed in natural order
// whichever piece has its channel; dots add up in block order.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/grad_grad.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/simd.h"
#include "cpu/cpu.h"
#include "cpu/geometry.h"
#include "cpu/rows.h"

#ifndef TAPFIELD_CPU_GRAD_GRAD_ONCE_
#define TAPFIELD_CPU_GRAD_GRAD_ONCE_
namespace tapfield::cpu {

constexpr std::int64_t kPieceChannels = 16;      // a line of float32: two pieces never write to one
constexpr std::int64_t kStripBytes = 256 << 10;  // a packed strip of grad stays in L2

template <class F>
struct SecondScratch {
  std::int64_t block;   // channels worked on together
  std::int64_t pixels;  // of a strip
  char* zeros;          // [block] of F, or of T
  F* dots;              // [taps of an image][8]
  char* x = nullptr;    // [h][w][block] of T; null: in place
  F* u = nullptr;       // [h][w][block]; null: gg_x in place, or absent
  F* sums = nullptr;    // [h][w][block]; null: grad_x in place
  std::uint16_t* rows;  // [slots][w * block], rows on their way from or to 16 bits
  bool pack_grad, pack_grad_grad;
  std::int64_t strip_bytes = 0;  // of packed grad or grad_grad
  Carver slots;

  struct Slot {
    Strip<F> strip;
    F* outside;              // [block], written for corners outside
    char *grad, *grad_grad;  // [kh][pixels * kw][block] of T, if packed
    Slot(Carver& carver, const Problem& p, const SecondScratch& s)
        : strip(carver, p, p.lanes()),
          outside(carver.take<F>(s.block)),
          grad(carver.take<char>(s.pack_grad ? s.strip_bytes : 0)),
          grad_grad(carver.take<char>(s.pack_grad_grad ? s.strip_bytes : 0)) {}
  };
  Slot slot(const Problem& p, int index) const {
    Carver carver = slots;
    for (int s = 0; s < index; ++s) Slot(carver, p, *this);
    return Slot(carver, p, *this);
  }

  SecondScratch(Carver carver, const Problem& p, int slot_count, std::size_t* used) : slots(carver) {
    const std::int64_t size = size_of(p.x.dtype);
    pack_grad = !p.grad.adjacent(), pack_grad_grad = !p.grad_grad.adjacent();
    const bool adjacent = p.x.adjacent() && p.grad_x.adjacent() && (!p.gg_x.data || p.gg_x.adjacent()) &&
                          !pack_grad && !pack_grad_grad;
    block = adjacent ? p.c : channel_block(p.c);
    pixels = std::min(Strip<F>::pixels(p.lanes()), p.wo);
    if (pack_grad || pack_grad_grad) {
      const std::int64_t pixel_bytes = p.taps() * block * size;
      pixels = std::clamp<std::int64_t>(kStripBytes / pixel_bytes, 1, pixels);
      strip_bytes = pixels * pixel_bytes;
    }
    zeros = carver.take<char>(block * static_cast<std::int64_t>(sizeof(F)));
    dots = carver.take<F>(8 * p.ho * p.wo * p.lanes() +
                          128);  // finish reads up to a vector of taps past the last
    if (!p.x.adjacent()) x = carver.take<char>(p.h * p.w * block * size);
    const bool load_u = p.gg_x.data && !plain<F>(p.gg_x), store_sums = !plain<F>(p.grad_x);
    if (load_u) u = carver.take<F>(p.h * p.w * block);
    if (store_sums) sums = carver.take<F>(p.h * p.w * block);
    rows = carver.take<std::uint16_t>(load_u || store_sums ? slot_count * p.w * block
                                                           : 0);  // not `u`: null when measured
    slots = carver;
    for (int s = 0; s < slot_count; ++s) Slot(carver, p, *this);
    if (used) *used = carver.used();
  }
};

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// ------ Phase 1: a tap's row of grad_grad and its dots

template <bool kTail, class T, class D, class V, class F = hn::TFromD<D>>
HWY_INLINE void SecondVector(D d, const CornerRows<const T>& x, const CornerRows<const F>& u, const T* grad,
                             T* grad_grad, std::int64_t c, const V (&wv)[4], const V (&wu)[4], V (&dots)[8],
                             std::size_t n) {
  const auto g = LoadN<kTail>(d, grad + c, n);
  const V v_ab[4] = {LoadN<kTail>(d, x.p00 + c, n), LoadN<kTail>(d, x.p01 + c, n),
                     LoadN<kTail>(d, x.p10 + c, n), LoadN<kTail>(d, x.p11 + c, n)};
  const V u_ab[4] = {LoadN<kTail>(d, u.p00 + c, n), LoadN<kTail>(d, u.p01 + c, n),
                     LoadN<kTail>(d, u.p10 + c, n), LoadN<kTail>(d, u.p11 + c, n)};
  V sum = hn::Mul(wv[0], v_ab[0]);
  for (int k = 1; k < 4; ++k) sum = hn::MulAdd(wv[k], v_ab[k], sum);
  for (int k = 0; k < 4; ++k) sum = hn::MulAdd(wu[k], u_ab[k], sum);
  StoreN<kTail>(sum, d, grad_grad + c, n);
  for (int k = 0; k < 4; ++k) dots[k] = hn::MulAdd(g, v_ab[k], dots[k]);
  for (int k = 0; k < 4; ++k) dots[4 + k] = hn::MulAdd(g, u_ab[k], dots[4 + k]);
}

template <class T, class F = Compute<T>>
HWY_INLINE void SecondRow(const CornerRows<const T>& x, const CornerRows<const F>& u, const T* grad,
                          T* grad_grad, std::int64_t channels, const F* second, const F* weights,
                          F (&out)[8]) {
  const hn::ScalableTag<F> d;
  using V = hn::Vec<decltype(d)>;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  V wv[4], wu[4], dots[8];
  for (int k = 0; k < 4; ++k) wv[k] = hn::Set(d, second[k]), wu[k] = hn::Set(d, weights[k]);
  for (V& dot : dots) dot = hn::Zero(d);
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) SecondVector<false>(d, x, u, grad, grad_grad, c, wv, wu, dots, 0);
  if (c < channels)
    SecondVector<true>(d, x, u, grad, grad_grad, c, wv, wu, dots, static_cast<std::size_t>(channels - c));
  SumLanes4(d, dots[0], dots[1], dots[2], dots[3], out);
  SumLanes4(d, dots[4], dots[5], dots[6], dots[7], out + 4);
}

// ------ Phase 2: a tap's scaled grad, added to its corner rows

template <bool kTail, class T, class D, class V, class F = hn::TFromD<D>>
HWY_INLINE void ScatterVector(D d, const CornerRows<F>& sums, const T* grad, std::int64_t c, const V (&w)[4],
                              std::size_t n) {
  const auto g = LoadN<kTail>(d, grad + c, n);
  StoreN<kTail>(hn::MulAdd(w[0], g, LoadN<kTail>(d, sums.p00 + c, n)), d, sums.p00 + c, n);
  StoreN<kTail>(hn::MulAdd(w[1], g, LoadN<kTail>(d, sums.p01 + c, n)), d, sums.p01 + c, n);
  StoreN<kTail>(hn::MulAdd(w[2], g, LoadN<kTail>(d, sums.p10 + c, n)), d, sums.p10 + c, n);
  StoreN<kTail>(hn::MulAdd(w[3], g, LoadN<kTail>(d, sums.p11 + c, n)), d, sums.p11 + c, n);
}

template <class T, class F = Compute<T>>
HWY_INLINE void ScatterRow(const CornerRows<F>& sums, const T* grad, std::int64_t channels, const F* second) {
  const hn::ScalableTag<F> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const hn::Vec<decltype(d)> w[4] = {hn::Set(d, second[0]), hn::Set(d, second[1]), hn::Set(d, second[2]),
                                     hn::Set(d, second[3])};
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) ScatterVector<false>(d, sums, grad, c, w, 0);
  if (c < channels) ScatterVector<true>(d, sums, grad, c, w, static_cast<std::size_t>(channels - c));
}

// ------ One block of channels of one image

template <class T, class F>
struct Second {
  const Problem& p;
  const Workers& workers;
  const SecondScratch<F>& scratch;
  std::int64_t n, c0, c1;
  Image<const T> x;  // channel c0 first, as in all of these
  Image<const F> u;
  Image<F> sums;

  // Rows of grad or grad_grad of a strip: tap (kh, kw) of pixel i at data[kh * kh_stride + (i * Kw + kw) *
  // w_stride].
  struct StripRows {
    T* data;
    std::int64_t kh_stride, w_stride;
  };
  StripRows rows_of(const View& view, const Strip<F>& s, char* packed) const {
    const std::int64_t pitch = c1 - c0;
    if (packed) return {reinterpret_cast<T*>(packed), s.count * p.kw * pitch, pitch};
    return {reinterpret_cast<T*>(view.at(n, s.ho * p.kh, s.wo0 * p.kw, c0)), view.h, view.w};
  }

  // Calls visit(strip, rows of grad) for every located strip of row ho.
  template <class Visit>
  void for_each_strip(typename SecondScratch<F>::Slot& slot, std::int64_t ho, const Visit& visit) const {
    Strip<F>& s = slot.strip;
    s.n = n, s.ho = ho;
    for (s.wo0 = 0; s.wo0 < p.wo; s.wo0 += scratch.pixels) {
      s.count = std::min(scratch.pixels, p.wo - s.wo0);
      locate(p, s);
      const StripRows grad = rows_of(p.grad, s, scratch.pack_grad ? slot.grad : nullptr);
      if (scratch.pack_grad)
        for (std::int64_t kh = 0; kh < p.kh; ++kh)
          pack_row(p.grad, n, ho * p.kh + kh, s.wo0 * p.kw, s.count * p.kw, c0, c1,
                   grad.data + kh * grad.kh_stride, grad.w_stride);
      visit(s, grad);
    }
  }

  // Calls visit(at, kh, column, first, last) for the taps of a strip that have channels in [from, to): `at`
  // the tap in the strip, column = i * Kw + kw, [first, last) its group's channels among those.
  template <class Visit>
  void for_each_tap(const Strip<F>& s, std::int64_t from, std::int64_t to, const Visit& visit) const {
    const std::int64_t channels = p.group_channels();
    for (std::int64_t i = 0; i < s.count; ++i)
      for (std::int64_t g = from / channels; g * channels < to; ++g) {
        std::int64_t at = i * s.pitch + g * p.taps() - s.lane0;
        const std::int64_t first = std::max(g * channels, from), last = std::min((g + 1) * channels, to);
        for (std::int64_t kh = 0; kh < p.kh; ++kh)
          for (std::int64_t kw = 0; kw < p.kw; ++kw, ++at) visit(at, kh, i * p.kw + kw, first, last);
      }
  }

  void Row(std::int64_t ho, int slot_index) const {
    auto slot = scratch.slot(p, slot_index);
    slot.strip.lanes = p.lanes();
    const auto* x_zeros = reinterpret_cast<const T*>(scratch.zeros);
    const auto* u_zeros = reinterpret_cast<const F*>(scratch.zeros);
    for_each_strip(slot, ho, [&](const Strip<F>& s, const StripRows& grad) {
      const StripRows out = rows_of(p.grad_grad, s, scratch.pack_grad_grad ? slot.grad_grad : nullptr);
      for_each_tap(
          s, c0, c1,
          [&](std::int64_t at, std::int64_t kh, std::int64_t column, std::int64_t first, std::int64_t last)
              HWY_ATTR {
                T* row = out.data + kh * out.kh_stride + column * out.w_stride + first - c0;
                if (s.h0[at] == kDead) {
                  std::memset(static_cast<void*>(row), 0, static_cast<std::size_t>(last - first) * sizeof(T));
                  return;
                }
                const CornerRows<const T> v_rows(x, p.h, p.w, s.h0[at], s.w0[at], first - c0, x_zeros);
                const CornerRows<const F> u_rows =
                    p.gg_x.data ? CornerRows<const F>(u, p.h, p.w, s.h0[at], s.w0[at], first - c0, u_zeros)
                                : CornerRows<const F>(u_zeros);
                F sums8[8];
                SecondRow<T>(v_rows, u_rows,
                             grad.data + kh * grad.kh_stride + column * grad.w_stride + first - c0, row,
                             last - first, s.second + 4 * at, s.weights + 4 * at, sums8);
                const std::int64_t pixel = ho * p.wo + s.wo0 + at / s.pitch;
                F* dots = scratch.dots + 8 * (pixel * p.lanes() + at % s.pitch);
                const bool begins = first % p.group_channels() == 0;
                for (int k = 0; k < 8; ++k) dots[k] = begins ? sums8[k] : dots[k] + sums8[k];
              });
      for (std::int64_t kh = 0; scratch.pack_grad_grad && kh < p.kh; ++kh)
        unpack_row(p.grad_grad, n, ho * p.kh + kh, s.wo0 * p.kw, s.count * p.kw, c0, c1,
                   out.data + kh * out.kh_stride, out.w_stride);
    });
  }

  // grad_x of channels [from, to).
  void Piece(std::int64_t from, std::int64_t to, int slot_index) const {
    auto slot = scratch.slot(p, slot_index);
    const std::int64_t channels = p.group_channels(), g0 = from / channels, g1 = (to - 1) / channels + 1;
    slot.strip.lane0 = g0 * p.taps(), slot.strip.lanes = (g1 - g0) * p.taps();
    std::fill_n(slot.outside, scratch.block, F{0});
    for (std::int64_t h = 0; h < p.h; ++h)
      for (std::int64_t w = 0; w < p.w; ++w) std::fill_n(sums.at(h, w) + from - c0, to - from, F{0});
    for (std::int64_t ho = 0; ho < p.ho; ++ho)
      for_each_strip(slot, ho, [&](const Strip<F>& s, const StripRows& grad) {
        for_each_tap(
            s, from, to,
            [&](std::int64_t at, std::int64_t kh, std::int64_t column, std::int64_t first, std::int64_t last)
                HWY_ATTR {
                  if (s.h0[at] == kDead) return;
                  ScatterRow<T>(CornerRows<F>(sums, p.h, p.w, s.h0[at], s.w0[at], first - c0, slot.outside),
                                grad.data + kh * grad.kh_stride + column * grad.w_stride + first - c0,
                                last - first, s.second + 4 * at);
                });
      });
  }
};

template <class T, class F = Compute<T>>
void GradGradT(const Problem& p, const Workers& workers, void* workspace) {
  const SecondScratch<F> scratch(Carver(workspace), p, workers.slots(), nullptr);
  std::memset(scratch.zeros, 0, static_cast<std::size_t>(scratch.block) * sizeof(F));
  for (std::int64_t n = 0; n < p.n; ++n) {
    for (std::int64_t c0 = 0; c0 < p.c; c0 += scratch.block) {
      const std::int64_t c1 = std::min(c0 + scratch.block, p.c), pitch = c1 - c0;
      if (scratch.x) pack_image(workers, p.x, n, p.h, p.w, c0, c1, scratch.x, pitch);
      if (scratch.u) load_image(workers, p.gg_x, n, p.h, p.w, c0, c1, scratch.u, pitch, scratch.rows);
      Second<T, F> second{p,
                          workers,
                          scratch,
                          n,
                          c0,
                          c1,
                          {reinterpret_cast<const T*>(scratch.x), p.w * pitch, pitch},
                          {scratch.u, p.w * pitch, pitch},
                          {scratch.sums, p.w * pitch, pitch}};
      if (!scratch.x) second.x = image_in_place<const T>(p.x, n), second.x.data += c0;
      if (!scratch.u && p.gg_x.data) second.u = image_in_place<const F>(p.gg_x, n), second.u.data += c0;
      if (!scratch.sums) second.sums = image_in_place<F>(p.grad_x, n), second.sums.data += c0;

      workers.run(p.ho, [&](std::int64_t ho, int slot) { second.Row(ho, slot); });
      const std::int64_t lines = (pitch + kPieceChannels - 1) / kPieceChannels;
      const std::int64_t pieces = std::min<std::int64_t>(lines, workers.slots());
      workers.run(pieces, [&](std::int64_t piece, int slot) {
        const std::int64_t from = lines * piece / pieces * kPieceChannels,
                           to = lines * (piece + 1) / pieces * kPieceChannels;
        second.Piece(c0 + from, std::min(c0 + to, c1), slot);
      });
      if (scratch.sums)
        store_image(workers, p.grad_x, n, p.h, p.w, c0, c1, scratch.sums, pitch, scratch.rows);
    }
    workers.run(p.ho, [&](std::int64_t ho, int slot_index) {
      auto slot = scratch.slot(p, slot_index);
      Strip<F>& s = slot.strip;
      s.n = n, s.ho = ho, s.lanes = p.lanes();
      for (s.wo0 = 0; s.wo0 < p.wo; s.wo0 += scratch.pixels) {
        s.count = std::min(scratch.pixels, p.wo - s.wo0);
        locate(p, s);
        finish(p, s, scratch.dots + 8 * (ho * p.wo + s.wo0) * p.lanes(), p.lanes());
      }
    });
  }
}

void GradGrad(const Problem& p, const Workers& workers, void* workspace) {
  switch (p.x.dtype) {
    case DType::float16: return GradGradT<float16_t>(p, workers, workspace);
    case DType::bfloat16: return GradGradT<bfloat16_t>(p, workers, workspace);
    case DType::float32: return GradGradT<float>(p, workers, workspace);
    case DType::float64: return GradGradT<double>(p, workers, workspace);
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {

HWY_EXPORT(GradGrad);

double grad_grad_cost(const Problem&) { return 1; }

std::size_t grad_grad_workspace(const Problem& p, int slots) {
  std::size_t used = 0;
  if (p.x.dtype == DType::float64)
    SecondScratch<double>(Carver(), p, slots, &used);
  else
    SecondScratch<float>(Carver(), p, slots, &used);
  return used;
}

void grad_grad(const Problem& p, const Workers& workers, void* workspace) {
  HWY_DYNAMIC_DISPATCH(GradGrad)(p, workers, workspace);
}

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
