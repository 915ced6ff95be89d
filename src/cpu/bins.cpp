// SPDX-License-Identifier: Apache-2.0
// A counting sort of the live taps by bin. Ranges of output rows count their taps per bin; counts become
// places, range after range; each range then deals out its taps in natural order.
#include "cpu/bins.h"

#include <cstring>

#include "cpu/cpu.h"

namespace tapfield::cpu {
namespace {

// Rows, weights, keys and counts of one row of output pixels.
template <class F>
void key_row(const Problem& p, const BinScratch<F>& scratch, Strip<F>& strip, std::int64_t image,
             std::uint32_t* counts) {
  const std::int64_t bins = scratch.grid.bins();
  // Rows of grad as they lie in memory, or packed.
  const std::int64_t w_stride = scratch.direct_grads ? p.grad.w : scratch.block;
  const std::int64_t h_stride = scratch.direct_grads ? p.grad.h : p.wo * p.kw * w_stride;
  const std::int64_t n_stride = scratch.direct_grads ? p.grad.n : p.ho * p.kh * h_stride;
  const std::int64_t ho_stride = scratch.direct_grads ? p.grad.ho : p.kh * h_stride;
  const std::int64_t wo_stride = scratch.direct_grads ? p.grad.wo : p.kw * w_stride;
  const std::int64_t pixels = Strip<F>::pixels(p.lanes());
  strip.lanes = p.lanes();
  for (strip.wo0 = 0; strip.wo0 < p.wo; strip.wo0 += pixels) {
    strip.count = std::min(pixels, p.wo - strip.wo0);
    fetch(p, strip, pixels);
    locate(p, strip);
    std::int64_t tap = ((image * p.ho + strip.ho) * p.wo + strip.wo0) * p.lanes();
    for (std::int64_t i = 0; i < strip.count; ++i) {
      const std::int64_t row = image * n_stride + strip.ho * ho_stride + (strip.wo0 + i) * wo_stride;
      std::int64_t at = i * strip.pitch;
      for (std::int64_t g = 0; g < p.groups; ++g) {
        const auto first_bin = static_cast<std::uint32_t>((image * p.groups + g) * bins);
        for (std::int64_t kh = 0; kh < p.kh; ++kh)
          for (std::int64_t kw = 0; kw < p.kw; ++kw, ++at, ++tap) {
            scratch.rows[tap] = row + kh * h_stride + kw * w_stride;
            if (strip.h0[at] == kDead) {
              scratch.keys[tap] = kNoBin;
              continue;
            }
            const std::uint32_t key =
                first_bin + scratch.row_bins[strip.h0[at] + 1] + scratch.column_bins[strip.w0[at] + 1];
            scratch.keys[tap] = key;
            ++counts[key];
            std::memcpy(scratch.weights + 4 * tap, strip.weights + 4 * at, 4 * sizeof(F));
            if (scratch.second) std::memcpy(scratch.second + 4 * tap, strip.second + 4 * at, 4 * sizeof(F));
          }
      }
    }
  }
}

}  // namespace

template <class F>
void sort_taps(const Problem& p, const Workers& workers, const BinScratch<F>& scratch, std::int64_t n0,
               std::int64_t count) {
  const Grid& grid = scratch.grid;
  for (std::int64_t r = 0; r < grid.rows; ++r)
    scratch.row_bins[r] = static_cast<std::uint32_t>(grid.row_bin(r));
  for (std::int64_t c = 0; c < grid.columns; ++c)
    scratch.column_bins[c] = static_cast<std::uint32_t>(grid.column_bin(c));
  const std::int64_t bins = count * p.groups * grid.bins(), rows = count * p.ho, row_taps = p.wo * p.lanes();
  const std::int64_t ranges = std::min(scratch.ranges, rows);

  workers.run(ranges, [&](std::int64_t range, int slot_index) {
    auto slot = scratch.slot(p, slot_index);
    std::uint32_t* counts = scratch.counts + range * bins;
    std::fill_n(counts, bins, 0u);
    for (std::int64_t r = rows * range / ranges; r < rows * (range + 1) / ranges; ++r) {
      slot.strip.n = n0 + r / p.ho, slot.strip.ho = r % p.ho;
      key_row(p, scratch, slot.strip, r / p.ho, counts);
    }
  });

  std::uint32_t place = 0;
  for (std::int64_t b = 0; b < bins; ++b) {
    scratch.starts[b] = place;
    for (std::int64_t range = 0; range < ranges; ++range) {
      std::uint32_t& counted = scratch.counts[range * bins + b];
      const std::uint32_t taps = counted;
      counted = place, place += taps;
    }
  }
  scratch.starts[bins] = place;

  workers.run(ranges, [&](std::int64_t range, int) {
    std::uint32_t* places = scratch.counts + range * bins;
    const std::int64_t end = rows * (range + 1) / ranges * row_taps;
    for (std::int64_t tap = rows * range / ranges * row_taps; tap < end; ++tap)
      if (scratch.keys[tap] != kNoBin)
        scratch.order[places[scratch.keys[tap]]++] = static_cast<std::uint32_t>(tap);
  });
}

template <class F>
std::int64_t list_chunks(const BinScratch<F>& scratch, std::int64_t bins) {
  std::int64_t count = 0;
  for (std::int64_t b = 0; scratch.chunk_room && b < bins; ++b) {
    const std::uint32_t begin = scratch.starts[b], end = scratch.starts[b + 1];
    if (end - begin < kSharedTaps) continue;
    if (count + (end - begin + kChunk - 1) / kChunk > scratch.chunk_room) break;
    for (std::uint32_t at = begin; at < end; at += std::min(kChunk, end - at))
      scratch.chunks[count++] = {static_cast<std::uint32_t>(b), at, at + std::min(kChunk, end - at)};
  }
  return count;
}

template void sort_taps(const Problem&, const Workers&, const BinScratch<float>&, std::int64_t, std::int64_t);
template void sort_taps(const Problem&, const Workers&, const BinScratch<double>&, std::int64_t,
                        std::int64_t);
template std::int64_t list_chunks(const BinScratch<float>&, std::int64_t);
template std::int64_t list_chunks(const BinScratch<double>&, std::int64_t);

}  // namespace tapfield::cpu
