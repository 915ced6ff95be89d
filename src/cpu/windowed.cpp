// SPDX-License-Identifier: Apache-2.0
// Gradient and second derivative by windows: for few channels a group, where sorting taps costs more than it
// saves. The output is cut into tiles; for each tile and group the part of x that its taps fall on is copied
// into a compact window in L1 and L2 (windows.h), that of gg_x too, and so is room for their sums. Pixel by
// pixel, all groups' taps then go in natural order: four dots with the window of x (and of gg_x, and a row of
// grad_grad), four scaled adds to the window of sums, and the pixel strip's grad_offsets at once; at the end
// of a tile the sums are added to grad_x. Docs: docs/operators.md, "Gradient" and "Second derivative".
//
// Taps outside their window are listed and added last. Where windows would hold more cells than there are
// taps, the offsets are scattered: then a window is the whole map, a few groups at a time.
//
// Moves: grad, x and offsets once, offsets' sample once more; x and grad_x again, from cache, where windows
// overlap. Deterministic: bands (rows of tiles) whose windows share no row of grad_x run side by side, in
// rounds; which band is in which round depends on the offsets alone. So an element's sum is: round after
// round, in a band tile after tile, in a tile tap after tap, then what was listed, band after band. Where
// nearly all bands touch the same few rows, each has sums of its own for them, added band after band.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/windowed.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/window_taps.h"
#include "cpu/cpu.h"
#include "cpu/windowed.h"

#ifndef TAPFIELD_CPU_WINDOWED_ONCE_
#define TAPFIELD_CPU_WINDOWED_ONCE_
namespace tapfield::cpu {

// Pixels from fetching to use: of grad and grad_offsets; of offsets, which a strip of pixels reads at once.
constexpr std::int64_t kAhead = 6, kOffsetsAhead = 16;

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// One batch of images.
template <class F, bool kSecond>
struct WindowedBatch {
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
  const F* GradOf(const Slot& slot, std::int64_t i, std::int64_t c0) const {
    const Strip<F>& s = slot.strip;
    return scratch.direct_grad ? reinterpret_cast<const F*>(p.grad.tap(s.n, s.ho, 0, s.wo0 + i, 0, c0))
                               : slot.grad + i * p.kw * scratch.width;
  }
  F* GradGradOf(const Slot& slot, std::int64_t i, std::int64_t c0) const {
    const Strip<F>& s = slot.strip;
    return scratch.direct_grad_grad ? reinterpret_cast<F*>(p.grad_grad.tap(s.n, s.ho, 0, s.wo0 + i, 0, c0))
                                    : slot.grad_grad + i * p.kw * scratch.width;
  }
  // Of a located strip: what a tap adds to its corners' sums.
  static const F* weights(const Strip<F>& s) { return kSecond ? s.second : s.weights; }
  // The taps outside their windows of a band and block, as numbers of taps of the image.
  std::uint32_t* outliers(std::int64_t i, std::int64_t band, std::int64_t block) const {
    return scratch.outliers + i * p.ho * p.wo * p.lanes() + band * tiling().rows * p.wo * p.lanes() +
           band_rows(band) * p.wo * tiling().block_begin(block) * p.taps();
  }
  std::uint32_t& outlier_count(std::int64_t i, std::int64_t band, std::int64_t block) const {
    return scratch.outlier_counts[(i * tiling().bands + band) * tiling().blocks + block];
  }

  // ------ One band of one block of groups

  // to: what the windows' sums are added to.
  void RunBand(std::int64_t i, std::int64_t band, std::int64_t block, Slot& slot, const Image<F>& to) const {
    const Tiling& t = tiling();
    outlier_count(i, band, block) = 0;
    Strip<F>& s = slot.strip;
    s.n = n0 + i, s.pitch = Strip<F>::padded(t.lanes(p));
    s.lane0 = t.block_begin(block) * p.taps(), s.lanes = t.block_end(block, p) * p.taps() - s.lane0;
    const auto places = [&](const View& view, bool direct, std::int64_t* lane) {
      const std::int64_t w_stride = direct ? view.w : scratch.width,
                         h_stride = direct ? view.h : t.pixels * p.kw * scratch.width;
      for (std::int64_t l = 0; l < s.pitch; ++l) {
        const std::int64_t g = l / p.taps(), k = l % p.taps();
        lane[l] = l < s.lanes ? k / p.kw * h_stride + k % p.kw * w_stride + g * p.group_channels() : 0;
      }
    };
    places(p.grad, scratch.direct_grad, slot.lane_grad);
    if (kSecond) places(p.grad_grad, scratch.direct_grad_grad, slot.lane_grad_grad);
    for (std::int64_t tile = 0; tile < t.tiles; ++tile) RunTile(i, band, tile, block, slot, to);
  }

