// SPDX-License-Identifier: Apache-2.0
// The PyTorch door: the operators tapfield::deformable_offsets, _grad and _grad_grad on PyTorch's stable ABI,
// so that one binary serves every PyTorch from 2.11 on, and programs without Python. Derivatives, shapes
// without data and vmap are registered in Python (tapfield/torch/operators.py). tapfield::deform_conv2d is
// torch_conv2d.cpp's on the CPU, where there are kernels for it, and conv2d.py's on a GPU.
//
// CUDA tensors take the same way, to the backend that tapfield loads for them. `deterministic`: the schedule
// that gives the same bits on every run; the CPU always does.
//
// Outputs are new and dense, in the memory order (channels_last or not) of the input that they are like.
#include <climits>
#include <cstring>
#include <tuple>

#include "torch_tensors.h"

namespace tapfield::torch_door {
namespace {

// Points into its arguments.
Attributes attributes_of(const Ivalues& ksize, const Ivalues& strides, const Ivalues& pads,
                         const Ivalues& dilations, const std::string& data_format, int64_t groups,
                         bool modulated, const std::string& border) {
  const auto ints = [](const Ivalues& v) { return Ints(v.data(), static_cast<int64_t>(v.size())); };
  return {.ksize = ints(ksize),
          .strides = ints(strides),
          .pads = ints(pads),
          .dilations = ints(dilations),
          .data_format = data_format.c_str(),
          .deformable_groups = groups,
          .modulated = modulated,
          .border = border.c_str()};
}

bool is_nchw(const Attributes& a) { return !std::strcmp(a.data_format, "NCHW"); }

// y's sizes as [n, h, w, c]. Throws what the forward would, so that nothing is allocated for a call that
// cannot run.
std::array<int64_t, 4> y_size(const Tensor& x, const Tensor& offsets, const Attributes& a) {
  Tensor y(static_cast<void*>(nullptr), x.dtype, x.shape);
  y.device = x.device;
  if (y.shape.size() == 4) {
    int64_t *h = &y.shape[is_nchw(a) ? 2 : 1], *w = h + 1;
    const auto [ho, wo] = output_size({*h, *w}, a);
    if (__builtin_mul_overflow(ho, a.ksize[0], h)) *h = INT64_MAX;  // refused below
    if (__builtin_mul_overflow(wo, a.ksize[1], w)) *w = INT64_MAX;
  }
  workspace_size(x, offsets, a, y);
  const Ints& s = y.shape;
  return is_nchw(a) ? std::array{s[0], s[2], s[3], s[1]} : std::array{s[0], s[1], s[2], s[3]};
}

// Shapes: tapfield.hpp.

TorchTensor deformable_offsets(const TorchTensor& x, const TorchTensor& offsets, const Ivalues& ksize,
                               const Ivalues& strides, const Ivalues& pads, const Ivalues& dilations,
                               const std::string& data_format, int64_t groups, bool modulated,
                               const std::string& border) {
  return guarded([&] {
    const Attributes a =
        attributes_of(ksize, strides, pads, dilations, data_format, groups, modulated, border);
    const Tensor x_view = view("x", x), offsets_view = view("offsets", offsets);
    const auto size = y_size(x_view, offsets_view, a);
    TorchTensor y = empty(x, x.scalar_type(), size, is_nchw(a), channels_last(x, is_nchw(a)));
    run_on_device_of(x, y.numel(), false, tapfield::deformable_offsets, x_view, offsets_view, a,
                     view("y", y, true));
    return y;
  });
}

std::tuple<TorchTensor, TorchTensor> deformable_offsets_grad(
    const TorchTensor& grad, const TorchTensor& x, const TorchTensor& offsets, const Ivalues& ksize,
    const Ivalues& strides, const Ivalues& pads, const Ivalues& dilations, const std::string& data_format,
    int64_t groups, bool modulated, const std::string& border, bool deterministic) {
  return guarded([&] {
    const Attributes a =
        attributes_of(ksize, strides, pads, dilations, data_format, groups, modulated, border);
    const Tensor grad_view = view("grad", grad), x_view = view("x", x),
                 offsets_view = view("offsets", offsets);
    y_size(x_view, offsets_view, a);
    TorchTensor grad_x = empty_like(x, is_nchw(a)), grad_offsets = empty_like(offsets, is_nchw(a));
    run_on_device_of(x, grad.numel(), deterministic, tapfield::deformable_offsets_grad, grad_view, x_view,
                     offsets_view, a, view("grad_x", grad_x, true), view("grad_offsets", grad_offsets, true));
    return std::tuple(grad_x, grad_offsets);
  });
}

std::tuple<TorchTensor, TorchTensor, TorchTensor> deformable_offsets_grad_grad(
    const TorchTensor& grad, const TorchTensor& x, const TorchTensor& offsets,
    const std::optional<TorchTensor>& gg_x, const std::optional<TorchTensor>& gg_offsets,
    const Ivalues& ksize, const Ivalues& strides, const Ivalues& pads, const Ivalues& dilations,
    const std::string& data_format, int64_t groups, bool modulated, const std::string& border,
    bool deterministic) {
  return guarded([&] {
    const Attributes a =
        attributes_of(ksize, strides, pads, dilations, data_format, groups, modulated, border);
    const Tensor grad_view = view("grad", grad), x_view = view("x", x),
                 offsets_view = view("offsets", offsets);
    const Tensor gg_x_view = gg_x ? view("gg_x", *gg_x) : Tensor{};
    const Tensor gg_offsets_view = gg_offsets ? view("gg_offsets", *gg_offsets) : Tensor{};
    const auto size = y_size(x_view, offsets_view, a);
    const bool nchw = is_nchw(a);
    TorchTensor grad_grad = empty(grad, grad.scalar_type(), size, nchw, channels_last(grad, nchw));
    TorchTensor grad_x = empty_like(x, nchw), grad_offsets = empty_like(offsets, nchw);
    run_on_device_of(x, grad.numel(), deterministic, tapfield::deformable_offsets_grad_grad, grad_view,
                     x_view, offsets_view, gg_x_view, gg_offsets_view, a, view("grad_grad", grad_grad, true),
                     view("grad_x", grad_x, true), view("grad_offsets", grad_offsets, true));
    return std::tuple(grad_grad, grad_x, grad_offsets);
  });
}

void release() { release_scratch(); }

}  // namespace

#define ATTRIBUTES                                                                                      \
  "*, int[] ksize, int[] strides, int[] pads, int[] dilations=[1, 1, 1, 1], str data_format=\"NHWC\", " \
  "int deformable_groups=1, bool modulated=True, str border=\"open\""

#define GRADIENTS ATTRIBUTES ", bool deterministic=False"

#define LAYER "*, int[] stride=[1, 1], int[] padding=[0, 0], int[] dilation=[1, 1], str border=\"closed\""

STABLE_TORCH_LIBRARY(tapfield, m) {
  m.def("deformable_offsets(Tensor x, Tensor offsets, " ATTRIBUTES ") -> Tensor");
  m.def("deformable_offsets_grad(Tensor grad, Tensor x, Tensor offsets, " GRADIENTS ") -> (Tensor, Tensor)");
  m.def(
      "deformable_offsets_grad_grad(Tensor grad, Tensor x, Tensor offsets, Tensor? gg_x, Tensor? "
      "gg_offsets, " GRADIENTS ") -> (Tensor, Tensor, Tensor)");
  m.def(
      "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias=None, Tensor? mask=None, " LAYER
      ") -> Tensor");
  m.def("deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, " LAYER
        ", bool samples=True, bool products=True) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("release_scratch() -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(tapfield, CompositeExplicitAutograd, m) {
  m.impl("release_scratch", TORCH_BOX(&release));
}

template <class Library>
void implement(Library& m) {
  m.impl("deformable_offsets", TORCH_BOX(&deformable_offsets));
  m.impl("deformable_offsets_grad", TORCH_BOX(&deformable_offsets_grad));
  m.impl("deformable_offsets_grad_grad", TORCH_BOX(&deformable_offsets_grad_grad));
}

STABLE_TORCH_LIBRARY_IMPL(tapfield, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(tapfield, CUDA, m) { implement(m); }

}  // namespace tapfield::torch_door
