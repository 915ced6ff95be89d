// SPDX-License-Identifier: Apache-2.0
// What windowed.cpp works on, batch by batch: where its tensors' channels lie, in place or in scratch; and
// the taps that fall outside their windows, which are listed and added last. Included once per target.
#if defined(TAPFIELD_CPU_OUTLIERS_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPFIELD_CPU_OUTLIERS_H_
#undef TAPFIELD_CPU_OUTLIERS_H_
#else
#define TAPFIELD_CPU_OUTLIERS_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "cpu/windowed.h"

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// A batch of images, and the taps outside their windows: List and AddListed.
template <class F, bool kSecond>
struct WindowedTensors {
  const Problem& p;
  const Workers& workers;
  const WindowsScratch<F>& scratch;
  std::int64_t n0, images;
  const WindowsPlan plan;
  using Slot = typename WindowsScratch<F>::Slot;

  const Tiling& tiling() const { return plan.tiling; }
  std::int64_t band_rows(std::int64_t band) const {  // of output pixels
    return std::min(tiling().rows, p.ho - band * tiling().rows);
  }
  std::int64_t tile_columns(std::int64_t tile) const {
    return std::min(tiling().columns, p.wo - tile * tiling().columns);
  }
  // Channels of an image from c on, in scratch (if it is there) or in place.
  template <class E>
  Image<E> image(F* packed, const View& view, std::int64_t i, std::int64_t c) const {
    Image<E> r =
        packed ? Image<E>{packed + i * p.h * p.w * p.c, p.w * p.c, p.c} : image_in_place<E>(view, n0 + i);
    r.data += c;
    return r;
  }
  auto x(std::int64_t i, std::int64_t c) const { return image<const F>(scratch.x, p.x, i, c); }
  auto u(std::int64_t i, std::int64_t c) const { return image<const F>(scratch.u, p.gg_x, i, c); }
  auto sums(std::int64_t i, std::int64_t c) const { return image<F>(scratch.sums, p.grad_x, i, c); }
  // A strip's pixel `i`: from where lane_grad and lane_grad_grad count. c0: the block's first channel.
  F* GradOf(const Slot& slot, std::int64_t i, std::int64_t c0) const {
    const Strip<F>& s = slot.strip;
    return scratch.direct_grad ? reinterpret_cast<F*>(p.grad.tap(s.n, s.ho, 0, s.wo0 + i, 0, c0))
                               : slot.grad + (s.wo0 - s.fetched_wo0 + i) * p.kw * scratch.width;
  }
  F* GradGradOf(const Slot& slot, std::int64_t i, std::int64_t c0) const {
    const Strip<F>& s = slot.strip;
    return scratch.direct_grad_grad ? reinterpret_cast<F*>(p.grad_grad.tap(s.n, s.ho, 0, s.wo0 + i, 0, c0))
                                    : slot.grad_grad + (s.wo0 - s.fetched_wo0 + i) * p.kw * scratch.width;
  }
  // Of a located strip: what a tap adds to its corners' sums.
  static const F* weights(const Strip<F>& s) { return kSecond ? s.second : s.weights; }
  // The taps outside their windows of a tile's block, as numbers of taps of the image.
  std::uint32_t* outliers(std::int64_t i, std::int64_t band, std::int64_t tile, std::int64_t block) const {
    const std::int64_t pixels =
        (i * p.ho + band * tiling().rows) * p.wo + band_rows(band) * tile * tiling().columns;
    return scratch.outliers + pixels * p.lanes() +
           band_rows(band) * tile_columns(tile) * tiling().block_begin(block) * p.taps();
  }
  std::uint32_t& outlier_count(std::int64_t i, std::int64_t band, std::int64_t tile,
                               std::int64_t block) const {
    const std::int64_t at = (i * tiling().bands + band) * tiling().tiles + tile;
    return scratch.outlier_counts[at * tiling().blocks + block];
  }

  // Where samples replace grad: keeps grad of a strip's outliers, which is still to be added; puts it back.
  template <bool kKeep>
  void MoveOutliers(const Slot& slot, std::int64_t c0, std::int32_t dump) const {
    const Strip<F>& s = slot.strip;
    F* kept = slot.kept;
    for (std::int64_t j = 0; j < s.count; ++j)
      for (std::int64_t l = 0; l < s.lanes; ++l) {
        if (slot.cells[j * s.pitch + l] != dump || s.h0[j * s.pitch + l] == kDead) continue;
        F* grad = GradOf(slot, j, c0) + slot.lane_grad[l];
        std::copy_n(kKeep ? grad : kept, p.group_channels(), kKeep ? kept : grad);
        kept += p.group_channels();
      }
  }

