// SPDX-License-Identifier: Apache-2.0
// What deform_conv2d and its gradient are made of: matrices that are views of memory, their product, and
// bands of columns. Columns are y in another memory order: the taps of an output pixel side by side, so that
// a pixel is a row of Kh*Kw*C. Part of torch_conv2d.cpp.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>

#include "backends.h"
#include "cpu/rows.h"
#include "torch_layer.h"

namespace tapfield::torch_door {

// ------ Matrices

// A strided view of memory, without a history in autograd.
inline TorchTensor alias(const void* data, const Ivalues& sizes, const Ivalues& strides, ScalarType type) {
  return ::torch::stable::from_blob(const_cast<void*>(data), sizes, strides,
                                    ::torch::stable::Device(::torch::headeronly::DeviceType::CPU), type);
}

inline TorchTensor alias(const TorchTensor& t) {
  const auto size = t.sizes(), stride = t.strides();
  return alias(t.const_data_ptr(), {size.begin(), size.end()}, {stride.begin(), stride.end()},
               t.scalar_type());
}

inline TorchTensor matrix(const void* data, int64_t rows, int64_t columns, int64_t row_stride,
                          int64_t column_stride, ScalarType type) {
  return alias(data, {rows, columns}, {row_stride, column_stride}, type);
}

inline TorchTensor transposed(const TorchTensor& m) {
  return matrix(m.const_data_ptr(), m.size(1), m.size(0), m.stride(1), m.stride(0), m.scalar_type());
}

inline void copy(const TorchTensor& to, const TorchTensor& from) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(to.get(), from.get(), 0));
}

// c = a b, or c = start + a b; start is c or is broadcast to it.
inline void multiply(const TorchTensor& a, const TorchTensor& b, const TorchTensor& c,
                     const TorchTensor* start = nullptr) {
  if (start) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(c.get(), start->get(), a.get(), b.get(), 1, 1));
  } else {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(c.get(), a.get(), b.get()));
  }
}

// a transposed(b), plus bias in every row: a new matrix, by oneDNN.
inline TorchTensor linear(const TorchTensor& a, const TorchTensor& b, const TorchTensor* bias = nullptr) {
  using ::torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(a),
                                    from(b),
                                    from(bias ? Optional(*bias) : std::nullopt),
                                    from(std::string("none")),
                                    from(Ivalues{}),
                                    from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("mkldnn::_linear_pointwise", "", stack.data(), TORCH_ABI_VERSION));
  return ::torch::stable::detail::to<TorchTensor>(stack[0]);
}

// b for `linear`, of some `rows` of a, in the order that oneDNN would bring it into at each product.
inline TorchTensor packed(const TorchTensor& b, int64_t rows) {
  using ::torch::stable::detail::from;
  std::array<StableIValue, 2> stack{from(b), from(std::optional<int64_t>(rows))};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("mkldnn::_reorder_linear_weight", "", stack.data(), TORCH_ABI_VERSION));
  return ::torch::stable::detail::to<TorchTensor>(stack[0]);
}

// The one place that chooses a route: is `linear` faster than `multiply`, which is MKL's? Measured with torch
// 2.14.1 in bands of 16 MiB, cases a to f, one thread: on Zen 4, where MKL uses half a vector register, it
// takes 0.73 to 0.94 of the time; on Emerald Rapids as long. A call costs 13 us more, so not for few elements
// of columns. Not every PyTorch is built with oneDNN.
inline bool prefer_linear(ScalarType type, int64_t columns) {
#ifdef __x86_64__
  static const bool zen4 = [] {
    if (!__builtin_cpu_is("amd") || !__builtin_cpu_supports("avx512f")) return false;
    try {
      const float one = 1;
      const TorchTensor m = matrix(&one, 1, 1, 1, 1, ScalarType::Float);
      return linear(m, packed(m, 1)).numel() == 1;
    } catch (const std::exception&) { return false; }
  }();
  return zen4 && type == ScalarType::Float && columns >= 1 << 18;
#else
  return false;
#endif
}

// Scratch that the library keeps between calls.
struct Buffer {
  Scratch scratch;
  Buffer(int64_t elements, int64_t size) : scratch(static_cast<std::size_t>(elements * size), Execution{}) {}
  char* data() const { return static_cast<char*>(scratch.block()); }
};

