// SPDX-License-Identifier: Apache-2.0
// A counting sort of the live taps by bin. Chunks of output rows count their taps per bin; counts become
// places, chunk after chunk; each chunk then deals out its taps in natural order.
#include "cpu/bins.h"

#include <cstring>

#include "cpu/cpu.h"

namespace tapfield::cpu {
namespace {

// Records, keys and counts of one row of output pixels.
template <class F>
void key_row(const Problem& p, const BinScratch<F>& scratch, Strip<F>& strip, std::int64_t image,
             std::uint32_t* counts) {
  const std::int64_t bins = scratch.grid.bins();
  // Rows of grad as they lie in memory, or packed.
  const std::int64_t w_stride = scratch.direct_grad ? p.grad.w : scratch.block;
  const std::int64_t h_stride = scratch.direct_grad ? p.grad.h : p.wo * p.kw * w_stride;
  const std::int64_t n_stride = scratch.direct_grad ? p.grad.n : p.ho * p.kh * h_stride;
  const std::int64_t ho_stride = scratch.direct_grad ? p.grad.ho : p.kh * h_stride;
  const std::int64_t wo_stride = scratch.direct_grad ? p.grad.wo : p.kw * w_stride;
  const std::int64_t pixels = Strip<F>::pixels(p.lanes());
  strip.lanes = p.lanes();
  for (strip.wo0 = 0; strip.wo0 < p.wo; strip.wo0 += pixels) {
    strip.count = std::min(pixels, p.wo - strip.wo0);
    locate(p, strip);
    std::int64_t tap = ((image * p.ho + strip.ho) * p.wo + strip.wo0) * p.lanes();
    for (std::int64_t i = 0; i < strip.count; ++i) {
      const std::int64_t row = image * n_stride + strip.ho * ho_stride + (strip.wo0 + i) * wo_stride;
      std::int64_t at = i * strip.pitch;
      for (std::int64_t g = 0; g < p.groups; ++g) {
        const auto first_bin = static_cast<std::uint32_t>((image * p.groups + g) * bins);
        for (std::int64_t kh = 0; kh < p.kh; ++kh)
          for (std::int64_t kw = 0; kw < p.kw; ++kw, ++at, ++tap) {
            if (strip.h0[at] == kDead) {
              scratch.keys[tap] = kNoBin;
              continue;
            }
            const std::uint32_t key =
                first_bin + scratch.row_bins[strip.h0[at] + 1] + scratch.column_bins[strip.w0[at] + 1];
            scratch.keys[tap] = key;
            ++counts[key];
            Record<F>& record = scratch.records[tap];
            record.grad = row + kh * h_stride + kw * w_stride;
            std::memcpy(record.weights, strip.weights + 4 * at, sizeof record.weights);
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
  const std::int64_t chunks = std::min(scratch.chunks, rows);

  workers.run(chunks, [&](std::int64_t chunk, int slot_index) {
    auto slot = scratch.slot(p, slot_index);
    std::uint32_t* counts = scratch.counts + chunk * bins;
    std::fill_n(counts, bins, 0u);
    for (std::int64_t r = rows * chunk / chunks; r < rows * (chunk + 1) / chunks; ++r) {
      slot.strip.n = n0 + r / p.ho, slot.strip.ho = r % p.ho;
      key_row(p, scratch, slot.strip, r / p.ho, counts);
    }
  });

  std::uint32_t place = 0;
  for (std::int64_t b = 0; b < bins; ++b) {
    scratch.starts[b] = place;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      std::uint32_t& counted = scratch.counts[chunk * bins + b];
      const std::uint32_t taps = counted;
      counted = place, place += taps;
    }
  }
  scratch.starts[bins] = place;

  workers.run(chunks, [&](std::int64_t chunk, int) {
    std::uint32_t* places = scratch.counts + chunk * bins;
    const std::int64_t end = rows * (chunk + 1) / chunks * row_taps;
    for (std::int64_t tap = rows * chunk / chunks * row_taps; tap < end; ++tap)
      if (scratch.keys[tap] != kNoBin)
        scratch.order[places[scratch.keys[tap]]++] = static_cast<std::uint32_t>(tap);
  });
}

template void sort_taps(const Problem&, const Workers&, const BinScratch<float>&, std::int64_t, std::int64_t);
template void sort_taps(const Problem&, const Workers&, const BinScratch<double>&, std::int64_t,
                        std::int64_t);

}  // namespace tapfield::cpu
