// SPDX-License-Identifier: Apache-2.0
// A deform_conv2d call, checked: every check of torchvision's, in its terms. Part of torch_conv2d.cpp.
#pragma once

#include "problem.h"
#include "torch_tensors.h"

namespace tapfield::torch_door {

struct Layer {
  Problem p;  // sizes and geometry, no tensors
  int64_t co = 0, groups = 1;
  ScalarType type = ScalarType::Float;  // of input, weight, grad
};

using Optional = std::optional<TorchTensor>;

inline void require(bool right, const std::string& message) {
  if (!right) refuse(message);
}

inline void require_rank(const char* name, const TorchTensor& t, int64_t rank, const char* meaning) {
  require(t.dim() == rank, std::string(name) + " must have " + std::to_string(rank) + " dimensions " +
                               meaning + " but has shape " + shape_text(t));
}

inline void require_shape(const char* name, const TorchTensor& t, const std::array<int64_t, 4>& want,
                          const char* meaning) {
  const auto have = t.sizes();
  const auto wrong = std::mismatch(want.begin(), want.end(), have.begin(), have.end()).first - want.begin();
  require(have.size() == 4 && wrong == 4, std::string(name) + " must have shape " + text(want.data(), 4) +
                                              " (" + meaning + ") but has " + shape_text(t) + ": " + name +
                                              ".shape[" + std::to_string(wrong) + "] is not valid");
}

// input's dtype, or float32 beside a 16-bit input where that `may` be.
inline void require_dtype(const char* name, const TorchTensor& t, const TorchTensor& input,
                          bool may_be_wider) {
  const DType have = dtype_of(name, t), want = dtype_of("input", input);
  const bool wider = may_be_wider && is_16bit(want);
  require(have == want || (wider && have == DType::float32),
          std::string(name) + " must be " + name_of(want) + ", as input" + (wider ? ", or float32" : "") +
              ", but is " + name_of(have));
}

inline void require_list(const char* name, const Ivalues& list, int64_t least) {
  require(list.size() == 2 && list[0] >= least && list[1] >= least &&
              std::max(list[0], list[1]) < (int64_t{1} << 31),
          std::string(name) + " must be 2 integers of at least " + std::to_string(least) +
              " (along H, along W) but is " + text(list.data(), static_cast<int64_t>(list.size())));
}

inline Layer layer_of(const TorchTensor& input, const TorchTensor& offset, const TorchTensor& weight,
                      const Optional& mask, const Optional& bias, const Ivalues& stride,
                      const Ivalues& padding, const Ivalues& dilation, const std::string& border) {
  require_rank("input", input, 4, "[N, C, H, W]");
  require_rank("offset", offset, 4, "[N, 2*offset_groups*Kh*Kw, Ho, Wo]");
  require_rank("weight", weight, 4, "[Co, C/groups, Kh, Kw]");
  if (mask) require_rank("mask", *mask, 4, "[N, offset_groups*Kh*Kw, Ho, Wo]");
  require_list("stride", stride, 1), require_list("padding", padding, 0),
      require_list("dilation", dilation, 1);
  require(border == "open" || border == "closed",
          "border must be \"open\" or \"closed\" but is \"" + border + '"');

  Layer l;
  Problem& p = l.p;
  l.type = input.scalar_type();
  p.n = input.size(0), p.c = input.size(1), p.h = input.size(2), p.w = input.size(3);
  l.co = weight.size(0), p.kh = weight.size(2), p.kw = weight.size(3);
  p.stride_h = stride[0], p.stride_w = stride[1], p.dil_h = dilation[0], p.dil_w = dilation[1];
  p.top = padding[0], p.left = padding[1];
  p.modulated = mask.has_value(), p.closed = border == "closed";
  require(p.c > 0 && p.h > 0 && p.w > 0,
          "input must have C, H and W of at least 1 but has shape " + shape_text(input));
  require(l.co > 0 && weight.size(1) > 0 && p.kh > 0 && p.kw > 0,
          "weight must have no size of 0 but has shape " + shape_text(weight));
  require(p.c % weight.size(1) == 0, "weight must have C/groups input channels for input's C = " +
                                         std::to_string(p.c) + " but has shape " + shape_text(weight));
  l.groups = p.c / weight.size(1);
  require(l.co % l.groups == 0, "weight must have a multiple of groups = " + std::to_string(l.groups) +
                                    " output channels but has shape " + shape_text(weight));
  require(offset.size(1) > 0 && offset.size(1) % (2 * p.taps()) == 0,
          "offset must have 2*offset_groups*Kh*Kw channels, a multiple of " + std::to_string(2 * p.taps()) +
              ", but the shape of the offset is " + shape_text(offset));
  p.groups = offset.size(1) / (2 * p.taps());
  require(p.c % p.groups == 0, "offset has " + std::to_string(p.groups) +
                                   " offset groups, which must divide input's C = " + std::to_string(p.c));
  const auto out = [](int64_t size, int64_t pad, int64_t dil, int64_t k, int64_t s) {
    const int64_t room = size + 2 * pad - (dil * (k - 1) + 1);
    return room < 0 ? 0 : room / s + 1;
  };
  p.ho = out(p.h, p.top, p.dil_h, p.kh, p.stride_h), p.wo = out(p.w, p.left, p.dil_w, p.kw, p.stride_w);
  require(p.ho > 0 && p.wo > 0, "weight's kernel " + text(weight.sizes().data() + 2, 2) + " with dilation " +
                                    text(dilation.data(), 2) +
                                    " must fit the padded input, but input has shape " + shape_text(input) +
                                    " and padding is " + text(padding.data(), 2));
  require_shape("offset", offset, {p.n, 2 * p.lanes(), p.ho, p.wo}, "N, 2*offset_groups*Kh*Kw, Ho, Wo");
  if (mask) require_shape("mask", *mask, {p.n, p.lanes(), p.ho, p.wo}, "N, offset_groups*Kh*Kw, Ho, Wo");
  if (bias)
    require(bias->dim() == 1 && bias->size(0) == l.co,
            "bias must have shape [" + std::to_string(l.co) + "] (Co) but has " + shape_text(*bias));
  require_dtype("offset", offset, input, true), require_dtype("weight", weight, input, false);
  if (mask) require_dtype("mask", *mask, input, true);
  if (bias) require_dtype("bias", *bias, input, false);
  return l;
}

// t [N, C, H, W] in a kernel's order.
inline View view_of(const TorchTensor& t) {
  const auto stride = t.strides();
  View v;
  v.data = static_cast<char*>(const_cast<void*>(t.const_data_ptr()));
  v.dtype = dtype_of("a tensor", t);
  v.n = stride[0], v.c = t.size(1) == 1 ? 1 : stride[1], v.h = stride[2], v.w = stride[3];
  return v;
}

// offset's plane of [n, ho, wo, offset_groups*Kh*Kw]: first 0, along H; 1, along W.
inline View plane_of(View offset, int64_t first) {
  offset.data += first * offset.c * size_of(offset.dtype);
  offset.c *= 2;
  return offset;
}

}  // namespace tapfield::torch_door
