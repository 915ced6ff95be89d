// SPDX-License-Identifier: Apache-2.0
// PTX's instructions as functions on the bits of registers, as the PTX ISA defines them; those that nvcc
// makes of our kernels. Included by what translate.py writes.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <type_traits>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"

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

template <class T>
using Bits =
    std::conditional_t<sizeof(T) == 1, b8,
                       std::conditional_t<sizeof(T) == 2, b16, std::conditional_t<sizeof(T) == 4, b32, b64>>>;

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

// ------ Arithmetic

#define UNARY(name, T, result)              \
  inline Bits<T> name##_##T(Bits<T> a_) {   \
    const T a = as<T>(a_);                  \
    return bits<T>(static_cast<T>(result)); \
  }
#define BINARY(name, T, result)                       \
  inline Bits<T> name##_##T(Bits<T> a_, Bits<T> b_) { \
    const T a = as<T>(a_), b = as<T>(b_);             \
    return bits<T>(static_cast<T>(result));           \
  }
#define COMPARE(name, T, result)                          \
  inline pred setp_##name##_##T(Bits<T> a_, Bits<T> b_) { \
    const T a = as<T>(a_), b = as<T>(b_);                 \
    return result;                                        \
  }

// Sums, differences and products have the same bits, signed or not.
#define INTEGER(T)                                                                                        \
  BINARY(add, T, as<Bits<T>>(a_) + as<Bits<T>>(b_))                                                       \
  BINARY(sub, T, Bits<T>(a_) - Bits<T>(b_)) BINARY(mul_lo, T, b64{a_} * b_) BINARY(min, T, b < a ? b : a) \
      BINARY(max, T, a < b ? b : a) BINARY(div, T, a / b) BINARY(rem, T, a % b)                           \
          UNARY(neg, T, -static_cast<b64>(a_)) COMPARE(lt, T, a < b) COMPARE(le, T, a <= b)               \
              COMPARE(gt, T, a > b) COMPARE(ge, T, a >= b) COMPARE(eq, T, a == b)                         \
                  COMPARE(ne, T, a != b) inline Bits<T>                                                   \
                      mad_lo_##T(Bits<T> a, Bits<T> b, Bits<T> c) {                                       \
    return static_cast<Bits<T>>(b64{a} * b + c);                                                          \
  }                                                                                                       \
  inline Bits<T> selp_##T(Bits<T> a, Bits<T> b, pred p) { return p ? a : b; }                             \
  inline Bits<T> shr_##T(Bits<T> a, b32 by) {                                                             \
    constexpr b32 kBits = 8 * sizeof(T);                                                                  \
    return by < kBits ? bits<T>(static_cast<T>(as<T>(a) >> by)) : as<T>(a) < 0 ? Bits<T>(-1) : Bits<T>{}; \
  }
INTEGER(s16)
INTEGER(u16) INTEGER(s32) INTEGER(u32) INTEGER(s64) INTEGER(u64)
#define BITWISE(T)                                                                    \
  BINARY(and, T, a& b)                                                                \
  BINARY(or, T, a | b) BINARY(xor, T, a ^ b) UNARY(not, T, ~a) COMPARE(eq, T, a == b) \
      COMPARE(ne, T, a != b) inline T selp_##T(T a, T b, pred p) {                    \
    return p ? a : b;                                                                 \
  }                                                                                   \
  inline T shl_##T(T a, b32 by) { return by < 8 * sizeof(T) ? static_cast<T>(a << by) : T{}; }
    BITWISE(b16) BITWISE(b32) BITWISE(b64)

        inline pred and_pred(pred a, pred b) {
  return a && b;
}
inline pred or_pred(pred a, pred b) { return a || b; }
inline pred xor_pred(pred a, pred b) { return a != b; }
inline pred not_pred(pred a) { return !a; }

