// SPDX-License-Identifier: Apache-2.0
// The floating-point environment that kernels are written for, whatever the caller's or the pool's thread
// has: XLA's threads take subnormals for zeros, PyTorch's may, and an offset of -1 plus a subnormal is a live
// tap.
#pragma once

#include <cstdint>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace tapfield {

// Rounding to nearest, subnormals kept, no traps, on this thread for the length of a scope. (Some 4 ns; C's
// fesetenv, which sets the x87 too, takes 180.)
class DefaultFloats {
 public:
  DefaultFloats() : before_(get()) { set(kDefault); }
  ~DefaultFloats() { set(before_); }
  DefaultFloats(const DefaultFloats&) = delete;
  DefaultFloats& operator=(const DefaultFloats&) = delete;

 private:
#if defined __SSE__
  using Register = unsigned;
  static constexpr Register kDefault = 0x1f80;  // all exceptions masked
  static Register get() { return _mm_getcsr(); }
  static void set(Register r) { _mm_setcsr(r); }
#elif defined __aarch64__
  using Register = std::uint64_t;
  static constexpr Register kDefault = 0;
  static Register get() {
    Register r;
    asm volatile("mrs %0, fpcr" : "=r"(r));
    return r;
  }
  static void set(Register r) { asm volatile("msr fpcr, %0" : : "r"(r) : "memory"); }
#else
  using Register = int;
  static constexpr Register kDefault = 0;
  static Register get() { return 0; }
  static void set(Register) {}
#endif
  Register before_;
};

}  // namespace tapfield
