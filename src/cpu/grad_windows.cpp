// SPDX-License-Identifier: Apache-2.0
// Gradient by windows: for few channels a group, where sorting taps costs more than it saves. The output is
// cut into tiles; for each tile and group the part of x that its taps fall on is copied into a compact window
// in L1 and L2 (windows.h), and so is room for their sums. Pixel by pixel, all groups' taps then go in
// natural order: four dots with the window of x, four scaled adds to the window of sums, and the pixel
// strip's grad_offsets at once; at the end of a tile the sums are added to grad_x. Docs: docs/operators.md,
// "Gradient".
//
// Taps outside their window are listed and added last. Where windows would hold more cells than there are
// taps, the offsets are scattered: then a window is the whole map, a few groups at a time.
//
// Moves: grad, x and offsets once, offsets' sample once more; x and grad_x again, from cache, where windows
// overlap. Deterministic: bands (rows of tiles) whose windows share no row of grad_x run side by side, in
// rounds; which band is in which round depends on the offsets alone. So an element's sum is: round after
// round, in a band tile after tile, in a tile tap after tap, then what was listed, band after band.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/grad_windows.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/window_taps.h"
#include "cpu/cpu.h"
#include "cpu/grad_windows.h"

#ifndef TAPFIELD_CPU_GRAD_WINDOWS_ONCE_
#define TAPFIELD_CPU_GRAD_WINDOWS_ONCE_
namespace tapfield::cpu {

// Pixels from fetching to use: of grad and grad_offsets; of offsets, which a strip of pixels reads at once.
constexpr std::int64_t kAhead = 6, kOffsetsAhead = 16;

}  // namespace tapfield::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// One batch of images.
template <class F>
struct GradWindowsBatch {
  const Problem& p;
  const Workers& workers;
  const WindowsScratch<F>& scratch;
  std::int64_t n0, images;
  const Tiling* used;
  using Slot = typename WindowsScratch<F>::Slot;

  const Tiling& tiling() const { return *used; }
  std::int64_t band_rows(std::int64_t band) const {  // of output pixels
    return std::min(tiling().rows, p.ho - band * tiling().rows);
  }
  Image<const F> x(std::int64_t i) const {
    return scratch.x ? Image<const F>{scratch.x + i * p.h * p.w * p.c, p.w * p.c, p.c}
                     : image_in_place<const F>(p.x, n0 + i);
  }
  Image<F> sums(std::int64_t i) const {
    return scratch.sums ? Image<F>{scratch.sums + i * p.h * p.w * p.c, p.w * p.c, p.c}
                        : image_in_place<F>(p.grad_x, n0 + i);
  }
  // The taps outside their windows of a band and block, as numbers of taps of the image.
  std::uint32_t* outliers(std::int64_t i, std::int64_t band, std::int64_t block) const {
    return scratch.outliers + i * p.ho * p.wo * p.lanes() + band * tiling().rows * p.wo * p.lanes() +
           band_rows(band) * p.wo * tiling().block_begin(block) * p.taps();
  }
  std::uint32_t& outlier_count(std::int64_t i, std::int64_t band, std::int64_t block) const {
    return scratch.outlier_counts[(i * tiling().bands + band) * tiling().blocks + block];
  }

  // ------ Windows, and what they touch

  void Plan(std::int64_t i, std::int64_t band, Slot& slot) const {
    const Tiling& t = tiling();
    const std::int64_t at = i * t.bands + band;
    std::int64_t begin = p.h, end = 0, cells = 0;
    for (std::int64_t tile = 0; tile < t.tiles; ++tile) {
      Window* windows = scratch.windows + (at * t.tiles + tile) * p.groups;
      find_windows(p, t, slot.strip, n0 + i, band * t.rows, tile * t.columns, windows);
      for (std::int64_t g = 0; g < p.groups; ++g) {
        const Window& w = windows[g];
        if (!w.rows) continue;
        begin = std::min<std::int64_t>(begin, w.h), end = std::max<std::int64_t>(end, w.h + w.rows + 1);
        cells += std::int64_t{w.rows} * w.columns;
      }
    }
    scratch.begins[at] = begin, scratch.ends[at] = end, scratch.cells[at] = cells;
  }

