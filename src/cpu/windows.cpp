// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/windows.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include "cpu/simd.h"
#include "cpu/windows.h"

#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {

// A pixel's channels between the image, which has `n` of the last vector's, and a window, which is padded.
template <int kChannels, class D>
struct Pixel {
  static constexpr int kLanes = hn::MaxLanes(D()), kVectors = kChannels / kLanes;
  using F = hn::TFromD<D>;
  D d;
  std::int64_t channels;  // of the group

  template <class Visit>
  HWY_INLINE void for_each(const Visit& visit) const {
    std::int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) visit(c, std::false_type(), std::size_t{0});
    if (c < channels) visit(c, std::true_type(), static_cast<std::size_t>(channels - c));
  }
  HWY_INLINE void copy(const F* HWY_RESTRICT from, F* HWY_RESTRICT to) const {
    for_each([&](std::int64_t c, auto tail, std::size_t n)
                 HWY_ATTR { hn::StoreU(LoadN<tail>(d, from + c, n), d, to + c); });
  }
  HWY_INLINE void zero(F* to) const {
    for (int v = 0; v < kVectors; ++v) hn::StoreU(hn::Zero(d), d, to + v * kLanes);
  }
};

// Columns of a window's row that lie in the map: [begin, end) of them.
struct Inside {
  std::int64_t begin, end;
  Inside(std::int64_t first, std::int64_t count, std::int64_t size)
      : begin(first < 0 ? -first : 0), end(std::min(count, size - first)) {}
};

// Row r of a window of pixels, from the map.
template <int kChannels, class F>
HWY_INLINE void BuildPixels(const Windows<F>& s, const Window& w, std::int64_t r, F* row,
                            const Image<const F>& image) {
  const hn::CappedTag<F, kChannels> d;
  const Pixel<kChannels, decltype(d)> pixel{d, s.p.group_channels()};
  const std::int64_t h = w.h + r;
  if (h < 0 || h >= s.p.h) {
    std::memset(row, 0, static_cast<std::size_t>((w.columns + 1) * kChannels) * sizeof(F));
    return;
  }
  const Inside columns(w.w, w.columns + 1, s.p.w);
  if (columns.begin) pixel.zero(row);
  if (columns.end <= w.columns) pixel.zero(row + w.columns * kChannels);
  const F* from = image.at(h, w.w + columns.begin);
  for (std::int64_t c = columns.begin; c < columns.end; ++c, from += image.w_stride) {
    __builtin_prefetch(from + image.h_stride);
    pixel.copy(from, row + c * kChannels);
  }
}

template <int kChannels, class F>
HWY_INLINE void AddPixels(const Windows<F>& s, const Window& w, std::int64_t r, F* row,
                          const Image<F>& image) {
  const hn::CappedTag<F, kChannels> d;
  const Pixel<kChannels, decltype(d)> pixel{d, s.p.group_channels()};
  if (w.h + r >= 0 && w.h + r < s.p.h) {
    const Inside columns(w.w, w.columns + 1, s.p.w);
    F* to = image.at(w.h + r, w.w + columns.begin);
    const F* from = row + columns.begin * kChannels;
    for (std::int64_t c = columns.begin; c < columns.end; ++c, to += image.w_stride, from += kChannels) {
      __builtin_prefetch(to + image.h_stride, 1);
      pixel.for_each([&](std::int64_t i, auto tail, std::size_t n) HWY_ATTR {
        StoreN<tail>(hn::Add(LoadN<tail>(d, to + i, n), hn::LoadU(d, from + i)), d, to + i, n);
      });
    }
  }
}

// Channels of a quad's corner, or none of them (0); `channels` of the group, padded with zeros to kChannels.
template <int kChannels, class F>
struct Corner {
  F c[kChannels];

  static HWY_INLINE Corner load(const F* from, std::int64_t channels) {
    Corner r;
    if (channels == kChannels)
      std::memcpy(r.c, from, sizeof r.c);
    else
      for (std::int64_t i = 0; i < kChannels; ++i) r.c[i] = i < channels ? from[i] : F{0};
    return r;
  }
};

// Row r of a window of quads: half of each quad from this row of the map, half from the one below.
template <int kChannels, class F>
HWY_INLINE void BuildQuads(const Windows<F>& s, const Window& w, std::int64_t r, F* row,
                           const Image<const F>& image) {
  using C = Corner<kChannels, F>;
  const std::int64_t channels = s.p.group_channels();
  const Inside columns(w.w, w.columns + 1, s.p.w);  // of the pixels
  for (std::int64_t below = 0; below < 2; ++below) {
    const std::int64_t h = w.h + r + below;
    F* to = row + 2 * kChannels * below;
    const bool inside = h >= 0 && h < s.p.h;
    const F* from = image.data + h * image.h_stride + w.w * image.w_stride;
    C left{};
    if (inside && columns.begin == 0) left = C::load(from, channels);
    for (std::int64_t c = 0; c < w.columns; ++c, to += 4 * kChannels) {
      C right{};
      if (inside && c + 1 < columns.end) {
        right = C::load(from + (c + 1) * image.w_stride, channels);
        if (below) __builtin_prefetch(from + (c + 1) * image.w_stride + image.h_stride);
      }
      std::memcpy(to, left.c, sizeof left.c);
      std::memcpy(to + kChannels, right.c, sizeof right.c);
      left = right;
    }
  }
}