  void RunTile(std::int64_t i, std::int64_t band, std::int64_t tile, std::int64_t block, Slot& slot,
               const Image<F>& to) const {
    const Tiling& t = tiling();
    const std::int64_t g0 = t.block_begin(block), groups = t.block_end(block, p) - g0,
                       channels = p.group_channels();
    const Window* at = scratch.windows + ((i * t.bands + band) * t.tiles + tile) * p.groups + g0;
    const Windows<F> windows(p, scratch.layout, at, groups, slot.x, slot.sums);
    std::int64_t l = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
      const Window& w = windows.at[g];
      for (std::int64_t k = 0; k < p.taps(); ++k, ++l) {
        slot.h[l] = w.h, slot.w[l] = w.w, slot.rows[l] = w.rows, slot.columns[l] = w.columns;
        slot.base[l] = static_cast<std::int32_t>(g * windows.size);
      }
    }
    const auto dump = static_cast<std::int32_t>(groups * windows.size);
    const std::int64_t dump_end = dump + windows.pitch + 2 * scratch.layout.cell();
    std::fill(slot.x + dump, slot.x + dump_end, F{0}), std::fill(slot.sums, slot.sums + dump_end, F{0});
    windows.build(x(i, g0 * channels));
    if (kSecond && p.gg_x.data) {
      std::fill(slot.u + dump, slot.u + dump_end, F{0});
      Windows<F>(p, scratch.layout, at, groups, slot.u, nullptr).build(u(i, g0 * channels));
    }
    Strip<F>& s = slot.strip;
    const std::int64_t rows = band_rows(band), columns = std::min(t.columns, p.wo - tile * t.columns);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; c += t.pixels) {
        s.ho = band * t.rows + r, s.wo0 = tile * t.columns + c, s.count = std::min(t.pixels, columns - c);
        locate(p, s);
        const bool outliers = FindCells<F>(slot, windows.pitch, scratch.layout.cell(), dump);
        RunStrip(block, windows, slot, tile * t.columns, columns, (band * t.rows + rows) - 1);
        if (outliers) List(i, band, block, slot, dump);
        if (kSecond && !scratch.direct_grad_grad)
          for (std::int64_t kh = 0; kh < p.kh; ++kh)
            store_taps(p.grad_grad, p.kw, s.n, s.ho, kh, s.wo0, s.count, g0 * channels,
                       (g0 + groups) * channels, slot.grad_grad + kh * t.pixels * p.kw * scratch.width,
                       scratch.width, slot.narrow_grad);
        finish(p, s, slot.dots, slot.dots_u, s.pitch);
      }
    windows.add({to.data + g0 * channels, to.h_stride, to.w_stride});
  }

  // The taps of a located strip. The tile has `columns` pixels a row, the first in column wo; its last row is
  // last_ho.
  void RunStrip(std::int64_t block, const Windows<F>& windows, Slot& slot, std::int64_t wo,
                std::int64_t columns, std::int64_t last_ho) const {
    const Strip<F>& s = slot.strip;
    const std::int64_t c0 = tiling().block_begin(block) * p.group_channels();
    const std::int64_t width = scratch.width, kh_stride = tiling().pixels * p.kw * width;
    if (!scratch.direct_grad)
      for (std::int64_t kh = 0; kh < p.kh; ++kh)
        load_taps(p.grad, p.kw, s.n, s.ho, kh, s.wo0, s.count, c0,
                  c0 + s.lanes / p.taps() * p.group_channels(), slot.grad + kh * kh_stride, width,
                  slot.narrow_grad);
    const TapsFunction<F> run = ChooseTaps<F, kSecond>(scratch.layout, p.group_channels());
    Taps<F> t{};
    t.x = windows.x, t.u = slot.u, t.sums = windows.sums, t.below = windows.pitch;
    t.lane_grad = slot.lane_grad, t.lane_grad_grad = slot.lane_grad_grad, t.planes = p.planes(),
    t.lanes = s.lanes;
    t.offset_size = p.offsets.adjacent() ? size_of(p.offsets.dtype) : 0;
    t.grad_offset_size = p.grad_offsets.adjacent() ? size_of(p.grad_offsets.dtype) : 0;
    // Vectors are no wider than the padded channels (TapsOfPixels; quads pad their channels themselves).
    const auto vector =
        std::min(static_cast<std::int64_t>(hn::MaxLanes(hn::ScalableTag<F>())), scratch.layout.channels);
    t.channels = static_cast<std::size_t>(p.group_channels());
    t.vectors = static_cast<int>((p.group_channels() + vector - 1) / vector);
    t.tail = static_cast<std::size_t>(p.group_channels() % vector);
    struct OutputPixel {
      std::int64_t ho, wo;
    };
    // The pixel `column` places after the row's first, as the tile goes: the tile's last, if it ends before.
    const auto later = [&](std::int64_t column) {
      const std::int64_t ho = s.ho + column / columns;
      return ho > last_ho ? OutputPixel{last_ho, wo + columns - 1} : OutputPixel{ho, wo + column % columns};
    };
    for (std::int64_t i = 0; i < s.count; ++i) {
      const OutputPixel grad_at = later(s.wo0 - wo + i + kAhead),
                        offsets_at = later(s.wo0 - wo + i + kOffsetsAhead);
      for (std::int64_t q = 0; q < p.planes(); ++q) {
        const std::int64_t channel = q * p.lanes() + s.lane0;
        t.offsets_ahead[q] = p.offsets.at(s.n, offsets_at.ho, offsets_at.wo, channel);
        t.grad_offsets_ahead[q] = p.grad_offsets.at(s.n, grad_at.ho, grad_at.wo, channel);
      }
      t.grad = t.grad_ahead = GradOf(slot, i, c0);
      if (scratch.direct_grad)
        t.grad_ahead = reinterpret_cast<const F*>(p.grad.tap(s.n, grad_at.ho, 0, grad_at.wo, 0, c0));
      t.cells = slot.cells + i * s.pitch, t.weights = weights(s) + 4 * i * s.pitch,
      t.dots = slot.dots + 4 * i * s.pitch;
      if constexpr (kSecond) {
        t.grad_grad = GradGradOf(slot, i, c0);
        t.u_weights = s.weights + 4 * i * s.pitch, t.dots_u = slot.dots_u + 4 * i * s.pitch;
      }
      run(t);
    }
  }

  // ------ All bands

  void RunRounds() const {
    const Tiling& t = tiling();
    const std::int64_t bands = images * t.bands;
    std::int64_t first = 0;
    for (std::int64_t round = 0; round < plan.rounds; ++round) {
      std::int64_t last = first;
      while (last < bands && scratch.rounds[scratch.turns[last]] == round) ++last;
      workers.run((last - first) * t.blocks, [&](std::int64_t item, int index) HWY_ATTR {
        Slot slot = scratch.slot(p, index);
        const std::int64_t at = scratch.turns[first + item / t.blocks], i = at / t.bands;
        RunBand(i, at % t.bands, item % t.blocks, slot, sums(i, 0));
      });
      first = last;
    }
  }

  // Each with sums of its own for the few rows that its windows touch: as many at once as there
  // are slots, then added to grad_x, band after band.
  void RunApart() const {
    const Tiling& t = tiling();
    const std::int64_t bands = images * t.bands, row = p.w * p.c;
    for (std::int64_t first = 0; first < bands; first += workers.slots()) {
      const std::int64_t last = std::min<std::int64_t>(first + workers.slots(), bands);
      const auto rows_of = [&](std::int64_t at) {
        F* to = scratch.apart + (at - first) * scratch.apart_rows * row;
        return Image<F>{to - scratch.begins[at] * row, row, p.c};
      };
      workers.run((last - first) * t.blocks, [&](std::int64_t item, int index) HWY_ATTR {
        Slot slot = scratch.slot(p, index);
        const std::int64_t at = first + item / t.blocks, block = item % t.blocks;
        const std::int64_t c0 = t.block_begin(block) * p.group_channels(),
                           c1 = t.block_end(block, p) * p.group_channels();
        const Image<F> to = rows_of(at);
        for (std::int64_t h = scratch.begins[at]; h < scratch.ends[at]; ++h)
          for (std::int64_t w = 0; w < p.w; ++w) std::fill_n(to.at(h, w) + c0, c1 - c0, F{0});
        RunBand(at / t.bands, at % t.bands, block, slot, to);
      });
      workers.run(p.h, [&](std::int64_t h, int) {
        for (std::int64_t at = first; at < last; ++at) {
          if (h < scratch.begins[at] || h >= scratch.ends[at]) continue;
          const Image<F> from = rows_of(at), to = sums(at / t.bands, 0);
          for (std::int64_t w = 0; w < p.w; ++w)
            for (std::int64_t c = 0; c < p.c; ++c) to.at(h, w)[c] += from.at(h, w)[c];
        }
      });
    }
  }

  // ------ Taps outside their windows

  // Which they are; their dots, and their rows of grad_grad.
  void List(std::int64_t i, std::int64_t band, std::int64_t block, Slot& slot, std::int32_t dump) const {
    const Strip<F>& s = slot.strip;
    const std::int64_t channels = p.group_channels(), c0 = s.lane0 / p.taps() * channels;
    const Image<const F> x_image = x(i, 0), u_image = kSecond && p.gg_x.data ? u(i, 0) : Image<const F>();
    std::uint32_t* list = outliers(i, band, block);
    std::uint32_t& count = outlier_count(i, band, block);
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

  // What they add to grad_x.
  void AddListed(std::int64_t i, std::int64_t block, Slot& slot) const {
    Strip<F>& s = slot.strip;
    const std::int64_t channels = p.group_channels();
    const Image<F> to = sums(i, 0);
    for (std::int64_t band = 0; band < tiling().bands; ++band)
      for (std::uint32_t o = 0; o < outlier_count(i, band, block); ++o) {
        const std::int64_t tap = outliers(i, band, block)[o], pixel = tap / p.lanes(), lane = tap % p.lanes();
        const std::int64_t g = lane / p.taps(), k = lane % p.taps();
        s.n = n0 + i, s.ho = pixel / p.wo, s.wo0 = pixel % p.wo, s.count = 1, s.lane0 = g * p.taps(),
        s.lanes = p.taps();
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
      }
  }

  void Run() const {
    workers.run(images * p.h, [&](std::int64_t row, int index) {
      const std::int64_t i = row / p.h, h = row % p.h;
      std::uint16_t* narrowed = scratch.narrowed + index * p.w * p.c;
      if (scratch.x) load_row(p.x, n0 + i, h, 0, p.w, 0, p.c, scratch.x + row * p.w * p.c, p.c, narrowed);
      if (scratch.u) load_row(p.gg_x, n0 + i, h, 0, p.w, 0, p.c, scratch.u + row * p.w * p.c, p.c, narrowed);
      const Image<F> to = sums(i, 0);
      for (std::int64_t w = 0; w < p.w; ++w) std::fill_n(to.at(h, w), p.c, F{0});
    });
    plan.apart ? RunApart() : RunRounds();
    const std::int64_t blocks = tiling().blocks;
    workers.run(images * blocks, [&](std::int64_t item, int index) {
      Slot slot = scratch.slot(p, index);
      AddListed(item / blocks, item % blocks, slot);
    });
    for (std::int64_t i = 0; scratch.sums && i < images; ++i)
      store_image(workers, p.grad_x, n0 + i, p.h, p.w, 0, p.c, scratch.sums + i * p.h * p.w * p.c, p.c,
                  scratch.narrowed);
  }
};