  // Each band runs in the first round whose bands before it, of its image, end where it begins. Returns the
  // number of rounds; fills in rounds and turns.
  std::int64_t Rounds() const {
    const std::int64_t bands = tiling().bands;
    std::int64_t count = 0, turn = 0;
    for (std::int64_t i = 0; i < images; ++i)
      for (std::int64_t b = 0; b < bands; ++b) {
        const std::int64_t at = i * bands + b;
        std::int64_t round = 0;
        for (bool free = false; !free; round += !free) {
          free = true;
          for (std::int64_t other = at - b; other < at; ++other)
            free &= scratch.rounds[other] != round || scratch.ends[other] <= scratch.begins[at] ||
                    scratch.ends[at] <= scratch.begins[other];
        }
        scratch.rounds[at] = round, count = std::max(count, round + 1);
      }
    for (std::int64_t round = 0; round < count; ++round)
      for (std::int64_t at = 0; at < images * bands; ++at)
        if (scratch.rounds[at] == round) scratch.turns[turn++] = at;
    return count;
  }

  // ------ One band of one block of groups

  void RunBand(std::int64_t i, std::int64_t band, std::int64_t block, Slot& slot) const {
    const Tiling& t = tiling();
    outlier_count(i, band, block) = 0;
    Strip<F>& s = slot.strip;
    s.n = n0 + i, s.pitch = Strip<F>::padded(t.lanes(p));
    s.lane0 = t.block_begin(block) * p.taps(), s.lanes = t.block_end(block, p) * p.taps() - s.lane0;
    const std::int64_t w_stride = scratch.direct_grad ? p.grad.w : scratch.width,
                       h_stride = scratch.direct_grad ? p.grad.h : t.pixels * p.kw * scratch.width;
    for (std::int64_t l = 0; l < s.pitch; ++l) {
      const std::int64_t g = l / p.taps(), k = l % p.taps();
      slot.lane_grad[l] =
          l < s.lanes ? k / p.kw * h_stride + k % p.kw * w_stride + g * p.group_channels() : 0;
    }
    for (std::int64_t tile = 0; tile < t.tiles; ++tile) RunTile(i, band, tile, block, slot);
  }