// A pixel is a corner of the four cells around it; they are added in one order.
template <int kChannels, class F>
HWY_INLINE void AddQuads(const Windows<F>& s, const Window& w, std::int64_t r, F* row,
                         const Image<F>& image) {
  if (w.h + r < 0 || w.h + r >= s.p.h) return;
  const std::int64_t channels = s.p.group_channels();
  static constexpr F kZeros[4 * kChannels] = {};
  const Inside columns(w.w, w.columns + 1, s.p.w);
  // The quads right of and on a pixel's column, above and on its row; their neighbours lie one cell before.
  const F* above = r > 0 ? row - s.pitch : nullptr;
  const F* on = r < w.rows ? row : nullptr;
  const auto add = [&](std::int64_t c, const F* q11, const F* q10, const F* q01, const F* q00) {
    F* to = image.at(w.h + r, w.w + c);
    __builtin_prefetch(to + image.h_stride, 1);
    F sum[kChannels];
    for (int i = 0; i < kChannels; ++i)
      sum[i] = (q11[3 * kChannels + i] + q10[2 * kChannels + i]) + (q01[kChannels + i] + q00[i]);
    if (channels == kChannels)
      for (int i = 0; i < kChannels; ++i) to[i] += sum[i];
    else
      for (std::int64_t i = 0; i < channels; ++i) to[i] += sum[i];
  };
  const auto quad = [&](const F* cells, std::int64_t column) {
    return cells && column >= 0 && column < w.columns ? cells + column * 4 * kChannels : kZeros;
  };
  const auto at_edge = [&](std::int64_t c) {
    add(c, quad(above, c - 1), quad(above, c), quad(on, c - 1), quad(on, c));
  };
  std::int64_t c = columns.begin;
  if (above && on) {
    if (c == 0 && c < columns.end) at_edge(c++);
    for (; c < std::min(columns.end, std::int64_t{w.columns}); ++c) {
      const F *q10 = above + c * 4 * kChannels, *q00 = on + c * 4 * kChannels;
      add(c, q10 - 4 * kChannels, q10, q00 - 4 * kChannels, q00);
    }
  }
  for (; c < columns.end; ++c) at_edge(c);
}

// Rows of the map in order, and in each all groups: their channels share cache lines.
template <class F, class Row>
void for_each_row(const Windows<F>& s, std::int64_t beyond, const Row& row) {
  std::int64_t begin = s.p.h, end = -1;
  for (std::int64_t g = 0; g < s.count; ++g) {
    if (!s.at[g].rows) continue;
    begin = std::min<std::int64_t>(begin, s.at[g].h),
    end = std::max<std::int64_t>(end, s.at[g].h + s.at[g].rows + beyond);
  }
  for (std::int64_t h = begin; h < end; ++h)
    for (std::int64_t g = 0; g < s.count; ++g) {
      const std::int64_t r = h - s.at[g].h;
      if (s.at[g].rows && r >= 0 && r < s.at[g].rows + beyond) row(g, r);
    }
}

template <class F>
void Build(const Windows<F>& s, const Image<const F>& image) {
  for_channels(s.layout.channels, [&](auto channels) HWY_ATTR {
    constexpr int kChannels = decltype(channels)::value;
    for_each_row(s, s.layout.beyond(), [&](std::int64_t g, std::int64_t r) HWY_ATTR {
      const Image<const F> group{image.data + g * s.p.group_channels(), image.h_stride, image.w_stride};
      F* row = s.x + g * s.size + r * s.pitch;
      if constexpr (kChannels * sizeof(F) <= 16)
        BuildQuads<kChannels>(s, s.at[g], r, row, group);
      else
        BuildPixels<kChannels>(s, s.at[g], r, row, group);
    });
  });
}

template <class F>
void AddSums(const Windows<F>& s, const Image<F>& image) {
  for_channels(s.layout.channels, [&](auto channels) HWY_ATTR {
    constexpr int kChannels = decltype(channels)::value;
    for_each_row(s, 1, [&](std::int64_t g, std::int64_t r) HWY_ATTR {
      const Image<F> group{image.data + g * s.p.group_channels(), image.h_stride, image.w_stride};
      F* row = s.sums + g * s.size + r * s.pitch;
      if constexpr (kChannels * sizeof(F) <= 16)
        AddQuads<kChannels>(s, s.at[g], r, row, group);
      else
        AddPixels<kChannels>(s, s.at[g], r, row, group);
    });
  });
}

