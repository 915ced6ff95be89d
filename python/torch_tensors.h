// SPDX-License-Identifier: Apache-2.0
// PyTorch's tensors as Tensors, in place, through PyTorch's stable ABI: what the operators of torch_ops.cpp
// and torch_conv2d.cpp share. Errors are std::runtime_error, which PyTorch makes a RuntimeError.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "huge_pages.h"
#include "tapfield/tapfield.hpp"

namespace tapfield::torch_door {

using std::int64_t;
using Ivalues = std::vector<int64_t>;
using TorchTensor = ::torch::stable::Tensor;
using ::torch::headeronly::ScalarType;

[[noreturn]] inline void refuse(const std::string& message) { throw std::runtime_error(message); }

// [2, 3]
inline std::string text(const int64_t* list, int64_t count) {
  std::string s = "[";
  for (int64_t i = 0; i < count; ++i) s += (i ? ", " : "") + std::to_string(list[i]);
  return s + "]";
}

inline std::string shape_text(const TorchTensor& t) { return text(t.sizes().data(), t.dim()); }

inline DType dtype_of(const char* name, const TorchTensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Half: return DType::float16;
    case ScalarType::BFloat16: return DType::bfloat16;
    case ScalarType::Float: return DType::float32;
    case ScalarType::Double: return DType::float64;
    default:
      refuse(std::string(name) + " must be float16, bfloat16, float32 or float64 but is " +
             ::torch::headeronly::toString(t.scalar_type()));
  }
}

// Reads t in place; an output's memory is written.
inline Tensor view(const char* name, const TorchTensor& t, bool output = false) {
  Tensor v(output ? t.mutable_data_ptr() : const_cast<void*>(t.const_data_ptr()), dtype_of(name, t),
           Ints(t.sizes().data(), t.dim()), Ints(t.strides().data(), t.dim()));
  v.read_only = !output;
  if (t.is_cuda()) v.device = {DeviceType::cuda, t.get_device_index()};
  return v;
}

// ------ New tensors

// Do t's channels lie side by side in memory? PyTorch's own rule for channels_last, for a tensor of four
// dimensions in data_format's order; ambiguous strides mean no.
inline bool channels_last(const TorchTensor& t, bool nchw) {
  if (t.dim() != 4) return false;
  const auto size = t.sizes(), stride = t.strides();
  const std::array<int, 4> order = nchw ? std::array{1, 3, 2, 0} : std::array{3, 2, 1, 0};  // C, W, H, N
  const auto c = static_cast<std::size_t>(order[0]);
  if (stride[c] == 0) return false;
  int64_t least = 0;
  for (const int axis : order) {
    const auto i = static_cast<std::size_t>(axis);
    if (size[i] == 0 || stride[i] < least || (axis == 0 && least == stride[c])) return false;
    least = stride[i] * (size[i] > 1 ? size[i] : 1);
  }
  return true;
}

// An uninitialised dense tensor on like's device: [n, h, w, c] in data_format's order, its channels side by
// side in memory if `last`.
inline TorchTensor empty(const TorchTensor& like, ScalarType dtype, std::array<int64_t, 4> nhwc, bool nchw,
                         bool last) {
  const auto [n, h, w, c] = nhwc;
  const auto least = [](int64_t size) { return size > 1 ? size : 1; };
  const int64_t lh = least(h), lw = least(w), lc = least(c);
  const std::array<int64_t, 4> strides = last ? std::array<int64_t, 4>{lh * lw * lc, lw * lc, lc, 1}
                                              : std::array<int64_t, 4>{lh * lw * lc, lw, 1, lh * lw};
  const auto ordered = [&](const std::array<int64_t, 4>& a) {
    return nchw ? std::array{a[0], a[3], a[1], a[2]} : a;
  };
  const auto size = ordered(nhwc), stride = ordered(strides);
  const auto code = ::torch::stable::detail::to<std::int32_t>(::torch::stable::detail::from(dtype));
  std::int32_t device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, size.data(), stride.data(), code, device,
                                                  like.get_device_index(), &handle));
  const TorchTensor t(handle);
  if (!t.is_cuda()) ask_for_huge_pages(t.mutable_data_ptr(), t.numel() * t.element_size());
  return t;
}

// As t: its shape and dtype, dense, in t's memory order where that is one of the two.
inline TorchTensor empty_like(const TorchTensor& t, bool nchw) {
  const auto s = t.sizes();
  if (s.size() != 4) refuse("internal error: a tensor of 4 dimensions was expected");
  const std::array<int64_t, 4> nhwc =
      nchw ? std::array{s[0], s[2], s[3], s[1]} : std::array{s[0], s[1], s[2], s[3]};
  return empty(t, t.scalar_type(), nhwc, nchw, channels_last(t, nchw));
}

// ------ How to run

inline void parallel_for(void*, int64_t n, tapfield_parallel_body body, void* context) {
  ::torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

// On PyTorch's threads, so that torch.set_num_threads counts; a call of `work` elements of y that is too
// small to share runs on the caller's alone.
inline Execution execution(int64_t work) {
  Execution e;
  e.threads = work < (1 << 16) ? 1 : static_cast<int>(::torch::stable::get_num_threads());
  e.parallel_for = &parallel_for;
  return e;
}

// The stream that PyTorch has made current on a GPU. Asked of PyTorch's CUDA library where that is loaded: a
// PyTorch without CUDA has none to link with.
inline void* current_stream(std::int32_t device) {
  using Get = AOTITorchError(std::int32_t, void**);
  static Get* const get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Get*>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  if (!get) refuse("this PyTorch has no CUDA streams: libtorch_cuda.so is not loaded");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device, &stream));
  return stream;
}

// run(arguments..., execution) on x's device: on PyTorch's threads, or queued on its current stream with
// scratch from its allocator. That gives the scratch to later work of the same stream alone, so it may be
// handed back while the kernels are still to run.
template <class Run, class... Arguments>
void run_on_device_of(const TorchTensor& x, int64_t work, bool deterministic, const Run& run,
                      const Arguments&... arguments) {
  if (!x.is_cuda()) return run(arguments..., execution(work));
  Execution e;
  e.stream = current_stream(x.get_device_index());
  e.deterministic = deterministic;
  e.workspace_bytes = workspace_size(arguments..., e);
  const TorchTensor scratch =
      ::torch::stable::new_empty(x, {static_cast<int64_t>(e.workspace_bytes)}, ScalarType::Byte);
  if (e.workspace_bytes) e.workspace = scratch.mutable_data_ptr();
  run(arguments..., e);
}

// f(); its errors become std::runtime_error with the same text.
template <class F>
auto guarded(const F& f) {
  try {
    return f();
  } catch (const std::runtime_error&) { throw; } catch (const std::exception& e) {
    refuse(e.what());
  }
}

}  // namespace tapfield::torch_door
