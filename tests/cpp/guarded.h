// SPDX-License-Identifier: Apache-2.0
// Tensors in memory of their own whose neighbourhood is watched: pages before and after that cannot be
// touched, bytes between elements that must keep their value.
#pragma once

#include <sys/mman.h>

#include <vector>

#include "case_table.h"

namespace tapfield::testing {

enum class Place {
  at_end,        // the last element ends where a page begins that cannot be touched
  at_beginning,  // the first element begins where one ends
  gaps,          // unused bytes between pixels and rows
  reversed,      // every stride negative
};

class GuardedTensor {
 public:
  // row_stride: elements between rows (H) at least, for tensors past 2^31 elements; 0: as dense as `place`
  // says.
  GuardedTensor(const Shape& shape, DType dtype, bool nchw, Place place = Place::at_end,
                std::int64_t row_stride = 0);
  ~GuardedTensor() { munmap(mapping_, mapped_); }
  GuardedTensor(const GuardedTensor&) = delete;

  Tensor view() const {
    const auto pick = [&](const Shape& s) {
      return nchw_ ? Ints{s[0], s[3], s[1], s[2]} : Ints{s[0], s[1], s[2], s[3]};
    };
    return Tensor(static_cast<void*>(first_), dtype_, pick(shape_), pick(stride_));
  }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }

  void fill(const std::vector<double>& values);
  void poison();  // NaN in every dtype
  std::vector<double> values() const;
  std::vector<char> bytes() const;  // of the elements, in logical order
  // Bytes between elements that no longer hold what they held.
  std::int64_t changed_gaps() const;

 private:
  template <class Visit>
  void for_each(const Visit& visit) const;
  static constexpr char kGap = 0x5a;
  Shape shape_, stride_{};
  DType dtype_;
  bool nchw_, sparse_ = false;
  std::int64_t span_ = 0;
  std::size_t mapped_ = 0;
  char *mapping_ = nullptr, *low_ = nullptr, *first_ = nullptr;
};

}  // namespace tapfield::testing
