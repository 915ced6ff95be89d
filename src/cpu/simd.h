// SPDX-License-Identifier: Apache-2.0
// What the CPU kernels share inside one SIMD target: loads and stores that convert any dtype to and from the
// type computed in, tails that never touch a byte past their end, and sums across lanes. Included once per
// target.
//
// Conversions to 16 bits round to nearest even and keep NaN a NaN; Highway 1.0.3 truncates to bfloat16
// everywhere and to float16 below AVX2, so those are written here.
#if defined(TAPFIELD_CPU_SIMD_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPFIELD_CPU_SIMD_H_
#undef TAPFIELD_CPU_SIMD_H_
#else
#define TAPFIELD_CPU_SIMD_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "problem.h"

HWY_BEFORE_NAMESPACE();
namespace tapfield::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using hwy::bfloat16_t;
using hwy::float16_t;

// The type that T is computed in, and the bits that T is loaded as.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t, T>;

// Does Highway's masked load and store leave lanes outside the mask alone in memory? Below AVX-512 for 16-bit
// lanes, and below AVX2 for all, they are emulated by full-width access.
template <class B>
constexpr bool kMasksMemory = HWY_TARGET <= HWY_AVX3 || (HWY_TARGET == HWY_AVX2 && sizeof(B) >= 4);
static_assert(HWY_AVX3 < HWY_AVX2 && HWY_AVX2 < HWY_SSE4, "better x86 targets have smaller values");

// The first n (1 <= n < lanes) elements at p; other lanes are 0. Reads those n and nothing else.
template <class D, class B = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadFirst(D d, const B* p, std::size_t n) {
  if constexpr (kMasksMemory<B>) {
    return hn::MaskedLoad(hn::FirstN(d, n), d, p);
  } else {
    HWY_ALIGN B buffer[hn::MaxLanes(D())] = {};
    std::memcpy(buffer, p, n * sizeof(B));
    return hn::Load(d, buffer);
  }
}

template <class D, class B = hn::TFromD<D>>
HWY_INLINE void StoreFirst(hn::Vec<D> v, D d, B* p, std::size_t n) {
  if constexpr (kMasksMemory<B>) {
    hn::BlendedStore(v, hn::FirstN(d, n), d, p);
  } else {
    HWY_ALIGN B buffer[hn::MaxLanes(D())];
    hn::Store(v, d, buffer);
    std::memcpy(p, buffer, n * sizeof(B));
  }
}

// ------ 16-bit conversions, on the bits

template <class D>  // D: float
HWY_INLINE hn::Vec<D> FromBfloat16(D d, hn::Vec<hn::Rebind<std::uint16_t, D>> bits) {
  const hn::Rebind<std::uint32_t, D> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}

// v rounded, in the upper halves of its lanes: adds just under half of the last kept digit, or exactly half
// if that digit is odd; a NaN is made quiet instead, so that cutting leaves one.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint32_t, D>> RoundBfloat16(D, hn::Vec<D> v) {
  const hn::Rebind<std::uint32_t, D> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
  const auto nan = hn::RebindMask(du, hn::Not(hn::Eq(v, v)));
  return hn::IfThenElse(nan, quiet, rounded);
}

template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint16_t, D>> ToBfloat16(D d, hn::Vec<D> v) {
  const hn::Rebind<std::int32_t, D> di;
  return hn::DemoteTo(hn::Rebind<std::uint16_t, D>(),
                      hn::BitCast(di, hn::ShiftRight<16>(RoundBfloat16(d, v))));
}

template <class D>
HWY_INLINE hn::Vec<D> FromFloat16(D d, hn::Vec<hn::Rebind<std::uint16_t, D>> bits) {
  const hn::Rebind<float16_t, D> d16;
  if constexpr (HWY_TARGET <= HWY_AVX2 || HWY_TARGET == HWY_NEON) {
    return hn::PromoteTo(d, hn::BitCast(d16, bits));
  } else {
    // Exponent and fraction in float32's place, then scaled by 2^112: subnormals become normal by themselves.
    const hn::Rebind<std::uint32_t, D> du;
    const auto wide = hn::PromoteTo(du, bits);
    const auto sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(du, 0x8000)));
    const auto magnitude = hn::ShiftLeft<13>(hn::And(wide, hn::Set(du, 0x7fff)));
    const auto scaled = hn::BitCast(du, hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f)));
    const auto special = hn::Gt(magnitude, hn::Set(du, 0x0f7fffff));  // Inf, NaN: exponent 31
    const auto quiet = hn::IfThenElseZero(hn::Gt(magnitude, hn::Set(du, 0x0f800000)), hn::Set(du, 0x400000));
    const auto infinite = hn::Or(hn::Or(magnitude, hn::Set(du, 0x7f800000)), quiet);
    return hn::BitCast(d, hn::Or(hn::IfThenElse(special, infinite, scaled), sign));
  }
}

