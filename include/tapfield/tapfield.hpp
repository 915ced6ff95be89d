// SPDX-License-Identifier: Apache-2.0
// tapfield: DeformableOffsets, its gradient and its second derivative. The C++ interface.
//
// The operators are defined in docs/operators.md. Every function here
//  - reads tensors of any strides in place and writes every element of its outputs
//    (nothing is accumulated into what was there; bytes between strided elements are not touched);
//  - throws std::invalid_argument (tapfield::dtype_error for a dtype) before it has written anything, with a
//    message that names the argument, the rule and what came; std::bad_alloc if scratch cannot be had;
//  - may be called from several threads at once;
//  - gives the same bits for any number of threads and any parallel-for, on the same kind of machine.
// Scratch is taken from Execution::workspace or kept by the library between calls (release_scratch frees it):
// at most 64 bytes per tap of one image (96 in float64) + 8 bytes per element of one image's x + 16 MiB
// per thread; + 35% of one image's grad when channels are not adjacent in memory.
// On CUDA tensors a call queues its work on Execution::stream and returns, and a CUDA function that fails is
// a std::runtime_error; docs/cuda.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include <tapfield/tapfield.h>

namespace tapfield {

enum class DType : std::int32_t {
  float16 = TAPFIELD_FLOAT16,
  bfloat16 = TAPFIELD_BFLOAT16,
  float32 = TAPFIELD_FLOAT32,
  float64 = TAPFIELD_FLOAT64,
};

enum class DeviceType : std::int32_t { cpu = TAPFIELD_CPU, cuda = TAPFIELD_CUDA };

struct Device {
  DeviceType type = DeviceType::cpu;
  std::int32_t index = 0;
  bool operator==(const Device&) const = default;
};

// A short list of integers: a shape, strides or an attribute. Holds 8 by value; a longer list keeps its size,
// so that it can be refused by name.
class Ints {
 public:
  static constexpr std::int64_t capacity = 8;
  constexpr Ints() = default;
  constexpr Ints(std::initializer_list<std::int64_t> list)
      : Ints(list.begin(), static_cast<std::int64_t>(list.size())) {}
  constexpr Ints(const std::int64_t* first, std::int64_t count) : size_(count) {
    for (std::int64_t i = 0; i < count && i < capacity; ++i) at_[static_cast<std::size_t>(i)] = first[i];
  }
  constexpr std::int64_t size() const { return size_; }
  constexpr std::int64_t operator[](std::int64_t i) const { return at_[static_cast<std::size_t>(i)]; }
  constexpr std::int64_t& operator[](std::int64_t i) { return at_[static_cast<std::size_t>(i)]; }
  constexpr const std::int64_t* data() const { return at_.data(); }

 private:
  std::int64_t size_ = 0;
  std::array<std::int64_t, capacity> at_{};
};

// A view of memory that the caller owns. Default-constructed it means "absent", where an argument may be
// absent.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::float32;
  Ints shape;
  Ints strides;  // in elements, of any sign, 0 to broadcast an input; empty: dense, last axis adjacent
  Device device;
  bool read_only = false;  // refused as an output

  Tensor() = default;
  Tensor(void* data_, DType dtype_, Ints shape_, Ints strides_ = {})
      : data(data_), dtype(dtype_), shape(shape_), strides(strides_) {}
  Tensor(const void* data_, DType dtype_, Ints shape_, Ints strides_ = {})
      : data(const_cast<void*>(data_)), dtype(dtype_), shape(shape_), strides(strides_), read_only(true) {}
  Tensor(float* data_, Ints shape_, Ints strides_ = {})
      : Tensor(static_cast<void*>(data_), DType::float32, shape_, strides_) {}
  Tensor(const float* data_, Ints shape_, Ints strides_ = {})
      : Tensor(static_cast<const void*>(data_), DType::float32, shape_, strides_) {}
  Tensor(double* data_, Ints shape_, Ints strides_ = {})
      : Tensor(static_cast<void*>(data_), DType::float64, shape_, strides_) {}
  Tensor(const double* data_, Ints shape_, Ints strides_ = {})
      : Tensor(static_cast<const void*>(data_), DType::float64, shape_, strides_) {}
};

// CANN's attributes. strides, pads and ksize are required.
struct Attributes {
  Ints ksize;                          // Kh, Kw; each >= 1
  Ints strides;                        // 4, in data_format's order; 1 for N and C, >= 1 for H and W
  Ints pads;                           // top, bottom, left, right; each >= 0
  Ints dilations{1, 1, 1, 1};          // 4, in data_format's order; 1 for N and C, >= 1 for H and W
  const char* data_format = "NHWC";    // "NHWC" or "NCHW": the layout of every tensor
  std::int64_t deformable_groups = 1;  // divides C
  bool modulated = true;               // false: no mask plane (deformable convolution v1)
  const char* border = "open";  // "open" (CANN): a tap at exactly -1 is dead; "closed" (torchvision): live
};