// ------ Bands

// Columns of so many bytes stay in cache. Small images share a band of them, so that a product is not too
// small; larger ones gain nothing.
constexpr int64_t kCachedBytes = 4 << 20;

struct Band {
  int64_t n0, n, ho0, ho;  // images [n0, n0 + n), output rows [ho0, ho0 + ho) of each
};

// The output pixels of a layer in bands: as many images as have at most kCachedBytes bytes of columns, or as
// many output rows of one image as have at most `bytes`; at least one row. They depend on the shape alone.
struct Bands {
  const Layer& l;
  int64_t row, size;     // elements of a pixel's columns; bytes of an element
  int64_t images, rows;  // of a band
  Execution execution;

  Bands(const Layer& layer, int64_t bytes)
      : l(layer),
        row(l.p.taps() * l.p.c),
        size(l.type == ScalarType::Double  ? 8
             : l.type == ScalarType::Float ? 4
                                           : 2),
        execution(torch_door::execution(l.p.y_elements())) {
    const int64_t line = l.p.wo * std::max(row, l.co) * size;  // of columns, or of the product where wider
    images = std::clamp<int64_t>(kCachedBytes / (l.p.ho * line), 1, std::max<int64_t>(l.p.n, 1));
    rows = std::clamp<int64_t>(bytes / line, 1, l.p.ho);
  }

  bool whole_images() const { return rows == l.p.ho; }
  bool several() const { return most_pixels() < l.p.n * l.p.ho * l.p.wo; }
  int64_t pixels(const Band& b) const { return b.n * b.ho * l.p.wo; }
  int64_t most_pixels() const { return images * rows * l.p.wo; }

  template <class F>
  void each(const F& f) const {
    for (int64_t n = 0; n < l.p.n; n += images)
      for (int64_t ho = 0; ho < l.p.ho; ho += rows)
        f(Band{n, std::min(images, l.p.n - n), ho, std::min(rows, l.p.ho - ho)});
  }

  // Of t [N, Co, Ho, Wo]: a band as [n, Co, ho, wo].
  TorchTensor image(const TorchTensor& t, const Band& b) const {
    const auto s = t.strides();
    return alias(at(t, b), {b.n, t.size(1), b.ho, t.size(3)}, {s[0], s[1], s[2], s[3]}, t.scalar_type());
  }

  // Will matrix_of do for every band?
  bool is_matrix(const TorchTensor& t) const { return bool(matrix_of(t, {0, images, 0, rows})); }

  // As a matrix [pixels, Co], where one pair of strides will do.
  std::optional<TorchTensor> matrix_of(const TorchTensor& t, const Band& b) const {
    const auto s = t.strides();
    const int64_t co = t.size(1), ho = t.size(2), wo = t.size(3);
    const bool rows_follow = s[2] == wo * s[3] || b.ho == 1,
               images_follow = s[0] == ho * wo * s[3] || b.n == 1;
    const bool adjacent = s[1] == 1 && s[3] >= co, planes = s[3] == 1 && s[1] >= ho * wo;
    if (!rows_follow || !images_follow || !(adjacent || planes)) return std::nullopt;
    return matrix(at(t, b), pixels(b), co, s[3], s[1], t.scalar_type());
  }

  // A band's rows [pixels, Co] into t [N, Co, Ho, Wo].
  void store(const TorchTensor& pixel_rows, const TorchTensor& t, const Band& b) const {
    const View v = view_of(t);
    const char* from = static_cast<const char*>(pixel_rows.const_data_ptr());
    const int64_t co = l.co, wo = l.p.wo;
    Workers(execution, pixels(b) * co).run(b.n * b.ho, [&](int64_t i, int) {
      cpu::unpack_row(v, b.n0 + i / b.ho, b.ho0 + i % b.ho, 0, wo, 0, co, from + i * wo * co * size, co);
    });
  }

 private:
  const char* at(const TorchTensor& t, const Band& b) const {
    return static_cast<const char*>(t.const_data_ptr()) + (b.n0 * t.stride(0) + b.ho0 * t.stride(2)) * size;
  }
};

