// SPDX-License-Identifier: Apache-2.0
// Gradient and second derivative, binned: taps are sorted by the cell they fall into (bins.h), then the map
// is swept cell by cell (sweep.h): in the gradient two loads, sixteen multiply-adds and one sum across lanes
// a tap and block of channels. Docs: docs/operators.md, "Gradient" and "Second derivative".
//
// Every element of grad_x is written once, final: a pixel's sum from its cell row, left cell after right,
// plus the one its row got from the cell row above. The two are added in one place whichever band they come
// from, so any split into bands, and any thread, gives the same bits: no zeroing, no atomics. Taps of a cell
// are summed in natural order, in pieces and chunks of fixed length; whoever sums a chunk.
//
// Phases: sort; chunks of cells with many taps; sweep (an item: one band of one group of one image); add the
// two sums where bands meet; finish, in natural order, grad_offsets from the dots. Tensors whose channels are
// not adjacent are packed, a block of channels at a time, and swept block after block; dots add up in block
// order.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/binned.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/sweep.h"
#include "cpu/bins.h"
#include "cpu/cpu.h"
#include "cpu/rows.h"

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// One batch of images.
template <class T, class U, bool kSecond, class F = Compute<T>>
struct BinnedBatch {
  const Problem& p;
  const Workers& workers;
  const BinScratch<F>& scratch;
  std::int64_t n0, images;
  const Grid& grid = scratch.grid;
  const std::int64_t block = scratch.block, x_image = p.h * p.w * block,
                     grad_image = p.ho * p.kh * p.wo * p.kw * block;

  // Channels [c0, c1): those of groups [g0, g0 + groups), of the first and last maybe a part.
  struct Block {
    std::int64_t c0, c1, g0, groups;
  };

  void Run() const {
    sort_taps(p, workers, scratch, n0, images);
    const std::int64_t chunks = list_chunks(scratch, images * p.groups * grid.bins());
    for (std::int64_t c0 = 0; c0 < p.c; c0 += block) {
      const std::int64_t c1 = std::min(c0 + block, p.c), channels = p.group_channels(), g0 = c0 / channels;
      RunBlock({c0, c1, g0, (c1 + channels - 1) / channels - g0}, chunks);
    }
    workers.run(images * p.ho, [&](std::int64_t r, int slot_index) {
      auto slot = scratch.slot(p, slot_index);
      Strip<F>& strip = slot.strip;
      const std::int64_t pixels = Strip<F>::pixels(p.lanes());
      strip.n = n0 + r / p.ho, strip.ho = r % p.ho, strip.lanes = p.lanes();
      for (strip.wo0 = 0; strip.wo0 < p.wo; strip.wo0 += pixels) {
        strip.count = std::min(pixels, p.wo - strip.wo0);
        const std::int64_t from = 4 * (r * p.wo + strip.wo0) * p.lanes();
        fetch(p, strip, pixels);
        locate(p, strip);
        finish(p, strip, scratch.dots + from, kSecond ? scratch.dots_u + from : nullptr, p.lanes());
        flush(p, strip);
      }
    });
  }

