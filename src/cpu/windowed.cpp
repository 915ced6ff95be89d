// SPDX-License-Identifier: Apache-2.0
// Gradient and second derivative by windows: for few channels a group, where sorting taps costs more than it
// saves. The output is cut into tiles; for each tile and group the part of x that its taps fall on is copied
// into a compact window in L1 and L2 (windows.h), that of gg_x too, and so is room for their sums. Pixel by
// pixel, all groups' taps then go in natural order: four dots with the window of x (and of gg_x, and a row of
// grad_grad), four scaled adds to the window of sums, and the pixel strip's grad_offsets at once; at the end
// of a tile the sums are added to grad_x. Docs: docs/operators.md, "Gradient" and "Second derivative".
//
// Taps outside their window are listed and added last; where samples are to take grad's place (of a layer),
// so do theirs then. Where windows would hold more cells than there are taps, the offsets are scattered: then
// a window is the whole map, a few groups at a time; or, where that is too large and groups have more than 16
// channels, the call is left to binned.cpp, which takes a quarter of the time.
//
// Moves: grad, x and offsets once, offsets' sample once more; x and grad_x again, from cache, where windows
// overlap. Deterministic: pieces (some tiles in a row) whose windows share no pixel of grad_x run side by
// side, in rounds; which piece is in which round depends on the offsets alone. So an element's sum is: round
// after round, in a piece tile after tile, in a tile tap after tap, then what was listed, tile after tile.
// Where nearly all pieces touch the same few places, each band (row of tiles) has sums of its own for them,
// added band after band.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/windowed.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/outliers.h"
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
struct WindowedBatch : WindowedTensors<F, kSecond> {
  using Tensors = WindowedTensors<F, kSecond>;
  using Slot = typename Tensors::Slot;
  using Tensors::images, Tensors::n0, Tensors::p, Tensors::plan, Tensors::scratch, Tensors::workers;
  using Tensors::tiling, Tensors::band_rows, Tensors::tile_columns, Tensors::sums, Tensors::u, Tensors::x;

  // ------ One tile of one block of groups

  // Readies a slot for tiles of an image's block: the strip, and where lanes lie.
  void ReadySlot(std::int64_t i, std::int64_t block, Slot& slot) const {
    const Tiling& t = tiling();
    Strip<F>& s = slot.strip;
    s.n = n0 + i, s.pitch = Strip<F>::padded(t.lanes(p));
    s.lane0 = t.block_begin(block) * p.taps(), s.lanes = t.block_end(block, p) * p.taps() - s.lane0;
    const auto places = [&](const View& view, bool direct, std::int64_t* lane) {
      const std::int64_t w_stride = direct ? view.w : scratch.width,
                         h_stride = direct ? view.h : t.fetched * p.kw * scratch.width;
      for (std::int64_t l = 0; l < s.pitch; ++l) {
        const std::int64_t g = l / p.taps(), k = l % p.taps();
        lane[l] = l < s.lanes ? k / p.kw * h_stride + k % p.kw * w_stride + g * p.group_channels() : 0;
      }
    };
    places(p.grad, scratch.direct_grad, slot.lane_grad);
    if (kSecond) places(p.grad_grad, scratch.direct_grad_grad, slot.lane_grad_grad);
  }

