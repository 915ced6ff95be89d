// SPDX-License-Identifier: Apache-2.0
// The scalar part of every schedule, vectorised over the taps of an output pixel: offsets to cells, fractions
// and weights, and dot products to grad_offsets. It works on strips: some output pixels of one row, some
// lanes (whole groups of taps). Bit for bit math.h, which tests hold it to.
#pragma once

#include <limits>

#include "cpu/pack.h"
#include "execution.h"
#include "problem.h"

namespace tapfield::cpu {

constexpr std::int32_t kDead = std::numeric_limits<std::int32_t>::min();

// Scratch of one strip. Lane l of pixel i stands at [i * pitch + l]; arrays are padded to whole vectors.
template <class F>
struct Strip {
  // Room for strips of up to `most` lanes that have `taps` taps, lanes padded, and to fetch `fetched` pixels.
  Strip(Carver& carver, const Problem& p, std::int64_t most, std::int64_t taps, std::int64_t fetched);
  // For pixels() pixels.
  Strip(Carver& carver, const Problem& p, std::int64_t most)
      : Strip(carver, p, most, pixels(most) * padded(most), pixels(most)) {}

  // Pixels in a strip of so many lanes: a strip's arrays stay in L1 and L2; where there are that many, whole
  // cache lines of planes whose pixels are adjacent.
  static std::int64_t pixels(std::int64_t lanes) {
    const std::int64_t most = lanes >= 2048 ? 1 : 2048 / (lanes ? lanes : 1);
    return most < kLinePixels / 2 ? most : (most + kLinePixels / 2) / kLinePixels * kLinePixels;
  }
  static std::int64_t padded(std::int64_t lanes) { return (lanes + 15) / 16 * 16; }

  // Where the strip lies.
  std::int64_t n = 0, ho = 0, wo0 = 0, count = 0;   // pixels [wo0, wo0 + count) of output row ho of image n
  std::int64_t lane0 = 0, lanes = 0;                // lanes [lane0, lane0 + lanes), whole groups
  std::int64_t fetched_wo0 = 0, fetched_count = 0;  // what fetch() has fetched: holds the strip

  std::int64_t pitch;
  std::int32_t *h0, *w0;  // cell; h0 = kDead where the tap is dead
  F *hh, *lh, *hw, *lw;   // fractions and their complements; 0 where dead
  F* m;                   // mask, 1 if not modulated; 0 where dead
  F* weights;             // [..][4]: m b00, m b01, m b10, m b11
  F* second;              // [..][4]: second_weight of the corners 00, 01, 10, 11; null but in grad_grad
  // Of the pixels fetched:
  F* planes[3];  // offsets, then grad_offsets, where the tensor's own memory cannot serve
  F* gg[3];      // gg_offsets; null but in grad_grad
  void* buffer;  // of 16-bit elements on their way
};

// Reads the strip's offsets (and gg_offsets, absent = 0) where locate cannot read them in place. Strips
// inside it can then be located and finished one after another; flush() follows. next: as in pack_row.
template <class F>
void fetch(const Problem& p, Strip<F>& strip, std::int64_t next = 0);

// Fills in h0, w0, lh, lw, m and weights, and second where there is room, of a strip fetched.
template <class F>
void locate(const Problem& p, Strip<F>& strip);

// grad_offsets of a located strip from its dots: the four sum(grad * v_corner), and for
// Pass::grad_grad the four sum(grad * u_corner); else dots_u is not read. Dots of dead taps are not looked
// at; 4 vectors past the last one are read.
template <class F>
void finish(const Problem& p, Strip<F>& strip,
            const F* dots,    // [count][dots_pitch][4]
            const F* dots_u,  // [count][dots_pitch][4]
            std::int64_t dots_pitch);

// Brings to the tensor what finish could not write in place, of all pixels fetched.
template <class F>
void flush(const Problem& p, Strip<F>& strip);

}  // namespace tapfield::cpu
