// SPDX-License-Identifier: Apache-2.0
// Calls as data: a test changes a valid one in one place, then makes it through C++ or through C.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "tapfield/tapfield.hpp"

namespace tapfield::test {

enum class Via { cpp, c };

struct Outcome {
  tapfield_status status = TAPFIELD_OK;
  std::string message;
};

inline std::int64_t element_size(DType t) { return t == DType::float64 ? 8 : t == DType::float32 ? 4 : 2; }

inline std::int64_t element_count(const Ints& shape) {
  std::int64_t n = 1;
  for (std::int64_t i = 0; i < shape.size(); ++i) n *= shape[i];
  return n;
}

// One call's arguments.
struct Operation {
  tapfield_pass pass = TAPFIELD_FORWARD;
  Tensor x, offsets, grad, gg_x, gg_offsets, y, grad_grad, grad_x, grad_offsets;
  Attributes attributes;
  Execution execution;

  // The pass's own tensors, in the order of its arguments; names[i] is the i-th one's.
  std::vector<Tensor*> tensors() {
    if (pass == TAPFIELD_FORWARD) return {&x, &offsets, &y};
    if (pass == TAPFIELD_GRAD) return {&grad, &x, &offsets, &grad_x, &grad_offsets};
    return {&grad, &x, &offsets, &gg_x, &gg_offsets, &grad_grad, &grad_x, &grad_offsets};
  }
  static std::vector<std::string> names(tapfield_pass pass) {
    if (pass == TAPFIELD_FORWARD) return {"x", "offsets", "y"};
    if (pass == TAPFIELD_GRAD) return {"grad", "x", "offsets", "grad_x", "grad_offsets"};
    return {"grad", "x", "offsets", "gg_x", "gg_offsets", "grad_grad", "grad_x", "grad_offsets"};
  }
  static int inputs(tapfield_pass pass) {
    return pass == TAPFIELD_FORWARD ? 2 : pass == TAPFIELD_GRAD ? 3 : 5;
  }

  Outcome run(Via via);
  Outcome workspace_size(Via via, std::size_t& bytes);
};

// A valid one. All tensors lie in one arena, far enough apart to be moved and to grow. Outputs and gaps hold
// poison.
struct Call : Operation {
  static constexpr std::int64_t kRoom = 1 << 16;  // bytes from one tensor to the next
  static constexpr unsigned char kPoison = 0xA5;
  struct alignas(64) Line {
    unsigned char bytes[64];
    bool operator==(const Line&) const = default;
  };
  std::vector<Line> arena = std::vector<Line>(10 * kRoom / sizeof(Line));

  // N = 2, H = 4, W = 5, C = 6, Kh = 2, Kw = 3, G = 2, so Ho = 5, Wo = 2: no two of them are equal but by
  // need.
  explicit Call(tapfield_pass pass_) {
    pass = pass_;
    for (Line& line : arena) std::memset(line.bytes, kPoison, sizeof line.bytes);
    attributes.ksize = {2, 3};
    attributes.strides = {1, 1, 2, 1};
    attributes.pads = {1, 1, 1, 2};
    attributes.dilations = {1, 1, 2, 1};
    attributes.deformable_groups = 2;
    const Ints map{2, 4, 5, 6}, taps{2, 5, 2, 36}, samples{2, 10, 6, 6};
    x = place(0, map), offsets = place(1, taps), grad = place(2, samples);
    gg_x = place(3, map), gg_offsets = place(4, taps);
    y = place(5, samples), grad_grad = place(6, samples), grad_x = place(7, map),
    grad_offsets = place(8, taps);
    for (const Tensor* in : {&x, &offsets, &grad, &gg_x, &gg_offsets})
      for (std::int64_t i = 0; i < element_count(in->shape); ++i)
        static_cast<float*>(in->data)[i] = 0.125f * static_cast<float>(i * 7 % 23 - 11);
  }

  char* slot(int i) { return reinterpret_cast<char*>(arena.data()) + i * kRoom; }
  Tensor place(int i, Ints shape) { return Tensor(reinterpret_cast<float*>(slot(i)), shape); }

  // The same call with N = 0 and no memory at all.
  void make_empty() {
    for (Tensor* t : tensors()) t->shape[0] = 0, t->data = nullptr;
  }
};

inline std::string name_of_pass(tapfield_pass pass) {
  return pass == TAPFIELD_FORWARD ? "forward" : pass == TAPFIELD_GRAD ? "grad" : "second";
}

inline const tapfield_pass kPasses[] = {TAPFIELD_FORWARD, TAPFIELD_GRAD, TAPFIELD_GRAD_GRAD};

}  // namespace tapfield::test