  void RunBlock(const Block& b, std::int64_t chunks) const {
    const std::int64_t size = size_of(p.x.dtype);
    const auto pack = [&](char* packed, const View& view, std::int64_t rows, std::int64_t columns,
                          bool soon) {
      for (std::int64_t i = 0; packed && i < images; ++i)
        pack_image(workers, view, n0 + i, rows, columns, b.c0, b.c1,
                   packed + i * rows * columns * block * size_of(view.dtype), block, soon);
    };
    // grad first, past the cache: x, which cells read again and again, stays in it.
    pack(scratch.packed_grad, p.grad, p.ho * p.kh, p.wo * p.kw, /*soon=*/false);
    pack(scratch.packed_x, p.x, p.h, p.w, /*soon=*/true);
    pack(scratch.packed_u, p.gg_x, p.h, p.w, /*soon=*/true);
    if (kSecond) workers.run(images * p.ho, [&](std::int64_t row, int) { ZeroDead(b, row); });

    workers.run(chunks, [&](std::int64_t chunk, int) {
      const std::int64_t g = scratch.chunks[chunk].bin / grid.bins();
      if (g % p.groups < b.g0 || g % p.groups >= b.g0 + b.groups) return;
      SweepOf(b, g / p.groups, g % p.groups, chunks).SharedChunk(chunk);
    });
    workers.run(images * b.groups * grid.bands, [&](std::int64_t item, int slot_index) {
      const std::int64_t band = item % grid.bands, g = b.g0 + item / grid.bands % b.groups,
                         i = item / grid.bands / b.groups;
      auto slot = scratch.slot(p, slot_index);
      auto sweep = SweepOf(b, i, g, chunks);
      SetEdges(sweep, b, i, g, band);
      sweep.slot = &slot;
      sweep.Band(band);
    });
    const std::int64_t seams = grid.bands - 1;
    workers.run(images * b.groups * seams, [&](std::int64_t item, int) {
      const std::int64_t band = item % seams + 1, g = b.g0 + item / seams % b.groups,
                         i = item / seams / b.groups;
      auto sweep = SweepOf(b, i, g, chunks);
      SetEdges(sweep, b, i, g, band);
      sweep.Seam(band * grid.band_rows - 1, sweep.upper,
                 scratch.lower + (sweep.upper - scratch.upper) - p.w * block);
    });

    for (std::int64_t i = 0; scratch.sums && i < images; ++i)
      store_image(workers, p.grad_x, n0 + i, p.h, p.w, b.c0, b.c1, scratch.sums + i * x_image, block,
                  scratch.narrowed);
    for (std::int64_t i = 0; scratch.packed_grad_grad && i < images; ++i)
      workers.run(p.ho * p.kh, [&](std::int64_t h, int) {
        unpack_row(p.grad_grad, n0 + i, h, 0, p.wo * p.kw, b.c0, b.c1,
                   scratch.packed_grad_grad + (i * grad_image + h * p.wo * p.kw * block) * size, block);
      });
  }

  // Image i from channel `first` on: in place, or packed, where it stands at `in_block`.
  template <class E>
  Image<const E> image(const char* packed, const View& view, std::int64_t i, std::int64_t first,
                       std::int64_t in_block) const {
    auto r = packed ? Image<const E>{reinterpret_cast<const E*>(packed) + i * x_image, p.w * block, block}
                    : image_in_place<const E>(view, n0 + i);
    r.data += packed ? in_block : first;
    return r;
  }

  // The sweep of image i's part of group g: all but its band.
  Sweep<T, U, kSecond> SweepOf(const Block& b, std::int64_t i, std::int64_t g, std::int64_t chunks) const {
    const std::int64_t channels = p.group_channels(), bins = grid.bins();
    const std::int64_t first = std::max(g * channels, b.c0), last = std::min((g + 1) * channels, b.c1);
    const std::int64_t in_block = first - b.c0;  // where its first channel lies in packed memory
    Sweep<T, U, kSecond> s{p,
                           scratch,
                           last - first,
                           first == g * channels,
                           scratch.starts[images * p.groups * bins],
                           static_cast<std::uint32_t>((i * p.groups + g) * bins)};
    s.x = image<T>(scratch.packed_x, p.x, i, first, in_block);
    if (kSecond && p.gg_x.data) s.u = image<U>(scratch.packed_u, p.gg_x, i, first, in_block);
    s.grad = scratch.direct_grads ? reinterpret_cast<const T*>(p.grad.at(n0, 0, 0, first))
                                  : reinterpret_cast<const T*>(scratch.packed_grad) + in_block;
    if (kSecond)
      s.grad_grad = scratch.direct_grads ? reinterpret_cast<T*>(p.grad_grad.at(n0, 0, 0, first))
                                         : reinterpret_cast<T*>(scratch.packed_grad_grad) + in_block;
    const std::int64_t size = size_of(p.grad_x.dtype), f = static_cast<std::int64_t>(sizeof(F));
    s.grad_x = scratch.direct_grad_x
                   ? Rows<T, F>{p.grad_x.at(n0 + i, 0, 0, first), p.grad_x.h * size, p.grad_x.w * size,
                                p.grad_x.dtype == p.x.dtype}
                   : Rows<T, F>{reinterpret_cast<char*>(scratch.sums + i * x_image + in_block),
                                p.w * block * f, block * f, false};
    s.chunks = scratch.chunks, s.chunks_end = scratch.chunks + chunks;
    return s;
  }