void BuildF32(const Windows<float>& s, const Image<const float>& image) { Build(s, image); }
void BuildF64(const Windows<double>& s, const Image<const double>& image) { Build(s, image); }
void AddF32(const Windows<float>& s, const Image<float>& image) { AddSums(s, image); }
void AddF64(const Windows<double>& s, const Image<double>& image) { AddSums(s, image); }

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::cpu {
namespace {

HWY_EXPORT(BuildF32);
HWY_EXPORT(BuildF64);
HWY_EXPORT(AddF32);
HWY_EXPORT(AddF64);

}  // namespace

// An odd number of cache lines: rows then fall on different sets of L1.
std::int64_t Layout::pitch(std::int64_t columns, std::size_t size) const {
  const std::int64_t line = static_cast<std::int64_t>(64 / size);
  return ((columns + beyond()) * cell() + line - 1) / line / 2 * 2 * line + line;
}

Tiling::Tiling(const Problem& p, std::size_t size, bool whole_map)
    : whole(whole_map), rows(p.ho), columns(p.wo), max_rows(p.h + 1), max_columns(p.w + 1) {
  const Layout layout(p.group_channels(), size);
  const bool planes = !p.grad.adjacent() || !p.offsets_adjacent() || !p.grad_offsets.adjacent() ||
                      p.grad_offsets_planes[0].data;
  // About square, as far as the output is; where tensors are planes twice as wide, in whole lines of them
  // (case e of bench/ in NCHW takes 0.88 of a square's time, c 0.92).
  if (!whole) {
    const std::int64_t in_tile = std::max<std::int64_t>(kTaps / p.taps(), 1);
    std::int64_t side = 1;
    while ((side + 1) * (side + 1) <= in_tile) ++side;
    columns = std::max(side, in_tile / std::min(side, p.ho));
    if (planes && in_tile >= kLinePixels)
      columns = std::max(columns, std::max(2 * side / kLinePixels, std::int64_t{1}) * kLinePixels);
    columns = std::min(columns, p.wo);
    rows = std::min(std::max<std::int64_t>(in_tile / columns, 1), p.ho);
    max_rows = std::min((rows - 1) * p.stride_h + (p.kh - 1) * p.dil_h + 1 + 2 * kReach, max_rows);
    max_columns = std::min((columns - 1) * p.stride_w + (p.kw - 1) * p.dil_w + 1 + 2 * kReach, max_columns);
  }
  bands = (p.ho + rows - 1) / rows, tiles = (p.wo + columns - 1) / columns;
  room = (max_rows + layout.beyond()) * layout.pitch(max_columns, size);
  // In a tile groups of 64 channels, 16 groups at most: what a pixel's taps touch of the windows fits L1. Of
  // the whole map a cache line of grad.
  const std::int64_t channels = whole          ? static_cast<std::int64_t>(64 / size)
                                : layout.quads ? kGroups * layout.channels
                                               : 64;
  block_groups = std::clamp<std::int64_t>(channels / layout.channels, 1, std::min(kGroups, p.groups));
  while (block_groups > 1 && !fits(size)) --block_groups;
  blocks = (p.groups + block_groups - 1) / block_groups;
  const std::int64_t most = std::clamp<std::int64_t>(kStripTaps / lanes(p), 1, columns),
                     strips = (columns + most - 1) / most;
  pixels = (columns + strips - 1) / strips;
  fetched = planes && kLinePixels * lanes(p) <= kFetchedTaps
                ? std::min(std::max(pixels, kLinePixels), columns)
                : pixels;
  const std::int64_t most_tiles = planes ? kPlanesPiece : blocks > 1 ? 1 : kPiece;
  piece = std::clamp<std::int64_t>(bands * tiles / kPieces, 1, std::min(most_tiles, tiles));
  pieces = (tiles + piece - 1) / piece, piece = (tiles + pieces - 1) / pieces;
}

template <class F>
Windows<F>::Windows(const Problem& problem, const Layout& l, const Window* windows, std::int64_t groups,
                    F* x_room, F* sums_room)
    : p(problem), layout(l), at(windows), count(groups), x(x_room), sums(sums_room) {
  std::int32_t rows = 0, columns = 0;
  for (std::int64_t g = 0; g < count; ++g)
    rows = std::max(rows, at[g].rows), columns = std::max(columns, at[g].columns);
  pitch = layout.pitch(columns, sizeof(F));
  size = (rows + layout.beyond()) * pitch;
}

template <class F>
void Windows<F>::build(const Image<const F>& image) const {
  if constexpr (sizeof(F) == 4)
    HWY_DYNAMIC_DISPATCH(BuildF32)(*this, image);
  else
    HWY_DYNAMIC_DISPATCH(BuildF64)(*this, image);
}

template <class F>
void Windows<F>::add(const Image<F>& image) const {
  if constexpr (sizeof(F) == 4)
    HWY_DYNAMIC_DISPATCH(AddF32)(*this, image);
  else
    HWY_DYNAMIC_DISPATCH(AddF64)(*this, image);
}

template struct Windows<float>;
template struct Windows<double>;

}  // namespace tapfield::cpu
#endif  // HWY_ONCE
