// SPDX-License-Identifier: Apache-2.0
// tapfield::deform_conv2d and its gradient on PyTorch's stable ABI: torchvision's operator as sampling and matrix
// products, band by band. A band is some images, or some output rows of one; it depends on the shape alone.
//
// Columns are y in another memory order: the taps of an output pixel side by side. So a pixel is a row of Kh*Kw*C,
// and the convolution one product with weight. The gradient samples again instead of keeping columns.
// Scratch, which the library keeps between calls: columns of one band (64 MiB, or one row), and the kernels' own.
// Bands follow each other: the same bits for any number of threads wherever the products' are. grad_weight, and
// grad_input of an image in several bands, add up in float32 or wider.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <tuple>

#include "backends.h"
#include "torch_layer.h"

namespace tapfield::torch_door {
namespace {

constexpr int64_t kBandBytes = 64 << 20;

// ------ Matrices

// A strided view of memory, without a history in autograd.
TorchTensor alias(const void* data, const Ivalues& sizes, const Ivalues& strides, ScalarType type) {
  return ::torch::stable::from_blob(const_cast<void*>(data), sizes, strides,
                                    ::torch::stable::Device(::torch::headeronly::DeviceType::CPU), type);
}

TorchTensor alias(const TorchTensor& t) {
  const auto size = t.sizes(), stride = t.strides();
  return alias(t.const_data_ptr(), {size.begin(), size.end()}, {stride.begin(), stride.end()}, t.scalar_type());
}

TorchTensor matrix(const void* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
                   ScalarType type) {
  return alias(data, {rows, columns}, {row_stride, column_stride}, type);
}

TorchTensor transposed(const TorchTensor& m) {
  return matrix(m.const_data_ptr(), m.size(1), m.size(0), m.stride(1), m.stride(0), m.scalar_type());
}

void copy(const TorchTensor& to, const TorchTensor& from) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(to.get(), from.get(), 0));
}

// c = a b, or c = start + a b; start is c or is broadcast to it. The one place that chooses a route. Measured with
// torch 2.14.1 on Intel (AVX-512): MKL's product into memory that is there takes as long as oneDNN's, and half as
// long as a product or a convolution that makes its result anew.
void multiply(const TorchTensor& a, const TorchTensor& b, const TorchTensor& c, const TorchTensor* start = nullptr) {
  if (start) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(c.get(), start->get(), a.get(), b.get(), 1, 1));
  } else {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(c.get(), a.get(), b.get()));
  }
}

// ------ Bands

struct Band {
  int64_t n0, n, ho0, ho;  // images [n0, n0 + n), output rows [ho0, ho0 + ho) of each
};

// Scratch by name of its C++ type: elements of dtype.
struct Buffer {
  Scratch scratch;
  Buffer(int64_t elements, int64_t size) : scratch(static_cast<std::size_t>(elements * size), Execution{}) {}
  char* data() const { return static_cast<char*>(scratch.block()); }
};

struct Bands {
  const Layer& l;
  int64_t row, size;              // a pixel's columns; bytes of an element
  int64_t images = 1, rows = 1;   // of a band
  Execution execution;

  explicit Bands(const Layer& layer)
      : l(layer),
        row(l.p.taps() * l.p.c),
        size(l.type == ScalarType::Double ? 8 : l.type == ScalarType::Float ? 4 : 2),
        execution(torch_door::execution(l.p.y_elements())) {
    const int64_t line = l.p.wo * row * size, image = l.p.ho * line;
    images = std::clamp<int64_t>(kBandBytes / image, 1, std::max<int64_t>(l.p.n, 1));
    rows = std::clamp<int64_t>(kBandBytes / line, 1, l.p.ho);
  }

  bool whole_images() const { return rows == l.p.ho; }
  int64_t pixels(const Band& b) const { return b.n * b.ho * l.p.wo; }
  int64_t first_pixel(const Band& b) const { return (b.n0 * l.p.ho + b.ho0) * l.p.wo; }
  int64_t most_pixels() const { return images * rows * l.p.wo; }
  TorchTensor columns(const Band& b, const Buffer& buffer) const {
    return matrix(buffer.data(), pixels(b), row, row, 1, l.type);
  }

  template <class F>
  void each(const F& f) const {
    for (int64_t n = 0; n < l.p.n; n += images)
      for (int64_t ho = 0; ho < l.p.ho; ho += rows)
        f(Band{n, std::min(images, l.p.n - n), ho, std::min(rows, l.p.ho - ho)});
  }