  // to: what the windows' sums are added to.
  void RunTile(std::int64_t i, std::int64_t band, std::int64_t tile, std::int64_t block, Slot& slot,
               const Image<F>& to) const {
    const Tiling& t = tiling();
    Tensors::outlier_count(i, band, tile, block) = 0;
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
    const std::int64_t rows = band_rows(band), columns = tile_columns(tile);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t first = 0; first < columns; first += t.fetched) {
        const std::int64_t last = std::min(first + t.fetched, columns), wo = tile * t.columns;
        s.ho = band * t.rows + r, s.wo0 = wo + first, s.count = last - first;
        Fetch(slot, g0 * channels, (g0 + groups) * channels);
        for (std::int64_t c = first; c < last; c += t.pixels) {
          s.wo0 = wo + c, s.count = std::min(t.pixels, last - c);
          locate(p, s);
          const bool outliers = FindCells<F>(slot, windows.pitch, scratch.layout.cell(), dump);
          if (outliers && p.samples) Tensors::template MoveOutliers<true>(slot, g0 * channels, dump);
          RunStrip(block, windows, slot, wo, columns, (band * t.rows + rows) - 1);
          if (outliers && p.samples) Tensors::template MoveOutliers<false>(slot, g0 * channels, dump);
          if (outliers) Tensors::List(i, band, tile, block, slot, dump);
          finish(p, s, slot.dots, slot.dots_u, s.pitch);
        }
        Flush(slot, g0 * channels, (g0 + groups) * channels);
      }
    windows.add({to.data + g0 * channels, to.h_stride, to.w_stride});
  }

  // What of the strip's pixels, channels [c0, c1), is not read in place; and not written in place.
  void Fetch(Slot& slot, std::int64_t c0, std::int64_t c1) const {
    Strip<F>& s = slot.strip;
    fetch(p, s);
    for (std::int64_t kh = 0; !scratch.direct_grad && kh < p.kh; ++kh)
      load_taps(p.grad, p.kw, s.n, s.ho, kh, s.wo0, s.count, c0, c1,
                slot.grad + kh * tiling().fetched * p.kw * scratch.width, scratch.width, slot.narrow_grad);
  }
  void Flush(Slot& slot, std::int64_t c0, std::int64_t c1) const {
    Strip<F>& s = slot.strip;
    flush(p, s);
    const auto store = [&](const View& view, const F* rows) {
      for (std::int64_t kh = 0; kh < p.kh; ++kh)
        store_taps(view, p.kw, s.n, s.ho, kh, s.fetched_wo0, s.fetched_count, c0, c1,
                   rows + kh * tiling().fetched * p.kw * scratch.width, scratch.width, slot.narrow_grad);
    };
    if (kSecond && !scratch.direct_grad_grad) store(p.grad_grad, slot.grad_grad);
    if (p.samples && !scratch.direct_grad) store(p.grad, slot.grad);
  }

  // The taps of a located strip. The tile has `columns` pixels a row, the first in column wo; its last row is
  // last_ho.
  void RunStrip(std::int64_t block, const Windows<F>& windows, Slot& slot, std::int64_t wo,
                std::int64_t columns, std::int64_t last_ho) const {
    const Strip<F>& s = slot.strip;
    const std::int64_t c0 = tiling().block_begin(block) * p.group_channels();
    const auto choose = [&](auto written) {
      return ChooseTaps<F, decltype(written)::value>(scratch.layout, p.group_channels());
    };
    const TapsFunction<F> run = kSecond     ? choose(std::integral_constant<Written, Written::grad_grad>())
                                : p.samples ? choose(std::integral_constant<Written, Written::sample>())
                                            : choose(std::integral_constant<Written, Written::nothing>());
    Taps<F> t{};
    t.x = windows.x, t.u = slot.u, t.sums = windows.sums, t.below = windows.pitch;
    t.lane_grad = slot.lane_grad, t.lane_row = kSecond ? slot.lane_grad_grad : slot.lane_grad;
    t.planes = p.planes(), t.lanes = s.lanes;
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
      t.grad = t.grad_ahead = t.row = Tensors::GradOf(slot, i, c0);
      if (scratch.direct_grad)
        t.grad_ahead = reinterpret_cast<const F*>(p.grad.tap(s.n, grad_at.ho, 0, grad_at.wo, 0, c0));
      t.cells = slot.cells + i * s.pitch, t.weights = Tensors::weights(s) + 4 * i * s.pitch,
      t.dots = slot.dots + 4 * i * s.pitch;
      if constexpr (kSecond) {
        t.row = Tensors::GradGradOf(slot, i, c0);
        t.u_weights = s.weights + 4 * i * s.pitch, t.dots_u = slot.dots_u + 4 * i * s.pitch;
      }
      run(t);
    }
  }

  // ------ All pieces

  void RunRounds() const {
    const Tiling& t = tiling();
    const std::int64_t pieces = images * t.bands * t.pieces;
    for (std::int64_t first = 0, last = 0; first < pieces; first = last) {
      const std::int64_t round = scratch.rounds[scratch.turns[first]];
      while (last < pieces && scratch.rounds[scratch.turns[last]] == round) ++last;
      workers.run((last - first) * t.blocks, [&](std::int64_t item, int index) HWY_ATTR {
        Slot slot = scratch.slot(p, index);
        const std::int64_t at = scratch.turns[first + item / t.blocks], band = at / t.pieces,
                           block = item % t.blocks, i = band / t.bands;
        ReadySlot(i, block, slot);
        for (std::int64_t tile = t.piece_begin(at % t.pieces); tile < t.piece_end(at % t.pieces); ++tile)
          RunTile(i, band % t.bands, tile, block, slot, sums(i, 0));
      });
    }
  }

  // Bands, each with sums of its own for the few pixels that its windows touch: as many at once as there are
  // slots, then added to grad_x, band after band.
  void RunApart() const {
    const Tiling& t = tiling();
    const std::int64_t bands = images * t.bands;
    for (std::int64_t first = 0; first < bands; first += workers.slots()) {
      const std::int64_t last = std::min<std::int64_t>(first + workers.slots(), bands);
      const auto sums_of = [&](std::int64_t band) {
        const Touched& at = scratch.touched_by_bands[band];
        const std::int64_t row = (at.w1 - at.w0) * p.c;
        F* to = scratch.apart + (band - first) * scratch.apart_pixels * p.c;
        return Image<F>{to - at.h0 * row - at.w0 * p.c, row, p.c};
      };
      workers.run((last - first) * t.blocks, [&](std::int64_t item, int index) HWY_ATTR {
        Slot slot = scratch.slot(p, index);
        const std::int64_t band = first + item / t.blocks, block = item % t.blocks;
        const std::int64_t c0 = t.block_begin(block) * p.group_channels(),
                           c1 = t.block_end(block, p) * p.group_channels();
        const Touched& at = scratch.touched_by_bands[band];
        const Image<F> to = sums_of(band);
        for (std::int64_t h = at.h0; h < at.h1; ++h)
          for (std::int64_t w = at.w0; w < at.w1; ++w) std::fill_n(to.at(h, w) + c0, c1 - c0, F{0});
        ReadySlot(band / t.bands, block, slot);
        for (std::int64_t tile = 0; tile < t.tiles; ++tile)
          RunTile(band / t.bands, band % t.bands, tile, block, slot, to);
      });
      workers.run(p.h, [&](std::int64_t h, int) {
        for (std::int64_t band = first; band < last; ++band) {
          const Touched& at = scratch.touched_by_bands[band];
          if (h < at.h0 || h >= at.h1) continue;
          const Image<F> from = sums_of(band), to = sums(band / t.bands, 0);
          for (std::int64_t w = at.w0; w < at.w1; ++w)
            for (std::int64_t c = 0; c < p.c; ++c) to.at(h, w)[c] += from.at(h, w)[c];
        }
      });
    }
  }

  void Run() const {
    workers.run(images * p.h, [&](std::int64_t row, int index) {
      const std::int64_t i = row / p.h, h = row % p.h;
      std::uint16_t* narrowed = scratch.narrowed + index * p.w * p.c;
      if (scratch.x) load_row(p.x, n0 + i, h, 0, p.w, 0, p.c, scratch.x + row * p.w * p.c, p.c, narrowed);
      if (scratch.u) load_row(p.gg_x, n0 + i, h, 0, p.w, 0, p.c, scratch.u + row * p.w * p.c, p.c, narrowed);
      const Image<F> to = sums(i, 0);
      for (std::int64_t w = 0; !p.adds && w < p.w; ++w) std::fill_n(to.at(h, w), p.c, F{0});
    });
    plan.apart ? RunApart() : RunRounds();
    const std::int64_t blocks = tiling().blocks;
    workers.run(images * blocks, [&](std::int64_t item, int index) {
      Slot slot = scratch.slot(p, index);
      Tensors::AddListed(item / blocks, item % blocks, slot);
    });
    for (std::int64_t i = 0; scratch.sums && i < images; ++i)
      store_image(workers, p.grad_x, n0 + i, p.h, p.w, 0, p.c, scratch.sums + i * p.h * p.w * p.c, p.c,
                  scratch.narrowed);
  }
};

