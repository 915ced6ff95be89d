// SPDX-License-Identifier: Apache-2.0
// Every check of a call and its message. A message names the argument, the rule, and what came.
#include "problem.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <string>

namespace tapfield {
namespace {

using std::int64_t;
using std::string;

// Sizes, extents and positions stay below 2^62, so that sums of two of them cannot overflow.
constexpr int64_t kLimit = int64_t{1} << 62;
// Elements, and elements spanned by strides, stay below 2^54, so that no number of bytes overflows, nor a
// scratch of 256 bytes per element.
constexpr int64_t kElements = int64_t{1} << 54;

string text(const Ints& v) {
  string s = "[";
  for (int64_t i = 0; i < std::min(v.size(), Ints::capacity); ++i)
    s += (i ? ", " : "") + std::to_string(v[i]);
  return s + (v.size() > Ints::capacity ? ", ...]" : "]");
}

string quoted(const char* s) { return s ? '"' + string(s) + '"' : string("null"); }

template <class Error = std::invalid_argument>
[[noreturn]] void fail(const string& message) {
  throw Error(message);
}

// a * b, or an error that says whose product does not fit.
int64_t product(int64_t a, int64_t b, const string& whose) {
  int64_t r = 0;
  if (__builtin_mul_overflow(a, b, &r) || r >= kLimit)
    fail(whose + " is too large: its size overflows 64 bits");
  return r;
}

int64_t sum(int64_t a, int64_t b, const string& whose) {
  if (a >= kLimit - b) fail(whose + " is too large: its size overflows 64 bits");
  return a + b;
}

// ------ Attributes

void check_list(const char* name, const Ints& v, int64_t size, int64_t least, const char* meaning) {
  if (v.size() != size)
    fail(string(name) + " must have " + std::to_string(size) + " entries (" + meaning + ") but is " +
         text(v));
  for (int64_t i = 0; i < size; ++i)
    if (v[i] < least || v[i] >= kLimit)
      fail(string(name) + " must have entries of at least " + std::to_string(least) +
           (v[i] < least ? "" : " and below 2^62") + " (" + meaning + ") but is " + text(v));
}

// strides and dilations: 4 entries in data_format's order, 1 for N and C. Returns {along H, along W}.
std::array<int64_t, 2> spatial(const char* name, const Ints& v, bool nchw) {
  const char* order = nchw ? "N, C, H, W" : "N, H, W, C";
  check_list(name, v, 4, 1, order);
  if (v[0] != 1 || v[nchw ? 1 : 3] != 1)
    fail(string(name) + " must be 1 for N and C (" + order + ") but is " + text(v));
  return {v[nchw ? 2 : 1], v[nchw ? 3 : 2]};
}

bool is_nchw(const Attributes& a) {
  if (a.data_format && !std::strcmp(a.data_format, "NHWC")) return false;
  if (a.data_format && !std::strcmp(a.data_format, "NCHW")) return true;
  fail("data_format must be \"NHWC\" or \"NCHW\" but is " + quoted(a.data_format));
}

bool is_closed(const Attributes& a) {
  if (a.border && !std::strcmp(a.border, "open")) return false;
  if (a.border && !std::strcmp(a.border, "closed")) return true;
  fail("border must be \"open\" or \"closed\" but is " + quoted(a.border));
}

int64_t output_extent(const char* axis, int64_t size, int64_t before, int64_t after, int64_t kernel,
                      int64_t dilation, int64_t stride, const Attributes& a) {
  const int64_t padded = sum(sum(size, before, "pads"), after, "pads");
  const int64_t extent =
      sum(product(dilation, kernel - 1, "ksize times dilations"), 1, "ksize times dilations");
  if (extent > padded)
    fail(string("ksize must fit the padded input, so that ") + axis + " is at least 1, but is " +
         text(a.ksize) + " with dilations " + text(a.dilations) + ", pads " + text(a.pads) + " and size " +
         std::to_string(size) + " along " + (axis[0] == 'H' ? "H" : "W"));
  return (padded - extent) / stride + 1;
}

// Fills in all of the problem that comes from the attributes and the size of x.
void set_geometry(Problem& p, const Attributes& a) {
  const bool nchw = is_nchw(a);
  p.closed = is_closed(a);
  p.modulated = a.modulated;
  check_list("ksize", a.ksize, 2, 1, "Kh, Kw");
  check_list("pads", a.pads, 4, 0, "top, bottom, left, right");
  const auto stride = spatial("strides", a.strides, nchw), dilation = spatial("dilations", a.dilations, nchw);
  p.kh = a.ksize[0], p.kw = a.ksize[1];
  p.stride_h = stride[0], p.stride_w = stride[1], p.dil_h = dilation[0], p.dil_w = dilation[1];
  p.top = a.pads[0], p.left = a.pads[2];
  p.groups = a.deformable_groups;
  if (p.groups < 1) fail("deformable_groups must be at least 1 but is " + std::to_string(p.groups));
  p.ho = output_extent("Ho", p.h, a.pads[0], a.pads[1], p.kh, p.dil_h, p.stride_h, a);
  p.wo = output_extent("Wo", p.w, a.pads[2], a.pads[3], p.kw, p.dil_w, p.stride_w, a);
}

// ------ Tensors

struct Named {
  const char* name;
  const Tensor* t;
};

bool absent(const Tensor* t) { return !t || (!t->data && t->shape.size() == 0); }

void check_rank(Named a, const char* axes) {
  if (a.t->shape.size() != 4)
    fail(string(a.name) + " must have 4 dimensions (" + axes + ") but has shape " + text(a.t->shape));
  if (a.t->strides.size() != 0 && a.t->strides.size() != 4)
    fail(string(a.name) + " must have as many strides as dimensions but has strides " + text(a.t->strides));
  for (int64_t i = 0; i < 4; ++i)
    if (a.t->shape[i] < 0)
      fail(string(a.name) + " must have sizes of at least 0 but has shape " + text(a.t->shape));
}

void check_dtype(Named a, std::initializer_list<DType> allowed, const string& why) {
  string list;
  for (DType t : allowed) {
    if (a.t->dtype == t) return;
    if (list.find(name_of(t)) == string::npos) list += (list.empty() ? "" : " or ") + string(name_of(t));
  }
  const int code = static_cast<int>(a.t->dtype);
  const bool known = code >= TAPFIELD_FLOAT16 && code <= TAPFIELD_FLOAT64;
  fail<dtype_error>(string(a.name) + " must be " + list + why + " but is " +
                    (known ? name_of(a.t->dtype) : "dtype code " + std::to_string(code)));
}

// The dtype itself, or float32 beside a 16-bit one (docs/operators.md, "Tensors").
void check_dtype_like(Named a, Named other) {
  const DType wide = is_16bit(other.t->dtype) ? DType::float32 : other.t->dtype;
  check_dtype(a, {other.t->dtype, wide},
              string(", as ") + other.name + " is " + name_of(other.t->dtype) + ",");
}

void check_shape(Named a, std::array<int64_t, 4> nhwc, const char* axes_nhwc, const char* axes_nchw,
                 bool nchw) {
  const Ints want =
      nchw ? Ints{nhwc[0], nhwc[3], nhwc[1], nhwc[2]} : Ints{nhwc[0], nhwc[1], nhwc[2], nhwc[3]};
  for (int64_t i = 0; i < 4; ++i)
    if (a.t->shape[i] != want[i])
      fail(string(a.name) + " must have shape " + text(want) + " (" + (nchw ? axes_nchw : axes_nhwc) +
           ") but has " + text(a.t->shape));
}

bool is_empty(const Tensor& t) { return !(t.shape[0] && t.shape[1] && t.shape[2] && t.shape[3]); }

// The number of elements, and the elements that strides span, must fit. The stride of an axis of one element,
// or of an empty tensor, is never stepped along: it may be anything (NumPy's are 0).
void check_size(Named a) {
  const Ints &shape = a.t->shape, &strides = a.t->strides;
  int64_t count = 1, reach = 0;
  for (int64_t i = 0; i < 4; ++i)
    if (__builtin_mul_overflow(count, std::max<int64_t>(shape[i], 1), &count) || count >= kElements)
      fail(string(a.name) + " is too large: the size of shape " + text(shape) + " overflows 64 bits");
  for (int64_t i = 0; i < strides.size() && !is_empty(*a.t); ++i)
    if (shape[i] > 1 && (__builtin_mul_overflow(strides[i], shape[i] - 1, &reach) || reach >= kElements ||
                         reach <= -kElements))
      fail(string(a.name) + " is too large: its strides " + text(strides) + " overflow 64 bits");
}

// Strides in elements, of a tensor that passed check_size; a dense tensor's where the caller's mean nothing.
Ints strides_of(const Tensor& t) {
  const bool given = t.strides.size() == 4 && !is_empty(t);
  Ints s{0, 0, 0, 0};
  int64_t dense = 1;
  for (int64_t i = 3; i >= 0; --i) {
    s[i] = given && t.shape[i] > 1 ? t.strides[i] : dense;
    dense = s[i] * std::max<int64_t>(t.shape[i], 1);
  }
  return s;
}

// First and one-past-last byte, relative to data, of a tensor that passed check_size.
std::array<int64_t, 2> byte_range(const Tensor& t) {
  if (is_empty(t)) return {0, 0};
  const Ints s = strides_of(t);
  int64_t first = 0, last = 0;
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t reach = s[i] * (t.shape[i] - 1);
    (reach < 0 ? first : last) += reach;
  }
  return {first * size_of(t.dtype), (last + 1) * size_of(t.dtype)};
}

View view_of(const Tensor& t, bool nchw) {
  const Ints s = strides_of(t);
  View v;
  v.data = static_cast<char*>(t.data);
  v.dtype = t.dtype;
  v.n = s[0], v.h = s[nchw ? 2 : 1], v.w = s[nchw ? 3 : 2], v.c = s[nchw ? 1 : 3];
  if (t.shape[nchw ? 1 : 3] == 1) v.c = 1;
  return v;
}

// ------ Memory

string text(Device d) { return (d.type == DeviceType::cpu ? "cpu:" : "cuda:") + std::to_string(d.index); }

void check_pointer(Named a) {
  if (!a.t->data) fail(string(a.name) + " must have data but its pointer is null");
  if (reinterpret_cast<std::uintptr_t>(a.t->data) % static_cast<std::uintptr_t>(size_of(a.t->dtype)))
    fail(string(a.name) + " must be aligned to its element of " + std::to_string(size_of(a.t->dtype)) +
         " bytes but its pointer is not");
}

// No element of an output may lie on another. Sufficient, and required here: in order of stride, each axis
// steps over all that the axes before it span.
void check_self_overlap(Named a) {
  const Ints s = strides_of(*a.t);
  std::array<int64_t, 4> axis{0, 1, 2, 3};
  std::sort(axis.begin(), axis.end(), [&](int64_t i, int64_t j) { return std::abs(s[i]) < std::abs(s[j]); });
  int64_t reach = 0;
  for (int64_t i : axis) {
    if (a.t->shape[i] <= 1) continue;
    if (std::abs(s[i]) <= reach)
      fail(string(a.name) +
           " must not overlap itself (each axis must step over all of the smaller ones) but has shape " +
           text(a.t->shape) + " with strides " + text(a.t->strides));
    reach += std::abs(s[i]) * (a.t->shape[i] - 1);
  }
}

void check_overlap(Named out, Named other) {
  const auto a = byte_range(*out.t), b = byte_range(*other.t);
  if (a[0] == a[1] || b[0] == b[1]) return;
  // In 128 bits, because a range that begins below address 0 must not wrap around to the top.
  const auto at = [](const Tensor* t, int64_t offset) {
    return static_cast<__int128>(reinterpret_cast<std::uintptr_t>(t->data)) + offset;
  };
  if (at(out.t, a[0]) < at(other.t, b[1]) && at(other.t, b[0]) < at(out.t, a[1]))
    fail(string(out.name) + " must not overlap " + other.name +
         " but their ranges of memory do (interleaved slices of one buffer count as overlapping)");
}

}  // namespace