template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint16_t, D>> ToFloat16(D d, hn::Vec<D> v) {
  const hn::Rebind<std::uint16_t, D> d16;
  if constexpr (HWY_TARGET <= HWY_AVX2 || HWY_TARGET == HWY_NEON) {
    return hn::BitCast(d16, hn::DemoteTo(hn::Rebind<float16_t, D>(), v));  // one instruction, to nearest even
  } else {
    const hn::Rebind<std::uint32_t, D> du;
    const hn::Rebind<std::int32_t, D> di;
    const auto bits = hn::BitCast(du, v);
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffffff));
    const auto sign = hn::ShiftRight<16>(hn::Xor(bits, magnitude));
    // Normal: rebias the exponent by -112 and round as above; a carry runs into the exponent, up to infinity.
    const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1));
    const auto normal = hn::ShiftRight<13>(hn::Add(hn::Add(magnitude, hn::Set(du, 0xc8000fff)), odd));
    // Subnormal: beside 0.5 a float32's last digit is 2^-24, the last digit here; the addition rounds.
    const auto half = hn::Set(d, 0.5f);
    const auto subnormal =
        hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, magnitude), half)), hn::BitCast(du, half));
    auto r = hn::IfThenElse(hn::Gt(hn::Set(du, 0x38800000), magnitude), subnormal, normal);
    r = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x477fffff)), hn::Set(du, 0x7c00), r);  // from 65536 on
    r = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7f800000)), hn::Set(du, 0x7e00), r);  // NaN
    return hn::DemoteTo(d16, hn::BitCast(di, hn::Or(r, sign)));
  }
}

// ------ Loads and stores of T as Compute<T>

template <class T, class D, class V>
HWY_INLINE hn::Vec<D> Widen(D d, V bits) {
  if constexpr (std::is_same_v<T, bfloat16_t>)
    return FromBfloat16(d, bits);
  else if constexpr (std::is_same_v<T, float16_t>)
    return FromFloat16(d, bits);
  else
    return bits;
}

template <class T, class D>
HWY_INLINE auto Narrow(D d, hn::Vec<D> v) {
  if constexpr (std::is_same_v<T, bfloat16_t>)
    return ToBfloat16(d, v);
  else if constexpr (std::is_same_v<T, float16_t>)
    return ToFloat16(d, v);
  else
    return v;
}

// a and then b, of 16 bits.
template <class T, class D>
HWY_INLINE auto Narrow2(D d, hn::Vec<D> a, hn::Vec<D> b) {
  if constexpr (std::is_same_v<T, bfloat16_t>) {
    const hn::Repartition<std::uint16_t, D> d16;
    return hn::ConcatOdd(d16, hn::BitCast(d16, RoundBfloat16(d, b)), hn::BitCast(d16, RoundBfloat16(d, a)));
  } else {
    return hn::Combine(hn::Repartition<std::uint16_t, D>(), Narrow<T>(d, b), Narrow<T>(d, a));
  }
}

template <class D, class T>
HWY_INLINE hn::Vec<D> LoadT(D d, const T* p) {
  const hn::Rebind<Bits<T>, D> db;
  return Widen<T>(d, hn::LoadU(db, reinterpret_cast<const Bits<T>*>(p)));
}

template <class D, class T>
HWY_INLINE void StoreT(hn::Vec<D> v, D d, T* p) {
  const hn::Rebind<Bits<T>, D> db;
  hn::StoreU(Narrow<T>(d, v), db, reinterpret_cast<Bits<T>*>(p));
}

// kTail: the first n lanes, n < lanes. Otherwise all, and n is not looked at. One loop body serves both.
template <bool kTail, class D, class T>
HWY_INLINE hn::Vec<D> LoadN(D d, const T* p, std::size_t n) {
  const hn::Rebind<Bits<T>, D> db;
  if constexpr (kTail)
    return Widen<T>(d, LoadFirst(db, reinterpret_cast<const Bits<T>*>(p), n));
  else
    return LoadT(d, p);
}

template <bool kTail, class D, class T>
HWY_INLINE void StoreN(hn::Vec<D> v, D d, T* p, std::size_t n) {
  const hn::Rebind<Bits<T>, D> db;
  if constexpr (kTail)
    StoreFirst(Narrow<T>(d, v), db, reinterpret_cast<Bits<T>*>(p), n);
  else
    StoreT(v, d, p);
}

// ------ Sums across lanes

// out[0..] = the sum of v's 128-bit blocks.
template <class D, class F>
HWY_INLINE void SumBlocks(D d, hn::Vec<D> v, F* HWY_RESTRICT out) {
  if constexpr (hn::MaxLanes(D()) * sizeof(F) > 16) {
    const hn::Half<D> dh;
    SumBlocks(dh, hn::Add(hn::LowerHalf(dh, v), hn::UpperHalf(dh, v)), out);
  } else {
    hn::StoreU(v, d, out);
  }
}

