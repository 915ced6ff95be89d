// SPDX-License-Identifier: Apache-2.0
// A stable sort of pairs on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace tapfield::cuda {

// Bytes of scratch to sort `count` pairs.
std::size_t sort_bytes(std::int64_t count);

// sorted_keys and sorted_values are keys and values in ascending order of keys, equal ones in their old
// order. No key is above `greatest`. Queued on the stream; all pointers are to device memory and none
// overlap.
void sort_pairs(void* scratch, const std::uint32_t* keys, const std::uint32_t* values,
                std::uint32_t* sorted_keys, std::uint32_t* sorted_values, std::int64_t count,
                std::uint32_t greatest, cudaStream_t stream);

}  // namespace tapfield::cuda