  void RunTile(std::int64_t i, std::int64_t band, std::int64_t tile, std::int64_t block, Slot& slot) const {
    const Tiling& t = tiling();
    const std::int64_t g0 = t.block_begin(block), groups = t.block_end(block, p) - g0,
                       channels = p.group_channels();
    const Windows<F> windows(p, scratch.layout,
                             scratch.windows + ((i * t.bands + band) * t.tiles + tile) * p.groups + g0,
                             groups, slot.x, slot.sums);
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
    Image<const F> from = x(i);
    from.data += g0 * channels;
    windows.build(from);
    Strip<F>& s = slot.strip;
    const std::int64_t rows = band_rows(band), columns = std::min(t.columns, p.wo - tile * t.columns);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; c += t.pixels) {
        s.ho = band * t.rows + r, s.wo0 = tile * t.columns + c, s.count = std::min(t.pixels, columns - c);
        locate(p, s);
        const bool outliers = FindCells<F>(slot, windows.pitch, scratch.layout.cell(), dump);
        RunStrip(block, windows, slot, tile * t.columns, columns, (band * t.rows + rows) - 1);
        if (outliers) List(i, band, block, slot, dump);
        finish(p, s, slot.dots, s.pitch);
      }
    Image<F> to = sums(i);
    to.data += g0 * channels;
    windows.add(to);
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
    const TapsFunction<F> run = ChooseTaps<F>(scratch.layout, p.group_channels());
    Taps<F> t{};
    t.x = windows.x, t.sums = windows.sums, t.below = windows.pitch;
    t.lane_grad = slot.lane_grad, t.planes = p.planes(), t.lanes = s.lanes;
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
      if (scratch.direct_grad) {
        t.grad = reinterpret_cast<const F*>(p.grad.tap(s.n, s.ho, 0, s.wo0 + i, 0, c0));
        t.grad_ahead = reinterpret_cast<const F*>(p.grad.tap(s.n, grad_at.ho, 0, grad_at.wo, 0, c0));
      } else {
        t.grad = t.grad_ahead = slot.grad + i * p.kw * width;
      }
      t.cells = slot.cells + i * s.pitch, t.weights = s.weights + 4 * i * s.pitch,
      t.dots = slot.dots + 4 * i * s.pitch;
      run(t);
    }
  }

  // ------ Taps outside their windows

  // Their dots; and which they are.
  void List(std::int64_t i, std::int64_t band, std::int64_t block, Slot& slot, std::int32_t dump) const {
    const Strip<F>& s = slot.strip;
    const std::int64_t channels = p.group_channels();
    const Image<const F> from = x(i);
    std::uint32_t* list = outliers(i, band, block);
    std::uint32_t& count = outlier_count(i, band, block);
    for (std::int64_t j = 0; j < s.count; ++j)
      for (std::int64_t l = 0; l < s.lanes; ++l) {
        const std::int64_t at = j * s.pitch + l, lane = s.lane0 + l;
        if (slot.cells[at] != dump || s.h0[at] == kDead) continue;
        list[count++] = static_cast<std::uint32_t>((s.ho * p.wo + s.wo0 + j) * p.lanes() + lane);
        const CornerRows<const F> v(from, p.h, p.w, s.h0[at], s.w0[at], lane / p.taps() * channels,
                                    scratch.zeros);
        const F* pixel = scratch.direct_grad ? reinterpret_cast<const F*>(p.grad.tap(
                                                   s.n, s.ho, 0, s.wo0 + j, 0, s.lane0 / p.taps() * channels))
                                             : slot.grad + j * p.kw * scratch.width;
        const F* grad = pixel + slot.lane_grad[l];
        F dots[4] = {};
        for (std::int64_t c = 0; c < channels; ++c) {
          dots[0] += grad[c] * v.p00[c], dots[1] += grad[c] * v.p01[c];
          dots[2] += grad[c] * v.p10[c], dots[3] += grad[c] * v.p11[c];
        }
        std::copy_n(dots, 4, slot.dots + 4 * at);
      }
  }

  // What they add to grad_x.
  void AddListed(std::int64_t i, std::int64_t block, Slot& slot) const {
    Strip<F>& s = slot.strip;
    const std::int64_t channels = p.group_channels();
    const Image<F> to = sums(i);
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
            rows[corner][c] += s.weights[4 * k + corner] * grad[c];
      }
  }

  // Chooses the tiling and fills in windows, rounds and turns.
  std::int64_t PlanAll() {
    used = &scratch.tiled;
    const std::int64_t bands = images * used->bands;
    workers.run(bands, [&](std::int64_t at, int index) {
      Slot slot = scratch.slot(p, index);
      Plan(at / used->bands, at % used->bands, slot);
    });
    std::int64_t cells = 0;
    for (std::int64_t at = 0; at < bands; ++at) cells += scratch.cells[at];
    if (cells <= images * p.ho * p.wo * p.lanes() || !scratch.whole.fits(sizeof(F))) return Rounds();
    used = &scratch.whole;
    for (std::int64_t i = 0; i < images; ++i) {
      for (std::int64_t g = 0; g < p.groups; ++g)
        scratch.windows[i * p.groups + g] = {-1, -1, static_cast<std::int32_t>(p.h + 1),
                                             static_cast<std::int32_t>(p.w + 1)};
      scratch.rounds[i] = 0, scratch.turns[i] = i;
    }
    return 1;
  }

  void Run() {
    const std::int64_t rounds = PlanAll();
    const Tiling& t = tiling();
    const std::int64_t bands = images * t.bands;

    workers.run(images * p.h, [&](std::int64_t row, int index) {
      const std::int64_t i = row / p.h, h = row % p.h;
      if (scratch.x)
        load_row(p.x, n0 + i, h, 0, p.w, 0, p.c, scratch.x + row * p.w * p.c, p.c,
                 scratch.narrowed + index * p.w * p.c);
      const Image<F> to = sums(i);
      for (std::int64_t w = 0; w < p.w; ++w) std::fill_n(to.at(h, w), p.c, F{0});
    });
    std::int64_t first = 0;
    for (std::int64_t round = 0; round < rounds; ++round) {
      std::int64_t last = first;
      while (last < bands && scratch.rounds[scratch.turns[last]] == round) ++last;
      workers.run((last - first) * t.blocks, [&](std::int64_t item, int index) HWY_ATTR {
        Slot slot = scratch.slot(p, index);
        const std::int64_t at = scratch.turns[first + item / t.blocks];
        RunBand(at / t.bands, at % t.bands, item % t.blocks, slot);
      });
      first = last;
    }
    workers.run(images * t.blocks, [&](std::int64_t item, int index) {
      Slot slot = scratch.slot(p, index);
      AddListed(item / t.blocks, item % t.blocks, slot);
    });
    for (std::int64_t i = 0; scratch.sums && i < images; ++i)
      store_image(workers, p.grad_x, n0 + i, p.h, p.w, 0, p.c, scratch.sums + i * p.h * p.w * p.c, p.c,
                  scratch.narrowed);
  }
};

