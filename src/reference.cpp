// SPDX-License-Identifier: Apache-2.0
// The operators as docs/operators.md defines them, written to be read: plain loops, double arithmetic, one
// page a pass, no code shared with the kernels. Porting the operators? Start here.
//
// Every result is a sum over a tap's four corners. A corner's weight is b = bh * bw; its derivatives are dw =
// db/dlw, dh = db/dlh and dhw = d2b/dlh dlw. A corner outside the map contributes nothing. Kind says what is
// summed: the terms (Values), or their magnitudes (Magnitudes), from which error bounds are made.
#include "reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tapfield::reference {
namespace {

using std::int64_t;

struct Values {
  static double term(double t) { return t; }
};
struct Magnitudes {
  static double term(double t) { return std::fabs(t); }
};

// A sum of any length: what an addition rounds off is kept beside it (Neumaier), so that the reference's own
// error does not grow with the number of taps that meet in a pixel.
struct Sum {
  double sum = 0, lost = 0;
  void operator+=(double term) {
    const double next = sum + term;
    lost += std::fabs(sum) >= std::fabs(term) ? (sum - next) + term : (term - next) + sum;
    sum = next;
  }
  double value() const { return std::isfinite(sum) ? sum + lost : sum; }
};

// ------ Elements: exact when read, rounded once, to nearest even, when written

// A 16-bit float has 1 sign bit, some exponent bits and `digits` bits of fraction; its smallest normal is
// 2^least.
struct Format16 {
  int digits, least, greatest;
};
constexpr Format16 kFloat16{10, -14, 15}, kBfloat16{7, -126, 127};

double decode(std::uint16_t bits, Format16 f) {
  const int fraction = bits & ((1 << f.digits) - 1), exponent = (bits & 0x7fff) >> f.digits;
  double v;
  if (exponent == f.greatest - f.least + 2)
    v = fraction ? NAN : INFINITY;
  else if (exponent == 0)
    v = std::ldexp(fraction, f.least - f.digits);
  else
    v = std::ldexp(fraction + (1 << f.digits), f.least - f.digits + exponent - 1);
  return bits & 0x8000 ? -v : v;
}

std::uint16_t encode(double v, Format16 f) {
  const int sign = std::signbit(v) ? 0x8000 : 0, infinity = (f.greatest - f.least + 2) << f.digits;
  if (std::isnan(v)) return static_cast<std::uint16_t>(sign | infinity | 1 << (f.digits - 1));
  v = std::fabs(v);
  const int exponent = v == 0 || std::isinf(v) ? f.least : std::max(std::ilogb(v), f.least);
  if (std::isinf(v) || exponent > f.greatest) return static_cast<std::uint16_t>(sign | infinity);
  // In units of the last digit. Rounding up to the next power of two carries into the exponent, as it should.
  const int units = static_cast<int>(std::nearbyint(std::ldexp(v, f.digits - exponent)));
  return static_cast<std::uint16_t>(sign | (((exponent - f.least) << f.digits) + units));
}

template <class T>
T raw(const char* at) {
  T v;
  std::memcpy(&v, at, sizeof v);
  return v;
}

double read(const View& t, int64_t n, int64_t h, int64_t w, int64_t c) {
  const char* at = t.at(n, h, w, c);
  switch (t.dtype) {
    case DType::float16: return decode(raw<std::uint16_t>(at), kFloat16);
    case DType::bfloat16: return decode(raw<std::uint16_t>(at), kBfloat16);
    case DType::float32: return raw<float>(at);
    case DType::float64: return raw<double>(at);
  }
  return NAN;
}

void write(const View& t, int64_t n, int64_t h, int64_t w, int64_t c, double v) {
  char* at = t.at(n, h, w, c);
  const auto put = [at](auto value) { std::memcpy(at, &value, sizeof value); };
  switch (t.dtype) {
    case DType::float16: return put(encode(v, kFloat16));
    case DType::bfloat16: return put(encode(v, kBfloat16));
    case DType::float32: return put(static_cast<float>(v));
    case DType::float64: return put(v);
  }
}

// ------ A tap

struct Tap {
  bool live;
  int64_t h0, w0;
  double lh, hh, lw, hw, m;
};

// Floor, fraction and its complement come from the offset itself, so that both keep all their digits, far
// from the origin and next to an integer.
bool locate(double offset, int64_t base, int64_t size, bool closed, int64_t& floor, double& fraction,
            double& complement) {
  if (!(std::fabs(offset) < 0x1p62)) return false;  // NaN, infinite, or out of any map's reach
  floor = base + static_cast<int64_t>(std::floor(offset));
  fraction = offset - std::floor(offset);
  complement = fraction == 0 ? 1 : std::ceil(offset) - offset;
  const bool after_minus_one = closed ? floor >= -1 : floor > -1 || (floor == -1 && fraction > 0);
  return after_minus_one && floor < size;
}

Tap tap_at(const Problem& p, int64_t n, int64_t ho, int64_t wo, int64_t g, int64_t kh, int64_t kw) {
  const int64_t tap = (g * p.kh + kh) * p.kw + kw, plane = p.groups * p.kh * p.kw;
  Tap t;
  const bool live_w = locate(read(p.offsets, n, ho, wo, tap), wo * p.stride_w - p.left + kw * p.dil_w, p.w,
                             p.closed, t.w0, t.lw, t.hw);
  const bool live_h = locate(read(p.offsets, n, ho, wo, plane + tap), ho * p.stride_h - p.top + kh * p.dil_h,
                             p.h, p.closed, t.h0, t.lh, t.hh);
  t.live = live_h && live_w;
  t.m = p.modulated ? read(p.offsets, n, ho, wo, 2 * plane + tap) : 1;
  return t;
}

// Calls visit(n, ho, wo, g, kh, kw) for every tap of image n.
template <class Visit>
void for_each_tap(const Problem& p, int64_t n, const Visit& visit) {
  for (int64_t ho = 0; ho < p.ho; ++ho)
    for (int64_t wo = 0; wo < p.wo; ++wo)
      for (int64_t g = 0; g < p.groups; ++g)
        for (int64_t kh = 0; kh < p.kh; ++kh)
          for (int64_t kw = 0; kw < p.kw; ++kw) visit(n, ho, wo, g, kh, kw);
}

// Calls visit(h, w, b, dw, dh, dhw) for every corner inside the map.
template <class Visit>
void for_each_corner(const Problem& p, const Tap& t, const Visit& visit) {
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) {
      const int64_t h = t.h0 + i, w = t.w0 + j;
      if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
      const double bh = i ? t.lh : t.hh, bw = j ? t.lw : t.hw;
      const double sign_h = i ? 1 : -1, sign_w = j ? 1 : -1;
      visit(h, w, bh * bw, bh * sign_w, bw * sign_h, sign_h * sign_w);
    }
}

