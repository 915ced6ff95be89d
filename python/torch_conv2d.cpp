// SPDX-License-Identifier: Apache-2.0
// tapfield::deform_conv2d and its gradient on PyTorch's stable ABI: torchvision's operator as sampling and
// matrix products, band by band. The gradient makes columns anew instead of keeping them: its kernel leaves
// samples in place of their gradient.
//
// Scratch, which the library keeps between calls: a band of columns, at most 64 MiB or one row of output
// pixels, and the kernels' own. Bands follow each other: the same bits for any number of threads wherever the
// products' are. grad_weight, and grad_input of an image in several bands, add up in float32 or wider.
#include <tuple>

#include "torch_bands.h"

namespace tapfield::torch_door {
namespace {

// Columns that only a product reads are made in bands several times as large as the weight, as the product
// packs it anew for each: with 4, 8, 16, 64 MiB case b forward takes 80, 76, 70, 72 ms; the others do not
// mind.
constexpr int64_t kProductBytes = 16 << 20;
// Where the weight is packed once, in bands that stay in cache, if those have so many pixels, enough for all
// threads: a and c take 0.94, e 0.93 of the time; b and d, of fewer, up to 1.1 with two threads.
constexpr int64_t kPackedPixels = 512;
// Those of grad_input in bands as large as may be, as its kernel may sort taps: in bands of 16 MiB it takes
// 28 instead of 19 ms in a; c and e do not mind.
constexpr int64_t kSampleBytes = 64 << 20;

// weight [Co, C/groups, Kh, Kw] to or from dense rows [Co, Kh*Kw, C/groups] of its dtype: in tiles, where
// PyTorch's copy takes as long as a small product.
enum class Move { pack, unpack };
void move_taps(const Layer& l, Move move, const TorchTensor& weight, char* rows) {
  const int64_t k = l.p.taps(), cg = l.p.c / l.groups;
  if (weight.stride(2) != l.p.kw * weight.stride(3)) {
    const TorchTensor dense = alias(rows, {l.co, cg, l.p.kh, l.p.kw}, {k * cg, 1, l.p.kw * cg, cg}, l.type);
    return move == Move::pack ? copy(dense, alias(weight)) : copy(weight, dense);
  }
  View v = view_of(weight);
  v.w = weight.stride(3);  // along all taps
  const int64_t row_bytes = k * cg * size_of(v.dtype);
  Workers(execution(weight.numel()), weight.numel()).run(l.co, [&](int64_t co, int) {
    if (move == Move::pack)
      cpu::pack_row(v, co, 0, 0, k, 0, cg, rows + co * row_bytes, cg);
    else
      cpu::unpack_row(v, co, 0, 0, k, 0, cg, rows + co * row_bytes, cg);
  });
}

// Is weight's memory those rows?
bool is_taps_first(const Layer& l, const TorchTensor& weight) {
  const int64_t cg = l.p.c / l.groups;
  const std::array<int64_t, 4> want{l.p.taps() * cg, 1, l.p.kw * cg, cg};
  for (int64_t i = 0; i < 4; ++i)
    if (weight.size(i) > 1 && weight.stride(i) != want[static_cast<std::size_t>(i)]) return false;
  return true;
}

// weight as a matrix [Co, Kh*Kw*C/groups], taps before channels; `owner` keeps its memory.
TorchTensor taps_first(const Layer& l, const TorchTensor& weight, TorchTensor& owner) {
  const int64_t cg = l.p.c / l.groups, width = l.p.taps() * cg;
  owner = weight;
  if (!is_taps_first(l, weight)) {
    owner = empty(weight, l.type, {l.co, l.p.kh, l.p.kw, cg}, true, true);
    move_taps(l, Move::pack, weight, static_cast<char*>(owner.mutable_data_ptr()));
  }
  return matrix(owner.const_data_ptr(), l.co, width, width, 1, l.type);
}

// ------ Products with a weight in groups: a convolution of the columns as an image

struct Grouped {
  const Layer& l;
  Ivalues stride, none{0, 0}, one{1, 1};
  TorchTensor weight;  // [Co, C/groups, 1, Kh*Kw]

  Grouped(const Layer& layer, const TorchTensor& taps) : l(layer), stride{1, l.p.taps()}, weight(taps) {
    const int64_t cg = l.p.c / l.groups, k = l.p.taps();
    weight = alias(taps.const_data_ptr(), {l.co, cg, 1, k}, {k * cg, 1, k * cg, cg}, l.type);
  }

  TorchTensor forward(const TorchTensor& columns, const TorchTensor* bias) const {
    AtenTensorHandle bias_handle = bias ? bias->get() : nullptr, out = nullptr;
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_convolution(columns.get(), weight.get(), bias ? &bias_handle : nullptr, stride.data(),
                                   2, none.data(), 2, one.data(), 2, 0, none.data(), 2, l.groups, &out));
    return TorchTensor(out);
  }