// How to run. The default: the best backend for the tensors' device, the library's threads and scratch.
struct Execution {
  int threads = 0;  // 0: get_num_threads()
  // The caller's own parallel-for, used instead of oneTBB: calls body(context, begin, end) on pieces that
  // cover [0, n), in any order, on any threads, and returns when all are done. Bodies never throw or wait.
  tapfield_parallel_for parallel_for = nullptr;
  void* pool = nullptr;       // first argument of parallel_for
  void* workspace = nullptr;  // at least workspace_size() bytes; nullptr: the library's own scratch
  std::size_t workspace_bytes = 0;
  void* stream = nullptr;         // CUDA stream; unused on the CPU
  bool deterministic = false;     // CUDA: same bits on every run. The CPU always is.
  const char* backend = nullptr;  // force one by the name that backends() gives, e.g. "reference"
};

// A tensor's dtype is not supported or does not match the others'.
class TAPFIELD_API dtype_error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
  ~dtype_error() override;
};

// Shapes below are NHWC; with data_format "NCHW" the channel axis comes second. P = 3 (2 if not modulated).
// T is one of float16, bfloat16, float32, float64; "or float32" holds where T is a 16-bit type.

// y = the masked bilinear samples of x at base + offsets. Formula: docs/operators.md, "Forward".
TAPFIELD_API void deformable_offsets(const Tensor& x,        // [N, H, W, C], T
                                     const Tensor& offsets,  // [N, Ho, Wo, P*G*Kh*Kw], T or float32
                                     const Attributes& attributes,
                                     const Tensor& y,  // out: [N, Ho*Kh, Wo*Kw, C], T
                                     const Execution& execution = {});

// The gradients of <deformable_offsets(x, offsets), grad>. Formula: docs/operators.md, "Gradient".
TAPFIELD_API void deformable_offsets_grad(
    const Tensor& grad,     // [N, Ho*Kh, Wo*Kw, C], T
    const Tensor& x,        // [N, H, W, C], T
    const Tensor& offsets,  // [N, Ho, Wo, P*G*Kh*Kw], T or float32
    const Attributes& attributes,
    const Tensor& grad_x,        // out: as x, T or float32
    const Tensor& grad_offsets,  // out: as offsets, its dtype or float32
    const Execution& execution = {});

// The gradients of <grad_x, gg_x> + <grad_offsets, gg_offsets> with respect to grad, x and offsets.
// gg_x or gg_offsets may be absent (Tensor{}), meaning zero. Formula: docs/operators.md, "Second derivative".
TAPFIELD_API void deformable_offsets_grad_grad(
    const Tensor& grad,        // [N, Ho*Kh, Wo*Kw, C], T
    const Tensor& x,           // [N, H, W, C], T
    const Tensor& offsets,     // [N, Ho, Wo, P*G*Kh*Kw], T or float32
    const Tensor& gg_x,        // [N, H, W, C], T or float32; or absent
    const Tensor& gg_offsets,  // as offsets, its dtype or float32; or absent
    const Attributes& attributes,
    const Tensor& grad_grad,     // out: as grad, T
    const Tensor& grad_x,        // out: as x, T or float32
    const Tensor& grad_offsets,  // out: as offsets, its dtype or float32
    const Execution& execution = {});

// {Ho, Wo} of an input of size {H, W}. Throws as the operators do.
TAPFIELD_API std::array<std::int64_t, 2> output_size(const Ints& size, const Attributes& attributes);

// Bytes of scratch that the same call would use, for Execution::workspace (aligned to 64 bytes). Data
// pointers are not read.
TAPFIELD_API std::size_t workspace_size(const Tensor& x, const Tensor& offsets, const Attributes& attributes,
                                        const Tensor& y, const Execution& execution = {});
TAPFIELD_API std::size_t workspace_size(const Tensor& grad, const Tensor& x, const Tensor& offsets,
                                        const Attributes& attributes, const Tensor& grad_x,
                                        const Tensor& grad_offsets, const Execution& execution = {});
TAPFIELD_API std::size_t workspace_size(const Tensor& grad, const Tensor& x, const Tensor& offsets,
                                        const Tensor& gg_x, const Tensor& gg_offsets,
                                        const Attributes& attributes, const Tensor& grad_grad,
                                        const Tensor& grad_x, const Tensor& grad_offsets,
                                        const Execution& execution = {});

// Threads of calls that do not say. Default: TAPFIELD_NUM_THREADS, else the CPUs this process may use
// (affinity, cgroup quota). n >= 1; n beyond the cores really runs n.
TAPFIELD_API void set_num_threads(int n);
TAPFIELD_API int get_num_threads();

// Frees the scratch that the library keeps between calls. Calls in progress keep theirs.
TAPFIELD_API void release_scratch();

struct BackendInfo {
  std::string name;    // "cpu", "reference", "cuda", "ascend"
  std::string device;  // "cpu", "cuda", "ascend"
  bool available = false;
  std::string reason;  // why it can or cannot run here, e.g. the SIMD target chosen
};
TAPFIELD_API std::vector<BackendInfo> backends();

TAPFIELD_API const char* version();  // "0.1.0"

}  // namespace tapfield