void write_offsets(const Problem& p, const View& out, int64_t n, int64_t ho, int64_t wo, int64_t tap,
                   double along_w, double along_h, double mask) {
  const int64_t plane = p.groups * p.kh * p.kw;
  write(out, n, ho, wo, tap, along_w);
  write(out, n, ho, wo, plane + tap, along_h);
  if (p.modulated) write(out, n, ho, wo, 2 * plane + tap, mask);
}

void write_image(const Problem& p, const View& out, int64_t n, const Sum* sums) {
  for (int64_t h = 0; h < p.h; ++h)
    for (int64_t w = 0; w < p.w; ++w)
      for (int64_t c = 0; c < p.c; ++c) write(out, n, h, w, c, sums[(h * p.w + w) * p.c + c].value());
}

// ------ Forward

template <class Kind>
void forward_pass(const Problem& p) {
  const int64_t channels = p.c / p.groups;
  const auto sample = [&](int64_t n, int64_t ho, int64_t wo, int64_t g, int64_t kh, int64_t kw) {
    const Tap t = tap_at(p, n, ho, wo, g, kh, kw);
    for (int64_t c = g * channels; c < (g + 1) * channels; ++c) {
      double y = 0;
      if (t.live)
        for_each_corner(p, t, [&](int64_t h, int64_t w, double b, double, double, double) {
          y += Kind::term(t.m * b * read(p.x, n, h, w, c));
        });
      write(p.y, n, ho * p.kh + kh, wo * p.kw + kw, c, y);
    }
  };
  for (int64_t n = 0; n < p.n; ++n) for_each_tap(p, n, sample);
}

// ------ Gradient

