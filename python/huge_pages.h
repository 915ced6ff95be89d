// SPDX-License-Identifier: Apache-2.0
// Memory for results, where a framework has just allocated it.
#pragma once

#include <sys/mman.h>

#include <cstdint>

#include "problem.h"

namespace tapfield {

// Asks for huge pages under a large dense result that is about to be written. A framework's memory is often
// yet to be mapped, page by page of 4 KiB if nobody asks, which takes twice as long as the forward does. A
// hint: where the system grants none, nothing changes. (NumPy asks too, from the same size on.)
inline void ask_for_huge_pages(const View& v, std::int64_t elements) {
  constexpr std::uintptr_t kPage = 4096, kLarge = 4 << 20;
  const auto data = reinterpret_cast<std::uintptr_t>(v.data);
  const std::uintptr_t bytes = static_cast<std::uintptr_t>(elements * size_of(v.dtype));
  const std::uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + bytes) / kPage * kPage;
  if (data && bytes >= kLarge) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace tapfield