  // The sampling of a band: a map whose first output row is ho0.
  Problem problem(Pass pass, const Band& b, const View& input, const View& offset, const View& mask) const {
    Problem p = l.p;
    p.pass = pass, p.n = b.n, p.ho = b.ho, p.top -= b.ho0 * p.stride_h;
    p.x = input, p.x.data = input.at(b.n0, 0, 0, 0);
    planes(b, offset, mask, p.offsets_planes);
    p.offsets = p.offsets_planes[0];
    return p;
  }

  void planes(const Band& b, const View& offset, const View& mask, View (&to)[3]) const {
    to[0] = plane_of(offset, 1), to[1] = plane_of(offset, 0), to[2] = mask;
    for (View& plane : to)
      if (plane.data) plane.data = plane.at(b.n0, b.ho0, 0, 0);
  }

  View columns_view(const Band& b, const Buffer& buffer, DType dtype) const {
    View v;
    v.data = buffer.data(), v.dtype = dtype;
    v.c = 1, v.w = l.p.c, v.h = l.p.kw * l.p.c, v.wo = row, v.ho = l.p.wo * row, v.n = b.ho * v.ho;
    return v;
  }

  void sample(const Band& b, const View& input, const View& offset, const View& mask, const Buffer& to) const {
    Problem p = problem(Pass::forward, b, input, offset, mask);
    p.y = columns_view(b, to, input.dtype);
    run(p, DeviceType::cpu, execution);
  }
};

// weight as a matrix [Co, Kh*Kw*C/groups], taps before channels; `owner` keeps it.
TorchTensor taps_first(const Layer& l, const TorchTensor& weight, TorchTensor& owner) {
  const int64_t cg = l.p.c / l.groups, width = l.p.taps() * cg;
  owner = weight;
  if (!channels_last(weight, true)) {
    owner = empty(weight, l.type, {l.co, l.p.kh, l.p.kw, cg}, true, true);
    copy(owner, alias(weight));
  }
  return matrix(owner.const_data_ptr(), l.co, width, width, 1, l.type);
}

// ------ Products with weight in groups: a convolution of the columns as an image [n, C, ho, wo*Kh*Kw]

struct Grouped {
  Ivalues stride, none{0, 0}, one{1, 1};
  TorchTensor weight;  // [Co, C/groups, 1, Kh*Kw]

  Grouped(const Layer& l, const TorchTensor& taps) : stride{1, l.p.taps()}, weight(taps) {
    const int64_t cg = l.p.c / l.groups, k = l.p.taps();
    weight = alias(taps.const_data_ptr(), {l.co, cg, 1, k}, {k * cg, 1, k * cg, cg}, l.type);
  }

  TorchTensor image(const Bands& bands, const Band& b, const Buffer& columns) const {
    const Problem& p = bands.l.p;
    const int64_t line = p.wo * bands.row;
    return alias(columns.data(), {b.n, p.c, b.ho, p.wo * p.taps()}, {b.ho * line, 1, line, p.c}, bands.l.type);
  }

  TorchTensor forward(const Layer& l, const TorchTensor& image, const TorchTensor* bias) const {
    AtenTensorHandle bias_handle = bias ? bias->get() : nullptr, out = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution(image.get(), weight.get(), bias ? &bias_handle : nullptr,
                                                      stride.data(), 2, none.data(), 2, one.data(), 2, 0,
                                                      none.data(), 2, l.groups, &out));
    return TorchTensor(out);
  }

  // (grad of image, grad of weight), as far as they are wanted.
  std::tuple<TorchTensor, TorchTensor> backward(const Layer& l, const TorchTensor& grad, const TorchTensor& image,
                                                bool want_image) const {
    const std::int32_t wanted[] = {want_image, !want_image, 0};
    AtenTensorHandle to[3] = {};
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution_backward(
        grad.get(), image.get(), weight.get(), nullptr, 0, stride.data(), 2, none.data(), 2, one.data(), 2, 0,
        none.data(), 2, l.groups, wanted, 3, &to[0], &to[1], &to[2]));
    const auto owned = [](AtenTensorHandle h) { return h ? TorchTensor(h) : TorchTensor(); };
    owned(to[2]);
    return {owned(to[0]), owned(to[1])};
  }
};