// Room for a band of pixels by Co, for tensors that a product cannot take or make in place.
struct Pixels {
  const Bands& bands;
  Buffer room;

  Pixels(const Bands& of, int64_t most) : bands(of), room(most * of.l.co, of.size) {}
  TorchTensor matrix_of(const Band& b) const {
    return matrix(room.data(), bands.pixels(b), bands.l.co, bands.l.co, 1, bands.l.type);
  }
  TorchTensor image(const Band& b) const {  // the same memory
    const int64_t co = bands.l.co, line = bands.l.p.wo * co;
    return alias(room.data(), {b.n, co, b.ho, bands.l.p.wo}, {b.ho * line, 1, line, co}, bands.l.type);
  }
};

// ------ Columns of a band

// offset's and mask's planes of a band: along W, along H, mask.
inline void planes_of(const Band& b, const View& offset, const View& mask, View (&to)[3]) {
  to[0] = plane_of(offset, 1), to[1] = plane_of(offset, 0), to[2] = mask;
  for (View& plane : to)
    if (plane.data) plane.data = plane.at(b.n0, b.ho0, 0, 0);
}

class Columns {
 public:
  Columns(const Bands& bands, const TorchTensor& input, const TorchTensor& offset, const Optional& mask)
      : bands_(bands),
        input_(view_of(input)),
        offset_(view_of(offset)),
        mask_(mask ? view_of(*mask) : View{}),
        buffer_(bands.most_pixels() * bands.row, bands.size),
        packed_(input_.adjacent() || bands.whole_images() ? 0 : bands.l.p.h * bands.l.p.w * bands.l.p.c,
                bands.size) {}

  TorchTensor matrix_of(const Band& b) const {
    return matrix(buffer_.data(), bands_.pixels(b), bands_.row, bands_.row, 1, bands_.l.type);
  }

  // As an image [n, C, ho, wo*Kh*Kw], the taps of a pixel side by side.
  TorchTensor image(const Band& b) const {
    const Problem& p = bands_.l.p;
    const int64_t line = p.wo * bands_.row;
    return alias(buffer_.data(), {b.n, p.c, b.ho, p.wo * p.taps()}, {b.ho * line, 1, line, p.c},
                 bands_.l.type);
  }

  View view(const Band& b) const {
    View v;
    v.data = buffer_.data(), v.dtype = input_.dtype;
    v.c = 1, v.w = bands_.l.p.c, v.h = bands_.l.p.kw * bands_.l.p.c;
    v.wo = bands_.row, v.ho = bands_.l.p.wo * bands_.row, v.n = b.ho * v.ho;
    return v;
  }

  // The sampling of a band: of a map whose first output row is ho0. An image in several bands is packed once,
  // with the first.
  Problem problem(Pass pass, const Band& b) const {
    Problem p = bands_.l.p;
    p.pass = pass, p.n = b.n, p.ho = b.ho, p.top -= b.ho0 * p.stride_h;
    p.x = input_, p.x.data = input_.at(b.n0, 0, 0, 0);
    if (packed_.data() && b.ho0 == 0)
      cpu::pack_image(Workers(bands_.execution, bands_.l.p.y_elements()), p.x, 0, p.h, p.w, 0, p.c,
                      packed_.data(), p.c);
    if (packed_.data())
      p.x.data = packed_.data(), p.x.c = 1, p.x.w = p.c, p.x.h = p.w * p.c, p.x.n = p.h * p.x.h;
    planes_of(b, offset_, mask_, p.offsets_planes);
    p.offsets = p.offsets_planes[0];
    return p;
  }

  // Fills in the columns.
  void sample(const Band& b) const {
    Problem p = problem(Pass::forward, b);
    // Many bands in turn in the same place: where they stay in cache, a, c and e take 0.95 to 0.97 of the
    // time; one of 1 to 4 MiB alone 1.03 to 1.2, bands of 16 MiB up to 1.07.
    p.y = view(b);
    p.soon = bands_.several() && bands_.most_pixels() * bands_.row * bands_.size <= kCachedBytes;
    run(p, DeviceType::cpu, bands_.execution);
  }

 private:
  const Bands& bands_;
  View input_, offset_, mask_;
  Buffer buffer_, packed_;
};

}  // namespace tapfield::torch_door