  void SetEdges(Sweep<T, U, kSecond>& s, const Block& b, std::int64_t i, std::int64_t g,
                std::int64_t band) const {
    const std::int64_t edge =
        (i * grid.bands + band) * p.w * block + std::max(g * p.group_channels(), b.c0) - b.c0;
    if (band > 0) s.upper = scratch.upper + edge;
    if (band + 1 < grid.bands) s.lower = scratch.lower + edge;
  }

  // grad_grad of the dead taps of one row of output pixels.
  void ZeroDead(const Block& b, std::int64_t row) const {
    auto* to = scratch.direct_grads ? reinterpret_cast<T*>(p.grad_grad.at(n0, 0, 0, b.c0))
                                    : reinterpret_cast<T*>(scratch.packed_grad_grad);
    const std::int64_t channels = p.group_channels(), end = (row + 1) * p.wo * p.lanes();
    std::int64_t g = 0, k = 0;
    for (std::int64_t tap = row * p.wo * p.lanes(); tap < end; ++tap) {
      const std::int64_t first = std::max(g * channels, b.c0), last = std::min((g + 1) * channels, b.c1);
      if (scratch.keys[tap] == kNoBin && first < last)
        std::memset(static_cast<void*>(to + scratch.rows[tap] + first - b.c0), 0,
                    static_cast<std::size_t>(last - first) * sizeof(T));
      if (++k == p.taps()) k = 0, g = g + 1 == p.groups ? 0 : g + 1;
    }
  }
};

template <class T, class U, bool kSecond, class F = Compute<T>>
void BinnedT(const Problem& p, const Workers& workers, void* workspace) {
  const BinScratch<F> scratch(Carver(workspace), p, workers.slots(), nullptr);
  std::memset(scratch.zeros, 0, static_cast<std::size_t>(scratch.block) * sizeof(F));
  for (std::int64_t n0 = 0; n0 < p.n; n0 += scratch.images)
    BinnedBatch<T, U, kSecond>{p, workers, scratch, n0, std::min(scratch.images, p.n - n0)}.Run();
}

// U: of gg_x, which may be float32 beside 16-bit tensors.
template <class T, class U>
void BinnedPass(const Problem& p, const Workers& workers, void* workspace) {
  if (p.pass == Pass::grad)
    BinnedT<T, T, false>(p, workers, workspace);
  else
    BinnedT<T, U, true>(p, workers, workspace);
}

void Binned(const Problem& p, const Workers& workers, void* workspace) {
  const bool wide = p.gg_x.dtype == DType::float32;
  switch (p.x.dtype) {
    case DType::float16:
      return wide ? BinnedPass<float16_t, float>(p, workers, workspace)
                  : BinnedPass<float16_t, float16_t>(p, workers, workspace);
    case DType::bfloat16:
      return wide ? BinnedPass<bfloat16_t, float>(p, workers, workspace)
                  : BinnedPass<bfloat16_t, bfloat16_t>(p, workers, workspace);
    case DType::float32: return BinnedPass<float, float>(p, workers, workspace);
    case DType::float64: return BinnedPass<double, double>(p, workers, workspace);
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {

HWY_EXPORT(Binned);

const char* binned_why_not(const Problem& p) {
  if (const char* why = too_wide(p)) return why;
  // Bins and taps are numbered in 32 bits.
  constexpr double limit = 4e9;
  const Grid grid(p);
  const double lanes = static_cast<double>(p.lanes());
  const bool fits = static_cast<double>(p.ho) * static_cast<double>(p.wo) * lanes < limit &&
                    static_cast<double>(grid.bins()) * static_cast<double>(p.groups) < limit;
  return fits ? nullptr : "an image has 4e9 taps or cells or more";
}

double binned_cost(const Problem&) { return 1; }

// The samples that are to take grad's place: the forward into it.
static Problem sampling(const Problem& p) {
  Problem forward = p;
  forward.pass = Pass::forward, forward.y = p.grad;
  return forward;
}

std::size_t binned_workspace(const Problem& p, int slots) {
  std::size_t used = 0;
  if (p.x.dtype == DType::float64)
    BinScratch<double>(Carver(), p, slots, &used);
  else
    BinScratch<float>(Carver(), p, slots, &used);
  return p.samples ? std::max(used, forward_workspace(sampling(p), slots)) : used;
}

void binned(const Problem& p, const Workers& workers, void* workspace) {
  HWY_DYNAMIC_DISPATCH(Binned)(p, workers, workspace);
  if (p.samples) forward(sampling(p), workers, workspace);
}

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