// A band of t [N, Co, Ho, Wo], as [n, Co, ho, wo].
TorchTensor band_of(const TorchTensor& t, const Bands& bands, const Band& b) {
  const auto s = t.strides();
  const char* data = static_cast<const char*>(t.const_data_ptr()) + (b.n0 * s[0] + b.ho0 * s[2]) * bands.size;
  return alias(data, {b.n, t.size(1), b.ho, t.size(3)}, {s[0], s[1], s[2], s[3]}, t.scalar_type());
}

// A band of a dense t as a matrix [pixels, Co], if one pair of strides will do.
std::optional<TorchTensor> pixels_of(const TorchTensor& t, const Bands& bands, const Band& b) {
  const auto s = t.strides();
  const int64_t co = t.size(1), ho = t.size(2), wo = t.size(3);
  const bool rows = s[2] == wo * s[3] || ho == 1, images = b.n == 1 || s[0] == ho * wo * s[3];
  const bool adjacent = s[1] == 1 && s[3] >= co, planes = s[3] == 1 && s[1] >= ho * wo;
  if (!rows || !images || !(adjacent || planes)) return std::nullopt;
  const char* data = static_cast<const char*>(t.const_data_ptr()) + (b.n0 * s[0] + b.ho0 * s[2]) * bands.size;
  return matrix(data, bands.pixels(b), co, s[3], s[1], t.scalar_type());
}

// Room for a band of pixels by Co where pixels_of finds no pair of strides.
struct Pixels {
  TorchTensor room;
  Pixels(const Bands& bands, const TorchTensor& like) : room(like) {
    const Band first{0, bands.images, 0, bands.rows};
    if (!pixels_of(like, bands, first))
      room = empty(like, bands.l.type, {1, 1, bands.most_pixels(), bands.l.co}, true, true);
  }
  TorchTensor matrix_of(const Bands& bands, const Band& b) const {
    return matrix(room.const_data_ptr(), bands.pixels(b), bands.l.co, bands.l.co, 1, bands.l.type);
  }
  // The same memory as [n, Co, ho, wo].
  TorchTensor image_of(const Bands& bands, const Band& b) const {
    const int64_t co = bands.l.co, line = bands.l.p.wo * co;
    return alias(room.const_data_ptr(), {b.n, co, b.ho, bands.l.p.wo}, {b.ho * line, 1, line, co}, bands.l.type);
  }
};

// ------ Forward

// input [N, C, H, W], offset [N, 2*G*Kh*Kw, Ho, Wo], weight [Co, C/groups, Kh, Kw], bias [Co], mask [N, G*Kh*Kw,
// Ho, Wo] -> [N, Co, Ho, Wo], channels_last in memory where input is.
TorchTensor deform_conv2d(const TorchTensor& input, const TorchTensor& offset, const TorchTensor& weight,
                          const Optional& bias, const Optional& mask, const Ivalues& stride, const Ivalues& padding,
                          const Ivalues& dilation, const std::string& border) {
  return guarded([&] {
    const Layer l = layer_of(input, offset, weight, mask, bias, stride, padding, dilation, border);
    TorchTensor out =
        empty(input, l.type, {l.p.n, l.p.ho, l.p.wo, l.co}, true, channels_last(input, true));
    if (!l.p.n) return out;
    const Bands bands(l);
    const View x = view_of(input), at = view_of(offset), by = mask ? view_of(*mask) : View{};
    TorchTensor owner;
    const TorchTensor taps = taps_first(l, weight, owner);
    const std::optional<TorchTensor> start = bias ? std::optional(alias(*bias)) : std::nullopt;
    const Buffer columns(bands.most_pixels() * bands.row, bands.size);
    const Pixels pixels(bands, out);
    bands.each([&](const Band& b) {
      bands.sample(b, x, at, by, columns);
      if (l.groups > 1) {
        const Grouped grouped(l, taps);
        return copy(band_of(out, bands, b),
                    grouped.forward(l, grouped.image(bands, b, columns), start ? &*start : nullptr));
      }
      const auto direct = pixels_of(out, bands, b);
      multiply(bands.columns(b, columns), transposed(taps), direct ? *direct : pixels.matrix_of(bands, b),
               start ? &*start : nullptr);
      if (!direct) copy(band_of(out, bands, b), pixels.image_of(bands, b));
    });
    return out;
  });
}

// ------ Gradient