template <class F>
void GradWindowsF(const Problem& p, const Workers& workers, void* workspace) {
  const WindowsScratch<F> scratch(Carver(workspace), p, workers.slots(), nullptr);
  std::fill_n(scratch.zeros, p.group_channels(), F{0});
  for (int s = 0; s < workers.slots(); ++s) {
    const auto slot = scratch.slot(p, s);
    for (std::int32_t* table : {slot.h, slot.w, slot.rows, slot.columns, slot.base})
      std::fill_n(table, slot.strip.pitch, 0);
  }
  for (std::int64_t n0 = 0; n0 < p.n; n0 += scratch.images)
    GradWindowsBatch<F>{p, workers, scratch, n0, std::min(scratch.images, p.n - n0), nullptr}.Run();
}

void GradWindows(const Problem& p, const Workers& workers, void* workspace) {
  if (p.x.dtype == DType::float64)
    GradWindowsF<double>(p, workers, workspace);
  else
    GradWindowsF<float>(p, workers, workspace);
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {

HWY_EXPORT(GradWindows);

const char* grad_windows_why_not(const Problem& p) {
  if (const char* why = too_wide(p)) return why;
  if (p.group_channels() > 32) return "a group has more than 32 channels";
  const double taps = static_cast<double>(p.ho) * static_cast<double>(p.wo) * static_cast<double>(p.lanes());
  if (taps >= 4e9) return "an image has 4e9 taps or more";  // listed ones are numbered in 32 bits
  const std::size_t size = p.x.dtype == DType::float64 ? 8 : 4;
  return Tiling(p, size, false).fits(size) ? nullptr : "the kernel reaches too far for a window";
}

// Below binned's 1 wherever it can run: with offsets of deviation 20, the windows' worst, binned
// took 1.8, 1.4 and 3.5 times as long on cases c, e and g of bench/.
double grad_windows_cost(const Problem&) { return 0.5; }

std::size_t grad_windows_workspace(const Problem& p, int slots) {
  std::size_t used = 0;
  if (p.x.dtype == DType::float64)
    WindowsScratch<double>(Carver(), p, slots, &used);
  else
    WindowsScratch<float>(Carver(), p, slots, &used);
  return used;
}

void grad_windows(const Problem& p, const Workers& workers, void* workspace) {
  HWY_DYNAMIC_DISPATCH(GradWindows)(p, workers, workspace);
}

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
