// SPDX-License-Identifier: Apache-2.0
// The only file that knows CUB.
#include "cuda/sort.h"

#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "cuda/launch.h"

namespace tapfield::cuda {

std::size_t sort_bytes(std::int64_t count) {
  std::size_t bytes = 0;
  const std::uint32_t* in = nullptr;
  std::uint32_t* out = nullptr;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, count),
        "cub::DeviceRadixSort (to measure)");
  return bytes;
}

void sort_pairs(void* scratch, const std::uint32_t* keys, const std::uint32_t* values,
                std::uint32_t* sorted_keys, std::uint32_t* sorted_values, std::int64_t count,
                std::uint32_t greatest, cudaStream_t stream) {
  std::size_t bytes = sort_bytes(count);
  check(cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, values, sorted_values, count, 0,
                                        std::bit_width(greatest), stream),
        "cub::DeviceRadixSort");
}

}  // namespace tapfield::cuda