// grad_weight of one band after another, in float32 or wider.
class WeightSum {
 public:
  WeightSum(const Bands& bands, const TorchTensor& weight)
      : bands_(bands),
        like_(weight),
        type_(bands.l.type == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
        sum_(empty(weight, type_, {bands.l.co, bands.l.p.kh, bands.l.p.kw, bands.l.p.c / bands.l.groups}, true, true)) {
    ::torch::stable::zero_(sum_);
  }

  // grad [pixels, Co], columns [pixels, Kh*Kw*C]. 16-bit ones are widened, some pixels at a time: their product would
  // be rounded to 16 bits in every band.
  void add(const TorchTensor& grad, const TorchTensor& columns) {
    const TorchTensor sum = matrix(sum_.const_data_ptr(), bands_.l.co, bands_.row, bands_.row, 1, type_);
    if (type_ == bands_.l.type) return multiply(transposed(grad), columns, sum, &sum);
    const int64_t pixels = columns.size(0), most = std::clamp<int64_t>((1 << 20) / bands_.row, 1, pixels);
    const Buffer wide(most * (bands_.row + bands_.l.co), sizeof(float));
    for (int64_t i = 0; i < pixels; i += most) {
      const int64_t count = std::min(most, pixels - i);
      const auto widened = [&](const TorchTensor& m, char* to) {
        const char* from = static_cast<const char*>(m.const_data_ptr()) + i * m.stride(0) * bands_.size;
        const TorchTensor w = matrix(to, count, m.size(1), m.size(1), 1, type_);
        copy(w, matrix(from, count, m.size(1), m.stride(0), m.stride(1), bands_.l.type));
        return w;
      };
      const TorchTensor c = widened(columns, wide.data());
      multiply(transposed(widened(grad, wide.data() + count * bands_.row * 4)), c, sum, &sum);
    }
  }

  // The gradient of one band, as the convolution gives it: [Co, C/groups, 1, Kh*Kw].
  void add(const TorchTensor& part) {
    const int64_t k = bands_.l.p.taps(), cg = bands_.l.p.c / bands_.l.groups;
    const TorchTensor wide = empty(like_, type_, {bands_.l.co, 1, k, cg}, true, true);
    copy(wide, part);
    const auto add_to = [&](auto* to, const auto* from) {
      for (int64_t i = 0; i < bands_.l.co * k * cg; ++i) to[i] += from[i];
    };
    if (type_ == ScalarType::Double)
      add_to(static_cast<double*>(sum_.mutable_data_ptr()), static_cast<const double*>(wide.const_data_ptr()));
    else
      add_to(static_cast<float*>(sum_.mutable_data_ptr()), static_cast<const float*>(wide.const_data_ptr()));
  }

  TorchTensor result() const {
    if (type_ == bands_.l.type && channels_last(like_, true)) return sum_;
    TorchTensor out = empty_like(like_, true);
    copy(out, sum_);
    return out;
  }

 private:
  const Bands& bands_;
  TorchTensor like_;
  ScalarType type_;
  TorchTensor sum_;  // [Co, C/groups, Kh, Kw], channels_last
};

// grad_input of images that are cut into bands: each band gives the gradient of its whole image, and they add up.
class InputSum {
 public:
  InputSum(const Bands& bands, const TorchTensor& grad_input) : bands_(bands), out_(grad_input) {
    const Problem& p = bands.l.p;
    type_ = bands.l.type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    if (!bands.whole_images()) part_ = empty(out_, type_, {1, p.h, p.w, p.c}, true, true);
    if (!bands.whole_images()) sum_ = empty(out_, type_, {1, p.h, p.w, p.c}, true, true);
  }

  View target(const Band& b) const {
    if (bands_.whole_images()) {
      View v = view_of(out_);
      v.data = v.at(b.n0, 0, 0, 0);
      return v;
    }
    return view_of(b.ho0 ? part_ : sum_);
  }

  void done(const Band& b) const {
    if (bands_.whole_images()) return;
    const int64_t count = sum_.numel();
    const auto add = [&](auto* to, const auto* from) {
      ::torch::stable::parallel_for(0, count, 1 << 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] += from[i];
      });
    };
    if (b.ho0 && type_ == ScalarType::Double)
      add(static_cast<double*>(sum_.mutable_data_ptr()), static_cast<const double*>(part_.const_data_ptr()));
    else if (b.ho0)
      add(static_cast<float*>(sum_.mutable_data_ptr()), static_cast<const float*>(part_.const_data_ptr()));
    if (b.ho0 + b.ho < bands_.l.p.ho) return;
    const Problem& p = bands_.l.p;
    const auto s = out_.strides();
    copy(alias(static_cast<const char*>(out_.const_data_ptr()) + b.n0 * s[0] * bands_.size, {1, p.c, p.h, p.w},
               {s[0], s[1], s[2], s[3]}, bands_.l.type),
         sum_);
  }

 private:
  const Bands& bands_;
  TorchTensor out_, part_, sum_;
  ScalarType type_;
};

