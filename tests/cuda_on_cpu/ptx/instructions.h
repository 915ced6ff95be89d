// SPDX-License-Identifier: Apache-2.0
// PTX's instructions as functions on the bits of registers, as the PTX ISA defines them; those that nvcc
// makes of our kernels. add.s32 is add_<s32>, setp.lt.s32 is setp_<lt, s32>. Included by what translate.py
// writes.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <tuple>
#include <type_traits>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"
#include "profile.h"

namespace ptx_on_cpu {

using pred = bool;
using b8 = std::uint8_t;
using b16 = std::uint16_t;
using b32 = std::uint32_t;
using b64 = std::uint64_t;
using u8 = b8;
using u16 = b16;
using u32 = b32;
using u64 = b64;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using f32 = float;
using f64 = double;
using f16 = __half;
using bf16 = __nv_bfloat16;
struct f32x2 {
  f32 low, high;
};

template <class T>
using Bits =
    std::conditional_t<std::is_same_v<T, pred>, pred,
                       std::tuple_element_t<std::bit_width(sizeof(T)) - 1, std::tuple<b8, b16, b32, b64>>>;

template <class T>
T as(Bits<T> bits) {
  return std::bit_cast<T>(bits);
}
template <class T>
Bits<T> bits(T value) {
  return std::bit_cast<Bits<T>>(value);
}

// A kernel of the host's, by its address, and its translation.
struct Kernel {
  Kernel(void (*host)(), cuda_on_cpu::Translation translation) {
    cuda_on_cpu::translations()[reinterpret_cast<const void*>(host)] = translation;
  }
};

// ------ Arithmetic. Sums, differences and products of integers have the same bits, signed or not.

template <class T>
using Exact = std::conditional_t<std::is_floating_point_v<T>, T, Bits<T>>;

template <class T>
Bits<T> add_(Bits<T> a, Bits<T> b) {
  return bits<Exact<T>>(as<Exact<T>>(a) + as<Exact<T>>(b));
}
template <class T>
Bits<T> sub_(Bits<T> a, Bits<T> b) {
  return bits<Exact<T>>(as<Exact<T>>(a) - as<Exact<T>>(b));
}
template <class T>
Bits<T> mul_(Bits<T> a, Bits<T> b) {
  return bits<T>(as<T>(a) * as<T>(b));
}
template <class T>
Bits<T> neg_(Bits<T> a) {
  return bits<Exact<T>>(-as<Exact<T>>(a));
}
template <class T>
Bits<T> abs_(Bits<T> a) {
  return bits<T>(std::fabs(as<T>(a)));
}
template <class T>
Bits<T> fma_rn_(Bits<T> a, Bits<T> b, Bits<T> c) {
  if constexpr (std::is_same_v<T, f32x2>) {
    const auto high = [](b64 v) { return static_cast<b32>(v >> 32); };
    const auto low = [](b64 v) { return static_cast<b32>(v); };
    return b64{fma_rn_<f32>(high(a), high(b), high(c))} << 32 | fma_rn_<f32>(low(a), low(b), low(c));
  } else {
    return bits<T>(std::fma(as<T>(a), as<T>(b), as<T>(c)));
  }
}

template <class T>
Bits<T> mul_lo_(Bits<T> a, Bits<T> b) {
  return static_cast<Bits<T>>(b64{a} * b);
}
template <class T>
Bits<T> mad_lo_(Bits<T> a, Bits<T> b, Bits<T> c) {
  return static_cast<Bits<T>>(b64{a} * b + c);
}
template <class T>
using Wide = std::conditional_t<sizeof(T) == 2, b32, b64>;
template <class T>
b64 whole_product(T a, T b) {
  using Whole = std::conditional_t<std::is_signed_v<T>, s64, u64>;
  return static_cast<b64>(static_cast<Whole>(a) * static_cast<Whole>(b));
}
template <class T>
Wide<T> mul_wide_(Bits<T> a, Bits<T> b) {
  return static_cast<Wide<T>>(whole_product(as<T>(a), as<T>(b)));
}
template <class T>
b32 mul_hi_(b32 a, b32 b) {
  return static_cast<b32>(whole_product(as<T>(a), as<T>(b)) >> 32);
}
template <class T>
Bits<T> div_(Bits<T> a, Bits<T> b) {
  return bits<T>(as<T>(a) / as<T>(b));
}
template <class T>
Bits<T> rem_(Bits<T> a, Bits<T> b) {
  return bits<T>(as<T>(a) % as<T>(b));
}
template <class T>
Bits<T> min_(Bits<T> a, Bits<T> b) {
  return as<T>(b) < as<T>(a) ? b : a;
}
template <class T>
Bits<T> max_(Bits<T> a, Bits<T> b) {
  return as<T>(a) < as<T>(b) ? b : a;
}

template <class T>
Bits<T> and_(Bits<T> a, Bits<T> b) {
  return a & b;
}
template <class T>
Bits<T> or_(Bits<T> a, Bits<T> b) {
  return a | b;
}
template <class T>
Bits<T> xor_(Bits<T> a, Bits<T> b) {
  return a ^ b;
}
template <class T>
Bits<T> not_(Bits<T> a) {
  return a ^ static_cast<Bits<T>>(-1);
}

// By as many bits as there are, and by more, nothing of it is left but the sign.
template <class T>
Bits<T> shl_(Bits<T> a, b32 by) {
  return by < 8 * sizeof(T) ? static_cast<Bits<T>>(a << by) : Bits<T>{};
}
template <class T>
Bits<T> shr_(Bits<T> a, b32 by) {
  if (by >= 8 * sizeof(T)) return as<T>(a) < 0 ? static_cast<Bits<T>>(-1) : Bits<T>{};
  return bits<T>(static_cast<T>(as<T>(a) >> by));
}
template <class T>
b32 shf_l_wrap_(b32 low, b32 high, b32 by) {
  return static_cast<b32>((b64{high} << 32 | low) << (by & 31) >> 32);
}

template <class T>
Bits<T> selp_(Bits<T> a, Bits<T> b, pred p) {
  return p ? a : b;
}

// ------ Comparisons. Those whose names end in u are true of a NaN; `ne` is not.

enum Comparison { lt, le, gt, ge, eq, ne, ltu, leu, gtu, geu, equ, neu };

template <Comparison how, class T>
pred setp_(Bits<T> a_, Bits<T> b_) {
  const T a = as<T>(a_), b = as<T>(b_);
  switch (how) {
    case lt: return a < b;
    case le: return a <= b;
    case gt: return a > b;
    case ge: return a >= b;
    case eq: return a == b;
    case ne: return a < b || a > b;
    case ltu: return !(a >= b);
    case leu: return !(a > b);
    case gtu: return !(a <= b);
    case geu: return !(a < b);
    case equ: return !(a < b || a > b);
    default: return !(a == b);  // neu
  }
}

// ------ Conversions

template <class T>
b64 cvt_s64_(Bits<T> a) {
  return static_cast<b64>(as<T>(a));
}
template <class T>
b64 cvt_u64_(Bits<T> a) {
  return as<T>(a);
}
template <class T>
b32 cvt_u32_(Bits<T> a) {
  return static_cast<b32>(as<T>(a));
}
template <class T>
b16 cvt_u16_(Bits<T> a) {
  return static_cast<b16>(as<T>(a));
}

// Too large or small, the integer next to it; of a NaN, 0.
template <class To, class From>
Bits<To> saturated(Bits<From> a) {
  using Limits = std::numeric_limits<To>;
  const From v = as<From>(a);
  if (v != v) return 0;
  if (v >= -static_cast<From>(Limits::min())) return bits(Limits::max());
  if (v <= static_cast<From>(Limits::min())) return bits(Limits::min());
  return bits(static_cast<To>(v));
}
template <class T>
b32 cvt_rzi_s32_(Bits<T> a) {
  return saturated<s32, T>(a);
}
template <class T>
b64 cvt_rzi_s64_(Bits<T> a) {
  return saturated<s64, T>(a);
}
template <class T>
b32 cvt_rmi_f32_(b32 a) {
  return bits(std::floor(as<T>(a)));
}
template <class T>
b32 cvt_rpi_f32_(b32 a) {
  return bits(std::ceil(as<T>(a)));
}
template <class T>
b64 cvt_rmi_f64_(b64 a) {
  return bits(std::floor(as<T>(a)));
}
template <class T>
b64 cvt_rpi_f64_(b64 a) {
  return bits(std::ceil(as<T>(a)));
}

template <class T>
b32 cvt_f32_(b16 a) {
  if constexpr (std::is_same_v<T, f16>)
    return bits(__half2float({a}));
  else
    return bits(__bfloat162float({a}));
}
template <class T>
b16 cvt_rn_f16_(b32 a) {
  return __float2half_rn(as<T>(a)).bits;
}
template <class T>
b16 cvt_rn_bf16_(b32 a) {
  return __float2bfloat16_rn(as<T>(a)).bits;
}

template <class Whole>
void pack(Whole& to, b64 low, b64 high) {
  to = static_cast<Whole>(high << 4 * sizeof(Whole) | low);
}
template <class Whole, class Part>
void unpack(Whole v, Part& low, Part& high) {
  low = static_cast<Part>(v), high = static_cast<Part>(v >> 4 * sizeof(Whole));
}

// ------ Memory. Addresses of shared memory count from the block's beginning.

template <class T>
b64 cvta_global_(b64 address) {
  return address;
}
template <class T>
b64 cvta_to_global_(b64 address) {
  return address;
}

// The line is that of the instruction, in what translate.py writes.
struct Address {
  b64 value;
  int line;
  Address(b64 value_, int line_ = __builtin_LINE()) : value(value_), line(line_) {}
};

template <Space S>
unsigned char* place(Access access, Address at, std::size_t bytes) {
  const b64 address = at.value;
  note(at.line, S, access, address, bytes);
  if (address % bytes) cuda_on_cpu::fail("an access of " + std::to_string(bytes) + " bytes is not aligned");
  if (S != Space::shared) return reinterpret_cast<unsigned char*>(address);
  const cuda_on_cpu::Memory memory = cuda_on_cpu::shared_memory();
  if (address > memory.used || memory.used - address < bytes)
    cuda_on_cpu::fail("shared memory is accessed out of bounds");
  return memory.begin + address;
}

// Registers may be wider than what they take; T says how it is extended.
template <Space S, class T, class... Registers>
void load(Address address, Registers&... to) {
  const unsigned char* from = place<S>(Access::load, address, sizeof(T) * sizeof...(to));
  const auto one = [&](auto& r) {
    T v;
    std::memcpy(&v, from, sizeof v), from += sizeof v;
    if constexpr (std::is_floating_point_v<T>)
      r = bits(v);
    else
      r = static_cast<std::remove_reference_t<decltype(r)>>(v);
  };
  (one(to), ...);
}

template <Space S, class T, class... Values>
void store(Address address, Values... values) {
  unsigned char* to = place<S>(Access::store, address, sizeof(T) * sizeof...(values));
  const auto one = [&](auto v) {
    const auto narrow = static_cast<Bits<T>>(v);
    std::memcpy(to, &narrow, sizeof narrow), to += sizeof narrow;
  };
  (one(values), ...);
}

template <Space S, class T, class... Registers>
void add_atomically(Address address, std::initializer_list<Bits<T>> added, Registers&... before) {
  auto* at = reinterpret_cast<T*>(place<S>(Access::add, address, sizeof(T) * sizeof...(before)));
  auto v = added.begin();
  ((before = bits<T>(*at), *at++ += as<T>(*v++)), ...);
}

// ------ Other threads

inline void bar_sync(int line) { cuda_on_cpu::block_barrier(line); }
inline void bar_warp_sync(b32 mask) { cuda_on_cpu::meet(cuda_on_cpu::Kind::sync, mask, 0, 0); }
template <class T>
pred vote_sync_any_(pred a, b32 mask) {
  return cuda_on_cpu::meet(cuda_on_cpu::Kind::vote, mask, a, 0) != 0;
}

// The lane that is read is `source` if it is one of the segment that `c` describes, else the lane itself.
inline pred shuffle(b32& result, b32 a, int source, bool within, b32 mask) {
  const int from = within ? source : cuda_on_cpu::lane();
  result = static_cast<b32>(cuda_on_cpu::meet(cuda_on_cpu::Kind::shuffle, mask, a, from));
  return within;
}
template <class T>
pred shfl_sync_bfly_(b32& result, b32 a, b32 lanes, b32 c, b32 mask) {
  const b32 lane = static_cast<b32>(cuda_on_cpu::lane()), segment = c >> 8 & 31, source = lane ^ (lanes & 31);
  return shuffle(result, a, static_cast<int>(source), source <= ((lane & segment) | (c & 31 & ~segment)),
                 mask);
}
template <class T>
pred shfl_sync_up_(b32& result, b32 a, b32 distance, b32 c, b32 mask) {
  const int lane = cuda_on_cpu::lane(), source = lane - static_cast<int>(distance & 31);
  const b32 segment = c >> 8 & 31;
  return shuffle(result, a, source, source >= static_cast<int>((lane & segment) | (c & 31 & ~segment)), mask);
}
template <class T>
pred shfl_sync_idx_(b32& result, b32 a, b32 index, b32 c, b32 mask) {
  const b32 lane = static_cast<b32>(cuda_on_cpu::lane()), segment = c >> 8 & 31;
  const b32 source = (lane & segment) | (index & ~segment & 31);
  return shuffle(result, a, static_cast<int>(source), source <= ((lane & segment) | (c & 31 & ~segment)),
                 mask);
}

}  // namespace ptx_on_cpu