  // Which they are; their dots, and their rows of grad_grad.
  void List(std::int64_t i, std::int64_t band, std::int64_t tile, std::int64_t block, Slot& slot,
            std::int32_t dump) const {
    const Strip<F>& s = slot.strip;
    const std::int64_t channels = p.group_channels(), c0 = s.lane0 / p.taps() * channels;
    const Image<const F> x_image = x(i, 0), u_image = kSecond && p.gg_x.data ? u(i, 0) : Image<const F>();
    std::uint32_t* list = outliers(i, band, tile, block);
    std::uint32_t& count = outlier_count(i, band, tile, block);
    for (std::int64_t j = 0; j < s.count; ++j)
      for (std::int64_t l = 0; l < s.lanes; ++l) {
        const std::int64_t at = j * s.pitch + l, lane = s.lane0 + l, c = lane / p.taps() * channels;
        if (slot.cells[at] != dump || s.h0[at] == kDead) continue;
        list[count++] = static_cast<std::uint32_t>((s.ho * p.wo + s.wo0 + j) * p.lanes() + lane);
        const F* grad = GradOf(slot, j, c0) + slot.lane_grad[l];
        const CornerRows<const F> v(x_image, p.h, p.w, s.h0[at], s.w0[at], c, scratch.zeros);
        Dots(grad, v, slot.dots + 4 * at);
        if constexpr (kSecond) {
          const auto w = u_image.data
                             ? CornerRows<const F>(u_image, p.h, p.w, s.h0[at], s.w0[at], c, scratch.zeros)
                             : CornerRows<const F>(scratch.zeros);
          Dots(grad, w, slot.dots_u + 4 * at);
          F* out = GradGradOf(slot, j, c0) + slot.lane_grad_grad[l];
          const F *a = s.second + 4 * at, *b = s.weights + 4 * at;
          for (std::int64_t k = 0; k < channels; ++k)
            out[k] = (a[0] * v.p00[k] + a[1] * v.p01[k] + a[2] * v.p10[k] + a[3] * v.p11[k]) +
                     (b[0] * w.p00[k] + b[1] * w.p01[k] + b[2] * w.p10[k] + b[3] * w.p11[k]);
        }
      }
  }

  void Dots(const F* grad, const CornerRows<const F>& corners, F* to) const {
    F dots[4] = {};
    for (std::int64_t c = 0; c < p.group_channels(); ++c) {
      dots[0] += grad[c] * corners.p00[c], dots[1] += grad[c] * corners.p01[c];
      dots[2] += grad[c] * corners.p10[c], dots[3] += grad[c] * corners.p11[c];
    }
    std::copy_n(dots, 4, to);
  }

  // What they add to grad_x; and their samples.
  void AddListed(std::int64_t i, std::int64_t block, Slot& slot) const {
    Strip<F>& s = slot.strip;
    const std::int64_t channels = p.group_channels();
    const Image<F> to = sums(i, 0);
    for (std::int64_t at = 0; at < tiling().bands * tiling().tiles; ++at) {
      const std::int64_t band = at / tiling().tiles, tile = at % tiling().tiles;
      for (std::uint32_t o = 0; o < outlier_count(i, band, tile, block); ++o) {
        const std::int64_t tap = outliers(i, band, tile, block)[o], pixel = tap / p.lanes(),
                           lane = tap % p.lanes();
        const std::int64_t g = lane / p.taps(), k = lane % p.taps();
        s.n = n0 + i, s.ho = pixel / p.wo, s.wo0 = pixel % p.wo, s.count = 1, s.lane0 = g * p.taps(),
        s.lanes = p.taps();
        fetch(p, s);
        locate(p, s);
        View row = p.grad;
        row.data = p.grad.tap(s.n, s.ho, k / p.kw, s.wo0, k % p.kw, g * channels);
        const F* grad = reinterpret_cast<const F*>(row.data);
        if (!scratch.direct_grad) {
          load_row(row, 0, 0, 0, 1, 0, channels, slot.grad, channels, slot.narrow_grad);
          grad = slot.grad;
        }
        const CornerRows<F> corners(to, p.h, p.w, s.h0[k], s.w0[k], g * channels, nullptr);
        F* const rows[4] = {corners.p00, corners.p01, corners.p10, corners.p11};
        for (int corner = 0; corner < 4; ++corner)
          for (std::int64_t c = 0; rows[corner] && c < channels; ++c)
            rows[corner][c] += weights(s)[4 * k + corner] * grad[c];
        if (!p.samples) continue;
        const F* w = s.weights + 4 * k;
        const CornerRows<const F> v(x(i, 0), p.h, p.w, s.h0[k], s.w0[k], g * channels, scratch.zeros);
        for (std::int64_t c = 0; c < channels; ++c)
          slot.kept[c] = w[0] * v.p00[c] + w[1] * v.p01[c] + w[2] * v.p10[c] + w[3] * v.p11[c];
        store_row(row, 0, 0, 0, 1, 0, channels, slot.kept, channels, slot.narrow_grad);
      }
    }
  }
};

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