template <class Kind>
void grad_pass(const Problem& p, Sum* grad_x) {  // grad_x: [h, w, c] of one image
  const int64_t channels = p.c / p.groups;
  const auto scatter = [&](int64_t n, int64_t ho, int64_t wo, int64_t g, int64_t kh, int64_t kw) {
    const Tap t = tap_at(p, n, ho, wo, g, kh, kw);
    double along_w = 0, along_h = 0, mask = 0;
    if (t.live)
      for_each_corner(p, t, [&](int64_t h, int64_t w, double b, double dw, double dh, double) {
        for (int64_t c = g * channels; c < (g + 1) * channels; ++c) {
          const double grad = read(p.grad, n, ho * p.kh + kh, wo * p.kw + kw, c), v = read(p.x, n, h, w, c);
          grad_x[(h * p.w + w) * p.c + c] += Kind::term(grad * t.m * b);
          along_w += Kind::term(grad * t.m * dw * v);
          along_h += Kind::term(grad * t.m * dh * v);
          mask += Kind::term(grad * b * v);
        }
      });
    write_offsets(p, p.grad_offsets, n, ho, wo, (g * p.kh + kh) * p.kw + kw, along_w, along_h, mask);
  };
  for (int64_t n = 0; n < p.n; ++n) {
    std::fill_n(grad_x, p.h * p.w * p.c, Sum());
    for_each_tap(p, n, scatter);
    write_image(p, p.grad_x, n, grad_x);
  }
}

// ------ Second derivative

template <class Kind>
void grad_grad_pass(const Problem& p, Sum* grad_x) {  // grad_x: [h, w, c] of one image
  const int64_t channels = p.c / p.groups, plane = p.groups * p.kh * p.kw;
  const auto scatter = [&](int64_t n, int64_t ho, int64_t wo, int64_t g, int64_t kh, int64_t kw) {
    const Tap t = tap_at(p, n, ho, wo, g, kh, kw);
    const int64_t tap = (g * p.kh + kh) * p.kw + kw;
    const auto gg_offset = [&](int64_t c) {
      return p.gg_offsets.data ? read(p.gg_offsets, n, ho, wo, c) : 0.0;
    };
    const double gg_w = gg_offset(tap), gg_h = gg_offset(plane + tap),
                 gg_m = p.modulated ? gg_offset(2 * plane + tap) : 0;
    double along_w = 0, along_h = 0, mask = 0;
    for (int64_t c = g * channels; c < (g + 1) * channels; ++c) {
      const double grad = t.live ? read(p.grad, n, ho * p.kh + kh, wo * p.kw + kw, c) : 0;
      double grad_grad = 0;
      if (t.live)
        for_each_corner(p, t, [&](int64_t h, int64_t w, double b, double dw, double dh, double dhw) {
          const double v = read(p.x, n, h, w, c), u = p.gg_x.data ? read(p.gg_x, n, h, w, c) : 0;
          const double w_terms[] = {t.m * gg_w * dw, t.m * gg_h * dh, gg_m * b};
          grad_grad += Kind::term(t.m * b * u);
          for (double weight : w_terms) {
            grad_grad += Kind::term(weight * v);
            grad_x[(h * p.w + w) * p.c + c] += Kind::term(weight * grad);
          }
          along_w += Kind::term(grad * t.m * dw * u) + Kind::term(grad * t.m * gg_h * dhw * v) +
                     Kind::term(grad * gg_m * dw * v);
          along_h += Kind::term(grad * t.m * dh * u) + Kind::term(grad * t.m * gg_w * dhw * v) +
                     Kind::term(grad * gg_m * dh * v);
          mask +=
              Kind::term(grad * b * u) + Kind::term(grad * gg_w * dw * v) + Kind::term(grad * gg_h * dh * v);
        });
      write(p.grad_grad, n, ho * p.kh + kh, wo * p.kw + kw, c, grad_grad);
    }
    write_offsets(p, p.grad_offsets, n, ho, wo, tap, along_w, along_h, mask);
  };
  for (int64_t n = 0; n < p.n; ++n) {
    std::fill_n(grad_x, p.h * p.w * p.c, Sum());
    for_each_tap(p, n, scatter);
    write_image(p, p.grad_x, n, grad_x);
  }
}

}  // namespace

std::size_t workspace(const Problem& p, int) {
  return p.pass == Pass::forward ? 0 : static_cast<std::size_t>(p.h * p.w * p.c) * sizeof(Sum);
}

void forward(const Problem& p, const Workers&, void*) { forward_pass<Values>(p); }
void forward_magnitudes(const Problem& p, const Workers&, void*) { forward_pass<Magnitudes>(p); }
void grad(const Problem& p, const Workers&, void* sums) { grad_pass<Values>(p, static_cast<Sum*>(sums)); }
void grad_magnitudes(const Problem& p, const Workers&, void* sums) {
  grad_pass<Magnitudes>(p, static_cast<Sum*>(sums));
}
void grad_grad(const Problem& p, const Workers&, void* sums) {
  grad_grad_pass<Values>(p, static_cast<Sum*>(sums));
}
void grad_grad_magnitudes(const Problem& p, const Workers&, void* sums) {
  grad_grad_pass<Magnitudes>(p, static_cast<Sum*>(sums));
}

}  // namespace tapfield::reference
