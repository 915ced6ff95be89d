// SPDX-License-Identifier: Apache-2.0
#include "guarded.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

namespace tapfield::testing {

GuardedTensor::GuardedTensor(const Shape& shape, DType dtype, bool nchw, Place place, std::int64_t row_stride)
    : shape_(shape), dtype_(dtype), nchw_(nchw) {
  const std::array<int, 4> order =
      nchw ? std::array{2, 1, 3, 0} : std::array{3, 2, 1, 0};  // from the inside out
  std::int64_t reach = 1;
  for (int axis : order) {
    if (axis == 1 && row_stride > reach) reach = row_stride;
    stride_[static_cast<std::size_t>(axis)] = reach;
    reach *= std::max<std::int64_t>(shape[static_cast<std::size_t>(axis)], 1);
    if (place == Place::gaps) reach += 3;
  }
  std::int64_t last = 0;
  for (std::size_t i = 0; i < 4; ++i) last += stride_[i] * std::max<std::int64_t>(shape[i] - 1, 0);
  span_ = elements(shape) ? (last + 1) * size_of(dtype) : 0;
  const std::int64_t page = sysconf(_SC_PAGESIZE), room = (span_ + page - 1) / page * page;
  mapped_ = static_cast<std::size_t>(room + 2 * page);
  mapping_ = static_cast<char*>(
      mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (mapping_ == MAP_FAILED) throw std::runtime_error("no address space for the test");
  if (room) mprotect(mapping_ + page, static_cast<std::size_t>(room), PROT_READ | PROT_WRITE);
  low_ = mapping_ + page + (place == Place::at_beginning ? 0 : room - span_);
  sparse_ = row_stride > 0;
  if (!sparse_) std::memset(low_, kGap, static_cast<std::size_t>(span_));
  first_ = low_;
  if (place == Place::reversed)
    for (std::size_t i = 0; i < 4; ++i) {
      first_ += stride_[i] * std::max<std::int64_t>(shape[i] - 1, 0) * size_of(dtype);
      stride_[i] = -stride_[i];
    }
}

// Calls visit(element, i) in logical order.
template <class Visit>
void GuardedTensor::for_each(const Visit& visit) const {
  std::int64_t i = 0;
  for (std::int64_t n = 0; n < shape_[0]; ++n)
    for (std::int64_t h = 0; h < shape_[1]; ++h)
      for (std::int64_t w = 0; w < shape_[2]; ++w)
        for (std::int64_t c = 0; c < shape_[3]; ++c, ++i)
          visit(
              first_ + (n * stride_[0] + h * stride_[1] + w * stride_[2] + c * stride_[3]) * size_of(dtype_),
              i);
}

void GuardedTensor::fill(const std::vector<double>& values) {
  for_each([&](char* e, std::int64_t i) { encode(values[static_cast<std::size_t>(i)], dtype_, e); });
}

void GuardedTensor::poison() {
  for_each([&](char* e, std::int64_t) { std::memset(e, 0xff, static_cast<std::size_t>(size_of(dtype_))); });
}

std::vector<double> GuardedTensor::values() const {
  std::vector<double> v(static_cast<std::size_t>(elements(shape_)));
  for_each([&](char* e, std::int64_t i) { v[static_cast<std::size_t>(i)] = decode(e, dtype_); });
  return v;
}

std::vector<char> GuardedTensor::bytes() const {
  std::vector<char> v;
  v.reserve(static_cast<std::size_t>(elements(shape_) * size_of(dtype_)));
  for_each([&](const char* e, std::int64_t) {  // no copy of unknown length, which a sanitizer would intercept
    for (const char* end = e + size_of(dtype_); e < end; ++e) v.push_back(*e);
  });
  return v;
}

std::int64_t GuardedTensor::changed_gaps() const {
  if (span_ == elements(shape_) * size_of(dtype_)) return 0;  // there are none
  std::vector<char> mine(static_cast<std::size_t>(span_), 0);
  for_each([&](char* e, std::int64_t) {
    std::memset(mine.data() + (e - low_), 1, static_cast<std::size_t>(size_of(dtype_)));
  });
  std::int64_t changed = 0;
  for (std::int64_t i = 0; i < span_; ++i) changed += !mine[static_cast<std::size_t>(i)] && low_[i] != kGap;
  return changed;
}

}  // namespace tapfield::testing