// (grad_input, grad_offset, grad_weight, grad_mask), as their inputs. Without `samples` the first, second and last,
// without `products` the third are empty; so is grad_mask without a mask. grad_bias is the sum of grad.
std::tuple<TorchTensor, TorchTensor, TorchTensor, TorchTensor> deform_conv2d_backward(
    const TorchTensor& grad, const TorchTensor& input, const TorchTensor& offset, const TorchTensor& weight,
    const Optional& mask, const Ivalues& stride, const Ivalues& padding, const Ivalues& dilation,
    const std::string& border, bool samples, bool products) {
  return guarded([&] {
    const Layer l = layer_of(input, offset, weight, mask, std::nullopt, stride, padding, dilation, border);
    require_dtype("grad", grad, input, false);
    require_shape("grad", grad, {l.p.n, l.co, l.p.ho, l.p.wo}, "N, Co, Ho, Wo");
    const auto nothing = [&] { return ::torch::stable::new_empty(input, {0}); };
    TorchTensor grad_input = samples ? empty_like(input, true) : nothing();
    TorchTensor grad_offset = samples ? empty_like(offset, true) : nothing();
    TorchTensor grad_mask = samples && mask ? empty_like(*mask, true) : nothing();
    const Bands bands(l);
    WeightSum grad_weight(bands, weight);
    const auto results = [&] {
      return std::tuple(grad_input, grad_offset, products ? grad_weight.result() : nothing(), grad_mask);
    };
    if (!l.p.n) return results();

    const View x = view_of(input), at = view_of(offset), by = mask ? view_of(*mask) : View{};
    TorchTensor owner;
    const TorchTensor taps = taps_first(l, weight, owner);
    const Buffer columns(bands.most_pixels() * bands.row, bands.size);
    const Pixels pixels(bands, grad);
    std::optional<InputSum> input_sum;
    if (samples) input_sum.emplace(bands, grad_input);
    bands.each([&](const Band& b) {
      const auto direct = pixels_of(grad, bands, b);
      if (!direct && l.groups == 1) copy(pixels.image_of(bands, b), band_of(grad, bands, b));
      const TorchTensor g = direct ? *direct : pixels.matrix_of(bands, b);
      const TorchTensor y = bands.columns(b, columns);
      if (samples) {
        if (l.groups > 1) {
          const Grouped grouped(l, taps);
          const TorchTensor image = grouped.image(bands, b, columns);
          copy(image, std::get<0>(grouped.backward(l, band_of(grad, bands, b), image, true)));
        } else {
          multiply(g, taps, y);
        }
        Problem p = bands.problem(Pass::grad, b, x, at, by);
        p.grad = bands.columns_view(b, columns, p.x.dtype);
        p.grad_x = input_sum->target(b);
        bands.planes(b, view_of(grad_offset), mask ? view_of(grad_mask) : View{}, p.grad_offsets_planes);
        p.grad_offsets = p.grad_offsets_planes[0];
        run(p, DeviceType::cpu, bands.execution);
        input_sum->done(b);
      }
      if (products) {
        bands.sample(b, x, at, by, columns);
        if (l.groups > 1) {
          const Grouped grouped(l, taps);
          grad_weight.add(std::get<1>(
              grouped.backward(l, band_of(grad, bands, b), grouped.image(bands, b, columns), false)));
        } else {
          grad_weight.add(g, y);
        }
      }
    });
    return results();
  });
}

void release() { release_scratch(); }

}  // namespace

#define LAYER "*, int[] stride=[1, 1], int[] padding=[0, 0], int[] dilation=[1, 1], str border=\"closed\""

STABLE_TORCH_LIBRARY_FRAGMENT(tapfield, m) {
  m.def("deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias=None, Tensor? mask=None, " LAYER
        ") -> Tensor");
  m.def("deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, " LAYER
        ", bool samples=True, bool products=True) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("release_scratch() -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(tapfield, CompositeExplicitAutograd, m) { m.impl("release_scratch", TORCH_BOX(&release)); }

STABLE_TORCH_LIBRARY_IMPL(tapfield, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&deform_conv2d_backward));
}

}  // namespace tapfield::torch_door
