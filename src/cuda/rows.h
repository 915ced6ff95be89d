// SPDX-License-Identifier: Apache-2.0
// Tensors whose channels are adjacent, and how a team shares a group's channels.
#pragma once

#include "cuda/device.h"

namespace tapfield::cuda {

// A tensor's images; geometry.h says what lies where in one.
template <class E>
struct Images {
  E* data = nullptr;   // null: absent
  std::int64_t n = 0;  // stride in elements

  __device__ E* image(std::int64_t i) const { return data + i * n; }
};

// A group's channels in vectors of V: `pieces` of them, each for a team of `lanes` lanes (2^k, of which
// `vectors` work).
struct Channels {
  int pieces, vectors, lanes;
  std::int64_t all;  // vectors of the group

  static Channels of(std::int64_t channels, int v) {
    Channels c;
    c.all = channels / v;
    c.pieces = static_cast<int>((c.all + kWarp - 1) / kWarp);
    c.vectors = static_cast<int>((c.all + c.pieces - 1) / c.pieces);
    c.lanes = 1;
    while (c.lanes < c.vectors) c.lanes *= 2;
    return c;
  }
};

// This lane's vector of a piece.
template <int V, class Index>
struct Lane {
  Index first;  // channel of the group
  bool works;
  __device__ Lane(const Channels& c, const Team& team, int piece) {
    const std::int64_t vector = static_cast<std::int64_t>(piece) * c.vectors + team.rank;
    works = team.rank < c.vectors && vector < c.all;
    first = static_cast<Index>(vector * V);
  }
};

}  // namespace tapfield::cuda
