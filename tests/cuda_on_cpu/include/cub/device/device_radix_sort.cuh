// SPDX-License-Identifier: Apache-2.0
// Stands in for CUB's header of this name.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace cub {

struct DeviceRadixSort {
  template <class Key, class Value>
  static cudaError_t SortPairs(void* scratch, std::size_t& bytes, const Key* keys, Key* sorted_keys,
                               const Value* values, Value* sorted_values, std::int64_t count,
                               int begin_bit = 0, int end_bit = sizeof(Key) * 8, cudaStream_t = nullptr) {
    if (!scratch) return bytes = 1, cudaSuccess;
    const auto bits = [&](std::int64_t i) {  // those that the caller said to look at
      return end_bit == 64 ? keys[i] : (keys[i] & ((std::uint64_t{1} << end_bit) - 1)) >> begin_bit;
    };
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return bits(a) < bits(b); });
    for (std::int64_t i = 0; i < count; ++i) {
      const auto from = order[static_cast<std::size_t>(i)];
      sorted_keys[i] = keys[from], sorted_values[i] = values[from];
    }
    return cudaSuccess;
  }
};

}  // namespace cub