  // The gradient of columns, or of weight.
  TorchTensor backward(const TorchTensor& grad, const TorchTensor& columns, bool of_weight) const {
    const std::int32_t wanted[] = {!of_weight, of_weight, 0};
    AtenTensorHandle to[3] = {};
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution_backward(
        grad.get(), columns.get(), weight.get(), nullptr, 0, stride.data(), 2, none.data(), 2, one.data(), 2,
        0, none.data(), 2, l.groups, wanted, 3, &to[0], &to[1], &to[2]));
    std::optional<TorchTensor> result;
    for (int i = 0; i < 3; ++i)
      if (to[i]) {
        TorchTensor owned(to[i]);
        if (wanted[i]) result = owned;
      }
    return *result;
  }
};

// ------ Forward

// input [N, C, H, W], offset [N, 2*G*Kh*Kw, Ho, Wo], weight [Co, C/groups, Kh, Kw], bias [Co], mask [N,
// G*Kh*Kw, Ho, Wo] -> [N, Co, Ho, Wo], channels_last in memory where input is.
TorchTensor deform_conv2d(const TorchTensor& input, const TorchTensor& offset, const TorchTensor& weight,
                          const Optional& bias, const Optional& mask, const Ivalues& stride,
                          const Ivalues& padding, const Ivalues& dilation, const std::string& border) {
  return guarded([&] {
    const Layer l = layer_of(input, offset, weight, mask, bias, stride, padding, dilation, border);
    TorchTensor out = empty(input, l.type, {l.p.n, l.p.ho, l.p.wo, l.co}, true, channels_last(input, true));
    if (!l.p.n) return out;
    TorchTensor owner;
    const TorchTensor taps = taps_first(l, weight, owner);
    const Optional row = bias ? Optional(alias(*bias)) : std::nullopt;
    const TorchTensor* start = row ? &*row : nullptr;
    const bool direct = channels_last(out, true),
               anew = l.groups == 1 && prefer_linear(l.type, l.p.y_elements());
    const bool small = anew && kPackedPixels * l.p.taps() * l.p.c * 4 <= kCachedBytes;
    const Bands bands(l, small ? kCachedBytes : kProductBytes);
    const Columns columns(bands, input, offset, mask);
    const TorchTensor weights = anew && bands.several() ? packed(taps, bands.most_pixels()) : taps;
    const Pixels pixels(bands, direct || anew || l.groups > 1 ? 0 : bands.most_pixels());
    bands.each([&](const Band& b) {
      columns.sample(b);
      if (l.groups > 1) return copy(bands.image(out, b), Grouped(l, taps).forward(columns.image(b), start));
      // Not into planes of channels: a product into rows and a transposition take 12% less in case a.
      if (anew) return bands.store(linear(columns.matrix_of(b), weights, start), out, b);
      const TorchTensor rows = direct ? *bands.matrix_of(out, b) : pixels.matrix_of(b);
      multiply(columns.matrix_of(b), transposed(taps), rows, start);
      if (!direct) bands.store(rows, out, b);
    });
    return out;
  });
}

// ------ Gradient

ScalarType wide(ScalarType t) { return t == ScalarType::Double ? t : ScalarType::Float; }

// to += from, of the same dense shape, in float or double.
void add_to(const TorchTensor& to, const TorchTensor& from) {
  const auto add = [&](auto* a, const auto* b) {
    ::torch::stable::parallel_for(0, to.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) a[i] += b[i];
    });
  };
  if (to.scalar_type() == ScalarType::Double)
    add(static_cast<double*>(to.mutable_data_ptr()), static_cast<const double*>(from.const_data_ptr()));
  else
    add(static_cast<float*>(to.mutable_data_ptr()), static_cast<const float*>(from.const_data_ptr()));
}

// grad_weight, band after band.
class WeightSum {
 public:
  WeightSum(const Layer& l, const TorchTensor& weight)
      : l_(l),
        like_(weight),
        sum_(empty(weight, wide(l.type), {l.co, l.p.kh, l.p.kw, l.p.c / l.groups}, true, true)) {
    ::torch::stable::zero_(sum_);
  }

  // grad [pixels, Co], columns [pixels, Kh*Kw*C]. 16-bit ones are widened, some pixels at a time: their
  // product would be rounded to 16 bits in every band.
  void add(const TorchTensor& grad, const TorchTensor& columns) {
    const int64_t row = columns.size(1), pixels = columns.size(0), type_size = 4;
    const TorchTensor sum = matrix(sum_.const_data_ptr(), l_.co, row, row, 1, wide(l_.type));
    if (prefer_linear(l_.type, columns.numel()))
      return add_to(sum, linear(transposed(grad), transposed(columns)));
    if (wide(l_.type) == l_.type) return multiply(transposed(grad), columns, sum, &sum);
    const int64_t most = std::clamp<int64_t>((1 << 20) / row, 1, pixels);
    const Buffer room(most * (row + l_.co), type_size);
    for (int64_t i = 0; i < pixels; i += most) {
      const int64_t count = std::min(most, pixels - i);
      const auto widened = [&](const TorchTensor& m, char* to) {
        const char* from = static_cast<const char*>(m.const_data_ptr()) + i * m.stride(0) * 2;
        const TorchTensor w = matrix(to, count, m.size(1), m.size(1), 1, ScalarType::Float);
        copy(w, matrix(from, count, m.size(1), m.stride(0), m.stride(1), l_.type));
        return w;
      };
      const TorchTensor c = widened(columns, room.data());
      multiply(transposed(widened(grad, room.data() + count * row * type_size)), c, sum, &sum);
    }
  }

