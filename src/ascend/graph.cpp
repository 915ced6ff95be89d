// SPDX-License-Identifier: Apache-2.0
#include "ascend/graph.h"

#include <cstring>
#include <string>

#include "ascend/run.h"

namespace tapfield::ascend {
namespace {

using std::int64_t;

bool is_nchw(const NodeAttributes& a) { return a.data_format && !std::strcmp(a.data_format, "NCHW"); }

// N, C, H, W as N, H, W, C; a list of another length as it is, to be refused.
Ints reordered(const Ints& v) { return v.size() == 4 ? Ints{v[0], v[2], v[3], v[1]} : v; }

// As the operators take them, in the order of data_format, and with NHWC tensors.
Attributes as_given(const NodeAttributes& a) {
  Attributes r;
  r.ksize = a.ksize, r.strides = a.strides, r.pads = a.pads, r.dilations = a.dilations;
  r.data_format = a.data_format, r.deformable_groups = a.deformable_groups, r.modulated = a.modulated;
  return r;
}
Attributes for_nhwc(const NodeAttributes& a) {
  Attributes r = as_given(a);
  if (is_nchw(a))
    r.strides = reordered(a.strides), r.dilations = reordered(a.dilations), r.data_format = "NHWC";
  return r;
}

bool is_known(const Ints& shape) {
  for (int64_t i = 0; i < shape.size() && i < Ints::capacity; ++i)
    if (shape[i] < 0) return false;
  return true;
}

Problem call(Pass pass, const tapfield::Arguments& arguments, const NodeAttributes& a, bool with_data) {
  // A message about strides shows them as they came: before they are reordered.
  const Ints& x = arguments.x->shape;
  if (is_nchw(a) && x.size() == 4 && x[1] > 0 && x[2] > 0) output_size({x[1], x[2]}, as_given(a));
  const Problem p = make_problem(pass, arguments, for_nhwc(a), with_data);
  if (const char* why = why_not(p))
    throw std::invalid_argument(std::string("Ascend cannot run this call: ") + why);
  return p;
}

Tensor without_data(const Ints& shape) { return Tensor(static_cast<float*>(nullptr), shape); }

}  // namespace

Ints infer_y(const Ints& x, const Ints& offsets, const NodeAttributes& a) {
  if (!is_known(x) || !is_known(offsets)) {
    const bool has_axes = offsets.size() == 4 && a.ksize.size() == 2;
    const auto times = [](int64_t outputs, int64_t taps) { return outputs < 0 ? -1 : outputs * taps; };
    return {x.size() == 4 ? x[0] : -1, has_axes ? times(offsets[1], a.ksize[0]) : -1,
            has_axes ? times(offsets[2], a.ksize[1]) : -1, x.size() == 4 ? x[3] : -1};
  }
  const Tensor x_tensor = without_data(x), offsets_tensor = without_data(offsets);
  const Problem p = call(Pass::forward, {.x = &x_tensor, .offsets = &offsets_tensor}, a, false);
  return {p.n, p.ho * p.kh, p.wo * p.kw, p.c};
}

GradShapes infer_grad(const Ints& grad, const Ints& x, const Ints& offsets, const NodeAttributes& a) {
  if (is_known(grad) && is_known(x) && is_known(offsets)) {
    const Tensor grad_tensor = without_data(grad), x_tensor = without_data(x),
                 offsets_tensor = without_data(offsets);
    call(Pass::grad, {.x = &x_tensor, .offsets = &offsets_tensor, .grad = &grad_tensor}, a, false);
  }
  return {x, offsets};
}

DType infer_dtype(DType input, std::optional<DType> asked) {
  return asked == DType::float32 ? DType::float32 : input;
}

Problem forward_call(const Tensor& x, const Tensor& offsets, const Tensor& y, const NodeAttributes& a) {
  return call(Pass::forward, {.x = &x, .offsets = &offsets, .y = &y}, a, true);
}

Problem grad_call(const Tensor& grad, const Tensor& x, const Tensor& offsets, const Tensor& grad_x,
                  const Tensor& grad_offsets, const NodeAttributes& a) {
  return call(Pass::grad,
              {.x = &x, .offsets = &offsets, .grad = &grad, .grad_x = &grad_x, .grad_offsets = &grad_offsets},
              a, true);
}

}  // namespace tapfield::ascend