template <class F, bool kSecond>
void WindowedF(const Problem& p, const Workers& workers, void* workspace) {
  const WindowsScratch<F> scratch(Carver(workspace), p, workers.slots(), nullptr);
  std::fill_n(scratch.zeros, p.group_channels(), F{0});
  for (int s = 0; s < workers.slots(); ++s) {
    const auto slot = scratch.slot(p, s);
    for (std::int32_t* table : {slot.h, slot.w, slot.rows, slot.columns, slot.base})
      std::fill_n(table, slot.strip.pitch, 0);
    if (kSecond && !p.gg_x.data) std::fill_n(slot.u, slot.room, F{0});
  }
  for (std::int64_t n0 = 0; n0 < p.n; n0 += scratch.images) {
    const std::int64_t images = std::min(scratch.images, p.n - n0);
    const WindowsPlan plan = plan_windows(p, workers, scratch, n0, images);
    WindowedBatch<F, kSecond>{p, workers, scratch, n0, images, plan}.Run();
  }
}

void Windowed(const Problem& p, const Workers& workers, void* workspace) {
  const bool second = p.pass == Pass::grad_grad;
  if (p.x.dtype == DType::float64)
    second ? WindowedF<double, true>(p, workers, workspace) : WindowedF<double, false>(p, workers, workspace);
  else
    second ? WindowedF<float, true>(p, workers, workspace) : WindowedF<float, false>(p, workers, workspace);
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {

HWY_EXPORT(Windowed);

const char* windowed_why_not(const Problem& p) {
  if (const char* why = too_wide(p)) return why;
  if (p.group_channels() > 32) return "a group has more than 32 channels";
  const double taps = static_cast<double>(p.ho) * static_cast<double>(p.wo) * static_cast<double>(p.lanes());
  if (taps >= 4e9) return "an image has 4e9 taps or more";  // listed ones are numbered in 32 bits
  const std::size_t size = p.x.dtype == DType::float64 ? 8 : 4;
  return Tiling(p, size, false).fits(size) ? nullptr : "the kernel reaches too far for a window";
}

// Below binned's 1 wherever it can run: with offsets of deviation 20, the windows' worst, binned
// took 1.8, 1.4 and 3.5 times as long on cases c, e and g of bench/.
double windowed_cost(const Problem&) { return 0.5; }

std::size_t windowed_workspace(const Problem& p, int slots) {
  std::size_t used = 0;
  if (p.x.dtype == DType::float64)
    WindowsScratch<double>(Carver(), p, slots, &used);
  else
    WindowsScratch<float>(Carver(), p, slots, &used);
  return used;
}

void windowed(const Problem& p, const Workers& workers, void* workspace) {
  HWY_DYNAMIC_DISPATCH(Windowed)(p, workers, workspace);
}

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