  // A band's [Co, C/groups, 1, Kh*Kw], as the convolution gives it.
  void add(const TorchTensor& part) {
    const TorchTensor same =
        empty(like_, wide(l_.type), {l_.co, 1, l_.p.taps(), l_.p.c / l_.groups}, true, true);
    copy(same, part);
    add_to(sum_, same);
  }

  TorchTensor result() const {
    if (wide(l_.type) == l_.type && channels_last(like_, true)) return sum_;
    TorchTensor out = empty_like(like_, true);
    if (wide(l_.type) == l_.type)
      move_taps(l_, Move::unpack, out, static_cast<char*>(sum_.mutable_data_ptr()));
    else
      copy(out, sum_);
    return out;
  }

 private:
  const Layer& l_;
  TorchTensor like_, sum_;  // sum_: [Co, C/groups, Kh, Kw], channels_last
};

// grad_input. Bands of one image add up in sums of the whole image: in place where grad_input can hold them.
class InputSum {
 public:
  InputSum(const Bands& bands, const TorchTensor& grad_input)
      : bands_(bands), out_(view_of(grad_input)), type_(wide(bands.l.type)) {
    const Problem& p = bands.l.p;
    if (!bands.whole_images() && !(out_.adjacent() && type_ == bands.l.type))
      sums_ = empty(grad_input, type_, {1, p.h, p.w, p.c}, true, true);
  }

  // Where p, of a band, adds to or writes.
  void target(const Band& b, Problem& p) const {
    p.grad_x = sums_ ? view_of(*sums_) : out_;
    if (!sums_) p.grad_x.data = out_.at(b.n0, 0, 0, 0);
    p.adds = b.ho0 > 0;
  }

  void done(const Band& b) const {
    const Problem& p = bands_.l.p;
    if (!sums_ || b.ho0 + b.ho < p.ho) return;
    const Workers workers(bands_.execution, p.y_elements());
    const auto store = [&](auto* sums) {
      const Buffer narrowed(workers.slots() * p.w * p.c, 2);
      cpu::store_image(workers, out_, b.n0, p.h, p.w, 0, p.c, sums, p.c,
                       reinterpret_cast<std::uint16_t*>(narrowed.data()));
    };
    if (type_ == ScalarType::Double)
      store(static_cast<const double*>(sums_->const_data_ptr()));
    else
      store(static_cast<const float*>(sums_->const_data_ptr()));
  }

 private:
  const Bands& bands_;
  View out_;
  ScalarType type_;
  Optional sums_;  // [1, C, H, W], channels_last
};

// (grad_input, grad_offset, grad_weight, grad_mask), as their inputs. Without `samples` the first, second and
// last, without `products` the third are empty; so is grad_mask without a mask. grad_bias is the sum of grad.
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
    WeightSum grad_weight(l, weight);
    TorchTensor owner;
    const TorchTensor taps = taps_first(l, weight, owner);

    // Where both are wanted, the gradient of columns is replaced by columns on its way.
    const Bands bands(l, samples ? kSampleBytes : kProductBytes);
    const Columns columns(bands, input, offset, mask);
    const Pixels pixels(bands, bands.is_matrix(grad) ? 0 : bands.most_pixels());
    const auto input_sum = samples ? std::optional(InputSum(bands, grad_input)) : std::nullopt;
    const auto grad_of = [&](const Band& b) {  // [pixels, Co]
      if (const Optional direct = bands.matrix_of(grad, b)) return *direct;
      copy(pixels.image(b), bands.image(grad, b));
      return pixels.matrix_of(b);
    };
    bands.each([&](const Band& b) {
      const Optional rows = l.groups > 1 ? std::nullopt : Optional(grad_of(b));
      if (samples) {
        if (l.groups > 1)
          copy(columns.image(b), Grouped(l, taps).backward(bands.image(grad, b), columns.image(b), false));
        else
          multiply(*rows, taps, columns.matrix_of(b));
        Problem p = columns.problem(Pass::grad, b);
        p.grad = columns.view(b), p.samples = products;
        input_sum->target(b, p);
        planes_of(b, view_of(grad_offset), mask ? view_of(grad_mask) : View{}, p.grad_offsets_planes);
        p.grad_offsets = p.grad_offsets_planes[0];
        run(p, DeviceType::cpu, bands.execution);
        input_sum->done(b);
      } else if (products) {
        columns.sample(b);
      }
      if (!products) return;
      if (l.groups > 1)
        grad_weight.add(Grouped(l, taps).backward(bands.image(grad, b), columns.image(b), true));
      else
        grad_weight.add(*rows, columns.matrix_of(b));
    });
    return std::tuple(grad_input, grad_offset, products ? grad_weight.result() : nothing(), grad_mask);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tapfield, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&deform_conv2d_backward));
}

}  // namespace tapfield::torch_door