dtype_error::~dtype_error() = default;

const char* name_of(DType t) {
  switch (t) {
    case DType::float16: return "float16";
    case DType::bfloat16: return "bfloat16";
    case DType::float32: return "float32";
    case DType::float64: return "float64";
  }
  return "unknown";
}

Problem make_problem(Pass pass, const Arguments& args, const Attributes& attributes, bool with_data) {
  Problem p;
  p.pass = pass;
  const bool nchw = is_nchw(attributes);
  const Named x{"x", args.x}, offsets{"offsets", args.offsets}, grad{"grad", args.grad},
      gg_x{"gg_x", args.gg_x}, gg_offsets{"gg_offsets", args.gg_offsets}, y{"y", args.y},
      grad_grad{"grad_grad", args.grad_grad}, grad_x{"grad_x", args.grad_x},
      grad_offsets{"grad_offsets", args.grad_offsets};
  const char* like_x = nchw ? "N, C, H, W" : "N, H, W, C";

  // Ranks and dtypes first: later messages print shapes.
  check_rank(x, like_x);
  check_dtype(x, {DType::float16, DType::bfloat16, DType::float32, DType::float64}, "");
  for (Named a : {offsets, grad, gg_x, gg_offsets, y, grad_grad, grad_x, grad_offsets})
    if (!absent(a.t))
      check_rank(a, nchw ? "N, C, H, W" : "N, H, W, C");
    else if (a.t && a.t != args.gg_x && a.t != args.gg_offsets)
      fail(string(a.name) + " is required but absent");
  check_dtype_like(offsets, x);
  for (Named a : {grad, y, grad_grad})
    if (a.t) check_dtype(a, {args.x->dtype}, ", as x is,");
  for (Named a : {gg_x, grad_x})
    if (!absent(a.t)) check_dtype_like(a, x);
  for (Named a : {gg_offsets, grad_offsets})
    if (!absent(a.t)) check_dtype_like(a, offsets);

  // Sizes.
  const Ints& xs = args.x->shape;
  p.n = xs[0], p.h = xs[nchw ? 2 : 1], p.w = xs[nchw ? 3 : 2], p.c = xs[nchw ? 1 : 3];
  if (p.h < 1 || p.w < 1 || p.c < 1)
    fail(string("x must have H, W and C of at least 1 (") + like_x + ") but has shape " + text(xs));
  check_size(x);
  set_geometry(p, attributes);
  if (p.c % p.groups)
    fail("deformable_groups must divide C = " + std::to_string(p.c) + " but is " + std::to_string(p.groups));
  const int64_t lanes = product(product(p.kh, p.kw, "ksize"), p.groups, "offsets");
  const std::array<int64_t, 4> x_shape{p.n, p.h, p.w, p.c},
      offsets_shape{p.n, p.ho, p.wo, product(lanes, p.planes(), "offsets")},
      y_shape{p.n, product(p.ho, p.kh, "Ho*Kh"), product(p.wo, p.kw, "Wo*Kw"), p.c};
  for (Named a : {offsets, gg_offsets, grad_offsets})
    if (!absent(a.t))
      p.modulated ? check_shape(a, offsets_shape, "N, Ho, Wo, 3*G*Kh*Kw", "N, 3*G*Kh*Kw, Ho, Wo", nchw)
                  : check_shape(a, offsets_shape, "N, Ho, Wo, 2*G*Kh*Kw", "N, 2*G*Kh*Kw, Ho, Wo", nchw);
  for (Named a : {grad, y, grad_grad})
    if (a.t) check_shape(a, y_shape, "N, Ho*Kh, Wo*Kw, C", "N, C, Ho*Kh, Wo*Kw", nchw);
  for (Named a : {gg_x, grad_x})
    if (!absent(a.t)) check_shape(a, x_shape, "N, H, W, C", "N, C, H, W", nchw);

  // Devices and memory.
  const std::initializer_list<Named> inputs{x, offsets, grad, gg_x, gg_offsets};
  const std::initializer_list<Named> outputs{y, grad_grad, grad_x, grad_offsets};
  for (const auto& list : {inputs, outputs})
    for (Named a : list)
      if (!absent(a.t)) {
        check_size(a);
        if (a.t->device != args.x->device)
          fail(string(a.name) + " must be on x's device " + text(args.x->device) + " but is on " +
               text(a.t->device));
        if (with_data && p.n) check_pointer(a);
      }
  for (Named out : outputs)
    if (out.t) {
      if (with_data && out.t->read_only) fail(string(out.name) + " is written but is read-only");
      check_self_overlap(out);
      if (!with_data) continue;
      for (Named in : inputs)
        if (!absent(in.t)) check_overlap(out, in);
      for (Named other : outputs)
        if (other.t && other.t != out.t && std::strcmp(other.name, out.name) < 0) check_overlap(out, other);
    }

  const auto set = [&](View& v, const Tensor* t) {
    if (absent(t)) return;
    v = view_of(*t, nchw);
    static char
        somewhere;  // a tensor that is only measured may have no data, which in a View would mean absent
    if (!with_data) v.data = &somewhere;
  };
  set(p.x, args.x), set(p.offsets, args.offsets), set(p.grad, args.grad), set(p.gg_x, args.gg_x);
  set(p.gg_offsets, args.gg_offsets), set(p.y, args.y), set(p.grad_grad, args.grad_grad),
      set(p.grad_x, args.grad_x);
  set(p.grad_offsets, args.grad_offsets);
  for (View* v : {&p.y, &p.grad, &p.grad_grad}) v->ho = p.kh * v->h, v->wo = p.kw * v->w;
  return p;
}

std::array<int64_t, 2> output_size(const Ints& size, const Attributes& attributes) {
  check_list("size", size, 2, 1, "H, W");
  Problem p;
  p.h = size[0], p.w = size[1];
  set_geometry(p, attributes);
  return {p.ho, p.wo};
}

}  // namespace tapfield
