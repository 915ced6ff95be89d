// SPDX-License-Identifier: Apache-2.0
// The memory floor: the time to read and write exactly the bytes that a call must move, and no others, with
// as many threads. It touches the call's own tensors.
#pragma once

#include <cstddef>
#include <vector>

#include "execution.h"

namespace tapfield::bench {

struct Span {
  char* data;  // aligned to 64 bytes
  std::size_t bytes;
};

// Reads every byte of `read` and writes every byte of `written`; with streaming stores past the cache or with
// plain ones.
void move(const Workers& workers, const std::vector<Span>& read, const std::vector<Span>& written,
          bool streaming);

// std::memcpy in pieces, by as many threads; std::memset of the pieces of `to` that go beyond `from`.
void copy(const Workers& workers, Span from, Span to);

}  // namespace tapfield::bench