// False, and nothing is done, if the offsets, of the first images, are to be binned.
template <class F, bool kSecond>
bool WindowedF(const Problem& p, const Workers& workers, void* workspace) {
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
    if (n0 == 0 && plan.scattered && bins_scattered(p, scratch)) return false;
    WindowedBatch<F, kSecond>{{p, workers, scratch, n0, images, plan}}.Run();
  }
  return true;
}

void Windowed(const Problem& p, const Workers& workers, void* workspace) {
  const auto run = [&](auto f) {
    using F = decltype(f);
    return p.pass == Pass::grad_grad ? WindowedF<F, true>(p, workers, workspace)
                                     : WindowedF<F, false>(p, workers, workspace);
  };
  if (!(p.x.dtype == DType::float64 ? run(double()) : run(float()))) binned(p, workers, workspace);
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
  const auto bytes = [&](auto f) {
    using F = decltype(f);
    std::size_t used = 0;
    const WindowsScratch<F> scratch(Carver(), p, slots, &used);
    return bins_scattered(p, scratch) ? std::max(used, binned_workspace(p, slots)) : used;
  };
  return p.x.dtype == DType::float64 ? bytes(double()) : bytes(float());
}

void windowed(const Problem& p, const Workers& workers, void* workspace) {
  HWY_DYNAMIC_DISPATCH(Windowed)(p, workers, workspace);
}

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