// Every 128-bit block of the result is [a, b, c, e], each summed over that block's lanes. Float.
template <class D>
HWY_INLINE hn::Vec<D> SumWithinBlocks(D d, hn::Vec<D> a, hn::Vec<D> b, hn::Vec<D> c, hn::Vec<D> e) {
  const auto ac = hn::Add(hn::InterleaveLower(d, a, c), hn::InterleaveUpper(d, a, c));
  const auto be = hn::Add(hn::InterleaveLower(d, b, e), hn::InterleaveUpper(d, b, e));
  return hn::Add(hn::InterleaveLower(d, ac, be), hn::InterleaveUpper(d, ac, be));
}

// out[4 * j ..] = the sum of v[j]'s blocks, for four vectors of float: in one order, whoever else is with
// them.
template <class D, class F>
HWY_INLINE void SumBlocks4(D d, const hn::Vec<D> (&v)[4], F* HWY_RESTRICT out) {
  constexpr std::size_t kBlocks = hn::MaxLanes(D()) / 4;
  const auto halves = [d](hn::Vec<D> a, hn::Vec<D> b) HWY_ATTR {  // [a's halves added | b's]
    return hn::Add(hn::ConcatLowerLower(d, b, a), hn::ConcatUpperUpper(d, b, a));
  };
  if constexpr (kBlocks == 1) {
    for (int j = 0; j < 4; ++j) hn::StoreU(v[j], d, out + 4 * j);
  } else if constexpr (kBlocks == 2) {
    hn::StoreU(halves(v[0], v[1]), d, out);
    hn::StoreU(halves(v[2], v[3]), d, out + 8);
  } else {  // pairs of blocks [0 0 1 1], [2 2 3 3]; then neighbours are added
    const auto a = halves(v[0], v[1]), b = halves(v[2], v[3]);
    const auto even = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(b), a),
               odd = hn::OddEvenBlocks(b, hn::SwapAdjacentBlocks(a));
    const auto sum = hn::Add(even, odd);  // [0, 2, 1, 3]
    const hn::Half<D> dh;
    const auto low = hn::LowerHalf(dh, sum), high = hn::UpperHalf(dh, sum);
    hn::StoreU(hn::ConcatLowerLower(dh, high, low), dh, out);
    hn::StoreU(hn::ConcatUpperUpper(dh, high, low), dh, out + 8);
  }
}

// Every 128-bit block of the result is [a, b], each summed over that block's lanes. Double.
template <class D>
HWY_INLINE hn::Vec<D> SumPairs(D d, hn::Vec<D> a, hn::Vec<D> b) {
  return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
}

// out[0..3] = the sums of a, b, c, e over their lanes, in one fixed order. Double.
template <class D>
HWY_INLINE void SumLanes4(D d, hn::Vec<D> a, hn::Vec<D> b, hn::Vec<D> c, hn::Vec<D> e,
                          double* HWY_RESTRICT out) {
  SumBlocks(d, SumPairs(d, a, b), out);
  SumBlocks(d, SumPairs(d, c, e), out + 2);
}

// Four sums over lanes that grow vector by vector: `parts` holds a, b, c, e of every 128-bit block.
template <class F>
constexpr std::size_t kDotParts = sizeof(F) / 4 * hn::MaxLanes(hn::ScalableTag<F>());

template <class D, class F = hn::TFromD<D>>
HWY_INLINE void AddParts(D d, const hn::Vec<D> (&v)[4], F* HWY_RESTRICT parts, bool first) {
  const auto add = [&](hn::Vec<D> more, F* to)
                       HWY_ATTR { hn::Store(first ? more : hn::Add(hn::Load(d, to), more), d, to); };
  if constexpr (sizeof(F) == 4) {
    add(SumWithinBlocks(d, v[0], v[1], v[2], v[3]), parts);
  } else {
    add(SumPairs(d, v[0], v[1]), parts);
    add(SumPairs(d, v[2], v[3]), parts + hn::MaxLanes(D()));
  }
}

// out [4][4] = the sums of four neighbours in parts [4][kDotParts].
template <class F>
HWY_INLINE void SumParts(const F* HWY_RESTRICT parts, F* HWY_RESTRICT out) {
  const hn::ScalableTag<F> d;
  constexpr std::size_t kParts = kDotParts<F>;
  if constexpr (sizeof(F) == 4) {
    const hn::Vec<decltype(d)> v[4] = {hn::Load(d, parts), hn::Load(d, parts + kParts),
                                       hn::Load(d, parts + 2 * kParts), hn::Load(d, parts + 3 * kParts)};
    SumBlocks4(d, v, out);
  } else {
    for (int j = 0; j < 8; ++j) SumBlocks(d, hn::Load(d, parts + j * hn::MaxLanes(d)), out + 2 * j);
  }
}

}  // namespace tapfield::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
