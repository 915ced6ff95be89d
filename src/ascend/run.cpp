// SPDX-License-Identifier: Apache-2.0
#include "ascend/run.h"

#include <algorithm>
#include <initializer_list>

namespace tapfield::ascend {
namespace {

using std::int32_t;
using std::int64_t;

bool wide(const View& v) { return v.dtype == DType::float32; }

bool is_dense(const View& v, int64_t h, int64_t w, int64_t c) {
  return !v.data || (v.c == 1 && v.w == c && v.h == w * c && v.n == h * w * c);
}

int64_t elements_of_x(const Problem& p) { return p.n * p.h * p.w * p.c; }

}  // namespace

const char* why_not(const Problem& p) {
  if (p.pass == Pass::grad_grad) return "the second derivative has no operator in CANN";
  if (p.x.dtype == DType::float64) return "float64 is not computed here";
  if (p.offsets_planes[0].data) return "a layer's offsets and mask are tensors of their own";
  const int64_t channels = p.planes() * p.lanes();
  for (const View* v : {&p.x, &p.grad_x})
    if (!is_dense(*v, p.h, p.w, p.c)) return "tensors must be dense, in NHWC order";
  for (const View* v : {&p.grad, &p.y})
    if (!is_dense(*v, p.ho * p.kh, p.wo * p.kw, p.c)) return "tensors must be dense, in NHWC order";
  for (const View* v : {&p.offsets, &p.grad_offsets})
    if (!is_dense(*v, p.ho, p.wo, channels)) return "tensors must be dense, in NHWC order";
  for (int64_t side :
       {p.h, p.w, p.stride_h, p.stride_w, p.dil_h * (p.kh - 1), p.dil_w * (p.kw - 1), p.top, p.left})
    if (side >= int64_t{1} << 40) return "a side, stride, pad or kernel of 2^40 pixels";
  // A copy's step between rows is a 32-bit number of bytes.
  if (std::max(p.c, channels) >= int64_t{1} << 29) return "a pixel of 2^29 channels";
  return nullptr;
}

std::size_t scratch_bytes(const Problem& p) {
  return p.pass == Pass::grad && !wide(p.grad_x) ? static_cast<std::size_t>(elements_of_x(p)) * sizeof(float)
                                                 : 0;
}

template <class Index>
Arguments<Index> arguments_of(const Problem& p, void* scratch) {
  const auto index = [](int64_t i) { return static_cast<Index>(i); };
  const auto address = [](const void* data) { return reinterpret_cast<Address>(data); };
  Arguments<Index> a{};
  a.geometry = {index(p.n),
                index(p.h),
                index(p.w),
                index(p.c),
                index(p.ho),
                index(p.wo),
                index(p.groups),
                index(p.kh),
                index(p.kw),
                index(p.stride_h),
                index(p.stride_w),
                index(p.dil_h),
                index(p.dil_w),
                index(p.top),
                index(p.left),
                index(p.planes()),
                index(p.group_channels()),
                p.closed ? 1 : 0};
  a.x = address(p.x.data), a.offsets = address(p.offsets.data), a.grad = address(p.grad.data);
  a.y = address(p.y.data), a.grad_x = address(p.grad_x.data), a.grad_offsets = address(p.grad_offsets.data);
  a.sums = scratch_bytes(p) ? address(scratch) : a.grad_x;
  a.offsets_wide = wide(p.offsets), a.grad_x_wide = wide(p.grad_x),
  a.grad_offsets_wide = wide(p.grad_offsets);
  return a;
}
template Arguments<int32_t> arguments_of(const Problem&, void*);
template Arguments<int64_t> arguments_of(const Problem&, void*);

Launch launch_of(const Problem& p, const Device& d) {
  const Element type = p.x.dtype == DType::float16    ? Element::float16
                       : p.x.dtype == DType::bfloat16 ? Element::bfloat16
                                                      : Element::float32;
  return {type, static_cast<std::uint32_t>(d.cores), d.stream};
}

}  // namespace tapfield::ascend
