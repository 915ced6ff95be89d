// SPDX-License-Identifier: Apache-2.0
#include "floor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "floor.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#ifndef TAPFIELD_BENCH_FLOOR_ONCE_
#define TAPFIELD_BENCH_FLOOR_ONCE_
namespace tapfield::bench {

// Not zero: some memory takes zeros at twice the speed of anything else (seen on Zen 4: 53 and 28 GB/s).
constexpr unsigned kWritten = 0x3f8ccccd;

}  // namespace tapfield::bench
#endif

HWY_BEFORE_NAMESPACE();
namespace tapfield::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Returns something that depends on every byte, so that reading is not dropped.
unsigned Read(const char* data, std::size_t bytes) {
  const hn::ScalableTag<std::uint32_t> d;
  const std::size_t lanes = hn::Lanes(d), count = bytes / 4;
  const auto* p = reinterpret_cast<const std::uint32_t*>(data);
  auto a = hn::Zero(d), b = a;
  std::size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes)
    a = hn::Xor(a, hn::LoadU(d, p + i)), b = hn::Xor(b, hn::LoadU(d, p + i + lanes));
  unsigned rest = 0;
  for (; i < count; ++i) rest ^= p[i];
  return rest ^ hn::GetLane(hn::SumOfLanes(d, hn::Xor(a, b)));
}

void Write(char* data, std::size_t bytes, bool streaming) {
  const hn::ScalableTag<std::uint32_t> d;
  const std::size_t lanes = hn::Lanes(d), count = bytes / 4;
  auto* p = reinterpret_cast<std::uint32_t*>(data);
  const auto value = hn::Set(d, kWritten);
  std::size_t i = 0;
  if (streaming)
    for (; i + lanes <= count; i += lanes) hn::Stream(value, d, p + i);
  else
    for (; i + lanes <= count; i += lanes) hn::Store(value, d, p + i);
  for (; i < count; ++i) p[i] = kWritten;
  if (streaming) hwy::FlushStream();
}

}  // namespace tapfield::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tapfield::bench {

HWY_EXPORT(Read);
HWY_EXPORT(Write);

namespace {

constexpr std::size_t kPiece = 256 << 10;  // of a tensor: what one item moves

std::int64_t pieces(const Span& span) {
  return static_cast<std::int64_t>((span.bytes + kPiece - 1) / kPiece);
}

}  // namespace

void move(const Workers& workers, const std::vector<Span>& read, const std::vector<Span>& written,
          bool streaming) {
  static std::atomic<unsigned> seen;
  std::int64_t all = 0;
  for (const std::vector<Span>* spans : {&read, &written})
    for (const Span& span : *spans) all += pieces(span);
  workers.run(all, [&](std::int64_t i, int) {
    for (const std::vector<Span>* spans : {&read, &written})
      for (const Span& span : *spans) {
        if (i >= pieces(span)) {
          i -= pieces(span);
          continue;
        }
        const std::size_t begin = static_cast<std::size_t>(i) * kPiece,
                          bytes = std::min(kPiece, span.bytes - begin);
        if (spans == &written)
          HWY_DYNAMIC_DISPATCH(Write)(span.data + begin, bytes, streaming);
        else
          seen.fetch_xor(HWY_DYNAMIC_DISPATCH(Read)(span.data + begin, bytes), std::memory_order_relaxed);
        return;
      }
  });
}

void copy(const Workers& workers, Span from, Span to) {
  workers.run(pieces(to), [&](std::int64_t i, int) {
    const std::size_t begin = static_cast<std::size_t>(i) * kPiece,
                      bytes = std::min(kPiece, to.bytes - begin);
    if (begin + bytes <= from.bytes)
      std::memcpy(to.data + begin, from.data + begin, bytes);
    else
      std::memset(to.data + begin, kWritten & 0xff, bytes);
  });
}

}  // namespace tapfield::bench
#endif