inline b32 mul_wide_u16(b16 a, b16 b) { return b32{a} * b; }
inline b64 mul_wide_u32(b32 a, b32 b) { return b64{a} * b; }
inline b64 mul_wide_s32(b32 a, b32 b) { return bits<s64>(s64{as<s32>(a)} * as<s32>(b)); }
inline b32 mul_hi_u32(b32 a, b32 b) { return static_cast<b32>(b64{a} * b >> 32); }
inline b32 shf_l_wrap_b32(b32 low, b32 high, b32 by) {
  return static_cast<b32>((b64{high} << 32 | low) << (by & 31) >> 32);
}

// A comparison whose name ends in u is true of a NaN.
#define FLOATING(T)                                                                                  \
  BINARY(add, T, a + b)                                                                              \
  BINARY(sub, T, a - b) BINARY(mul, T, a* b) UNARY(neg, T, -a) UNARY(abs, T, std::fabs(a))           \
      UNARY(cvt_rmi_##T, T, std::floor(a)) UNARY(cvt_rpi_##T, T, std::ceil(a)) COMPARE(lt, T, a < b) \
          COMPARE(le, T, a <= b) COMPARE(gt, T, a > b) COMPARE(ge, T, a >= b) COMPARE(eq, T, a == b) \
              COMPARE(ne, T, a<b || a> b) COMPARE(equ, T, !(a < b || a > b)) COMPARE(neu, T, a != b) \
                  COMPARE(ltu, T, !(a >= b)) COMPARE(leu, T, !(a > b)) COMPARE(gtu, T, !(a <= b))    \
                      COMPARE(geu, T, !(a < b)) inline Bits<T>                                       \
                          selp_##T(Bits<T> a, Bits<T> b, pred p) {                                   \
    return p ? a : b;                                                                                \
  }                                                                                                  \
  inline Bits<T> fma_rn_##T(Bits<T> a, Bits<T> b, Bits<T> c) {                                       \
    return bits<T>(std::fma(as<T>(a), as<T>(b), as<T>(c)));                                          \
  }
FLOATING(f32)
FLOATING(f64)

    inline b64 fma_rn_f32x2(b64 a, b64 b, b64 c) {
  const auto low = [](b64 v) { return static_cast<b32>(v); };
  const auto high = [](b64 v) { return static_cast<b32>(v >> 32); };
  return b64{fma_rn_f32(high(a), high(b), high(c))} << 32 | fma_rn_f32(low(a), low(b), low(c));
}

#undef UNARY
#undef BINARY
#undef COMPARE
#undef INTEGER
#undef BITWISE
#undef FLOATING

// ------ Conversions

template <class To, class From>
To saturated(From v) {  // of a NaN: 0
  if (v != v) return 0;
  using Limits = std::numeric_limits<To>;
  if (v >= -static_cast<From>(Limits::min())) return Limits::max();
  if (v <= static_cast<From>(Limits::min())) return Limits::min();
  return static_cast<To>(v);
}
inline b32 cvt_rzi_s32_f32(b32 a) { return bits(saturated<s32>(as<f32>(a))); }
inline b64 cvt_rzi_s64_f32(b32 a) { return bits(saturated<s64>(as<f32>(a))); }
inline b32 cvt_rzi_s32_f64(b64 a) { return bits(saturated<s32>(as<f64>(a))); }
inline b64 cvt_rzi_s64_f64(b64 a) { return bits(saturated<s64>(as<f64>(a))); }

inline b64 cvt_s64_s32(b32 a) { return bits(s64{as<s32>(a)}); }
inline b64 cvt_u64_u32(b32 a) { return a; }
inline b64 cvt_u64_u16(b16 a) { return a; }
inline b32 cvt_u32_u64(b64 a) { return static_cast<b32>(a); }
inline b32 cvt_u32_u16(b16 a) { return a; }
inline b16 cvt_u16_u32(b32 a) { return static_cast<b16>(a); }

inline b32 cvt_f32_f16(b16 a) { return bits(__half2float({a})); }
inline b32 cvt_f32_bf16(b16 a) { return bits(__bfloat162float({a})); }
inline b16 cvt_rn_f16_f32(b32 a) { return __float2half_rn(as<f32>(a)).bits; }
inline b16 cvt_rn_bf16_f32(b32 a) { return __float2bfloat16_rn(as<f32>(a)).bits; }

