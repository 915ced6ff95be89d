// SPDX-License-Identifier: Apache-2.0
// Rows of planes to rows of adjacent channels and back, bit for bit, on every SIMD target: short rows, and
// rows so long that they are written past the cache, wherever in a cache line they begin.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "cpu/pack.h"
#include "on_target.h"

namespace tapfield::cpu {
namespace {

constexpr DType kDtypes[] = {DType::bfloat16, DType::float32, DType::float64};
constexpr std::int64_t kChannels[] = {1, 7, 16, 37, 260}, kColumns[] = {1, 5, 16, 63, 300, 1031};
constexpr std::int64_t kGap = 24;  // elements before, between and after the planes

// Every plane begins elsewhere in a cache line: the pitch of planes is odd.
struct Planes {
  std::int64_t columns, channels, size, stride;
  std::vector<char> bytes;
  View view;

  Planes(std::int64_t width, std::int64_t count, DType t)
      : columns(width),
        channels(count),
        size(size_of(t)),
        stride((width + kGap) | 1),
        bytes(static_cast<std::size_t>((kGap + count * stride) * size)) {
    view.data = bytes.data() + kGap * size, view.dtype = t;
    view.n = 0, view.h = 0, view.w = 1, view.c = stride;
  }
  const char* at(std::int64_t w, std::int64_t c) const { return view.at(0, 0, w, c); }
};

class Pack : public tapfield::testing::OnTarget {
 protected:
  // visit(planes with random bits, rows of adjacent channels with other random bits, their pitch)
  template <class Visit>
  void for_shapes(std::int64_t between, const Visit& visit) {
    std::mt19937 random(1);
    for (DType t : kDtypes)
      for (std::int64_t channels : kChannels)
        for (std::int64_t columns : kColumns) {
          SCOPED_TRACE(::testing::Message() << name_of(t) << ' ' << columns << " x " << channels);
          Planes planes(columns, channels, t);
          const std::int64_t pitch = channels + between;
          std::vector<char> rows(static_cast<std::size_t>(columns * pitch * planes.size));
          for (auto* bytes : {&planes.bytes, &rows})
            for (char& b : *bytes) b = static_cast<char>(random());
          visit(planes, rows, pitch);
        }
  }
};

INSTANTIATE_TEST_SUITE_P(Targets, Pack, ::testing::ValuesIn(tapfield::testing::targets()),
                         tapfield::testing::target_name);

TEST_P(Pack, PacksAndTouchesNothingElse) {
  for (std::int64_t between : {0, 3})
    for_shapes(between, [](const Planes& planes, const std::vector<char>& rows, std::int64_t pitch) {
      std::vector<char> want = rows;
      for (std::int64_t w = 0; w < planes.columns; ++w)
        for (std::int64_t c = 0; c < planes.channels; ++c)
          std::memcpy(want.data() + (w * pitch + c) * planes.size, planes.at(w, c),
                      static_cast<std::size_t>(planes.size));
      for (bool past_cache : {false, true}) {
        std::vector<char> got = rows;
        pack_row(planes.view, 0, 0, 0, planes.columns, 0, planes.channels, got.data(), pitch, past_cache);
        EXPECT_TRUE(got == want) << "past_cache " << past_cache;
      }
    });
}

TEST_P(Pack, UnpacksAndTouchesNothingElse) {
  for_shapes(3, [](Planes& planes, const std::vector<char>& rows, std::int64_t pitch) {
    Planes want = planes;
    want.view.data = want.bytes.data() + kGap * planes.size;
    for (std::int64_t w = 0; w < planes.columns; ++w)
      for (std::int64_t c = 0; c < planes.channels; ++c)
        std::memcpy(const_cast<char*>(want.at(w, c)), rows.data() + (w * pitch + c) * planes.size,
                    static_cast<std::size_t>(planes.size));
    unpack_row(planes.view, 0, 0, 0, planes.columns, 0, planes.channels, rows.data(), pitch);
    EXPECT_TRUE(planes.bytes == want.bytes);
  });
}

}  // namespace
}  // namespace tapfield::cpu
