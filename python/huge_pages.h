// SPDX-License-Identifier: Apache-2.0
// Memory for results, where a framework has just allocated it.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace tapfield {

// Asks for huge pages under a large result that is about to be written. A framework's memory is often yet to
// be mapped, page by page of 4 KiB if nobody asks, which takes twice as long as the forward does. A hint:
// where the system grants none, nothing changes. (NumPy asks too, from the same size on.)
inline void ask_for_huge_pages(void* data, std::size_t bytes) {
  constexpr std::uintptr_t kPage = 4096, kLarge = 4 << 20;
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = (begin + kPage - 1) / kPage * kPage, end = (begin + bytes) / kPage * kPage;
  if (bytes >= kLarge) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
}

}  // namespace tapfield