template <class Whole>
void pack(Whole& to, b64 low, b64 high) {
  to = static_cast<Whole>(high << 4 * sizeof(Whole) | low);
}
template <class Whole, class Part>
void unpack(Whole v, Part& low, Part& high) {
  low = static_cast<Part>(v), high = static_cast<Part>(v >> 4 * sizeof(Whole));
}

// ------ Memory. Addresses of shared memory count from the block's beginning.

inline b64 cvta_global_u64(b64 address) { return address; }
inline b64 cvta_to_global_u64(b64 address) { return address; }

enum class Space { global, shared, param, generic };

template <Space S>
unsigned char* place(b64 address, std::size_t bytes) {
  if (address % bytes) cuda_on_cpu::fail("an access of " + std::to_string(bytes) + " bytes is not aligned");
  if (S != Space::shared) return reinterpret_cast<unsigned char*>(address);
  const cuda_on_cpu::Memory memory = cuda_on_cpu::shared_memory();
  if (address > memory.used || memory.used - address < bytes)
    cuda_on_cpu::fail("shared memory is accessed out of bounds");
  return memory.begin + address;
}

// Registers may be wider than what they take; T says how it is extended.
template <Space S, class T, class... Registers>
void load(b64 address, Registers&... to) {
  const unsigned char* from = place<S>(address, sizeof(T) * sizeof...(to));
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
void store(b64 address, Values... values) {
  unsigned char* to = place<S>(address, sizeof(T) * sizeof...(values));
  const auto one = [&](auto v) {
    const auto narrow = static_cast<Bits<T>>(v);
    std::memcpy(to, &narrow, sizeof narrow), to += sizeof narrow;
  };
  (one(values), ...);
}

template <Space S, class T, class... Registers>
void add_atomically(b64 address, std::initializer_list<Bits<T>> added, Registers&... before) {
  auto* at = reinterpret_cast<T*>(place<S>(address, sizeof(T) * sizeof...(before)));
  auto v = added.begin();
  ((before = bits<T>(*at), *at++ += as<T>(*v++)), ...);
}

// ------ Other threads

inline void bar_sync(int line) { cuda_on_cpu::block_barrier(line); }
inline void bar_warp_sync(b32 mask) { cuda_on_cpu::meet(cuda_on_cpu::Kind::sync, mask, 0, 0); }
inline pred vote_sync_any_pred(pred a, b32 mask) {
  return cuda_on_cpu::meet(cuda_on_cpu::Kind::vote, mask, a, 0) != 0;
}

// The lane that is read is `source` if it is one of the segment that `c` describes, else the lane itself.
inline pred shuffle(b32& result, b32 a, int source, bool within, b32 mask) {
  const int from = within ? source : cuda_on_cpu::lane();
  result = static_cast<b32>(cuda_on_cpu::meet(cuda_on_cpu::Kind::shuffle, mask, a, from));
  return within;
}
inline pred shfl_sync_bfly_b32(b32& result, b32 a, b32 lanes, b32 c, b32 mask) {
  const b32 lane = static_cast<b32>(cuda_on_cpu::lane()), segment = c >> 8 & 31, source = lane ^ (lanes & 31);
  return shuffle(result, a, static_cast<int>(source), source <= ((lane & segment) | (c & 31 & ~segment)),
                 mask);
}
inline pred shfl_sync_up_b32(b32& result, b32 a, b32 distance, b32 c, b32 mask) {
  const int lane = cuda_on_cpu::lane(), source = lane - static_cast<int>(distance & 31);
  const b32 segment = c >> 8 & 31;
  return shuffle(result, a, source, source >= static_cast<int>((lane & segment) | (c & 31 & ~segment)), mask);
}
inline pred shfl_sync_idx_b32(b32& result, b32 a, b32 index, b32 c, b32 mask) {
  const b32 lane = static_cast<b32>(cuda_on_cpu::lane()), segment = c >> 8 & 31;
  const b32 source = (lane & segment) | (index & ~segment & 31);
  return shuffle(result, a, static_cast<int>(source), source <= ((lane & segment) | (c & 31 & ~segment)),
                 mask);
}

}  // namespace ptx_on_cpu
