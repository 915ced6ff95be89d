// SPDX-License-Identifier: Apache-2.0
// Part of kernel_operator.h: the vector unit's instructions. Operands begin at multiples of 32 bytes.
#pragma once

namespace AscendC {

inline void begin_vector(std::int64_t count) {
  if (count < 1) fail("a vector instruction of " + std::to_string(count) + " elements");
  core().pipes.issue(PIPE_V);
}

template <class T>
void Duplicate(const LocalTensor<T>& to, T value, std::int32_t count) {
  begin_vector(count);
  T* d = to.write(PIPE_V, count);
  for (std::int32_t i = 0; i < count; ++i) d[i] = value;
}

inline void Muls(const LocalTensor<float>& to, const LocalTensor<float>& from, float scalar,
                 std::int32_t count) {
  begin_vector(count);
  const float* s = from.read(PIPE_V, count);
  float* d = to.write(PIPE_V, count);
  for (std::int32_t i = 0; i < count; ++i) d[i] = s[i] * scalar;
}

// to += scalar * from
inline void Axpy(const LocalTensor<float>& to, const LocalTensor<float>& from, float scalar,
                 std::int32_t count) {
  begin_vector(count);
  const float* s = from.read(PIPE_V, count);
  to.read(PIPE_V, count);
  float* d = to.write(PIPE_V, count);
  for (std::int32_t i = 0; i < count; ++i) d[i] += scalar * s[i];
}

template <class Operation>
void binary(const LocalTensor<float>& to, const LocalTensor<float>& a, const LocalTensor<float>& b,
            std::int32_t count, const Operation& operation) {
  begin_vector(count);
  const float *p = a.read(PIPE_V, count), *q = b.read(PIPE_V, count);
  float* d = to.write(PIPE_V, count);
  for (std::int32_t i = 0; i < count; ++i) d[i] = operation(p[i], q[i]);
}
inline void Mul(const LocalTensor<float>& to, const LocalTensor<float>& a, const LocalTensor<float>& b,
                std::int32_t count) {
  binary(to, a, b, count, [](float x, float y) { return x * y; });
}
inline void Add(const LocalTensor<float>& to, const LocalTensor<float>& a, const LocalTensor<float>& b,
                std::int32_t count) {
  binary(to, a, b, count, [](float x, float y) { return x + y; });
}

enum class RoundMode { CAST_NONE, CAST_RINT };

template <class To, class From>
void Cast(const LocalTensor<To>& to, const LocalTensor<From>& from, RoundMode mode, std::int32_t count) {
  static_assert(sizeof(To) != sizeof(From), "between float32 and a 16-bit type");
  if ((sizeof(To) > sizeof(From)) != (mode == RoundMode::CAST_NONE))
    fail("this cast does not take this rounding");
  begin_vector(count);
  const From* s = from.read(PIPE_V, count);
  To* d = to.write(PIPE_V, count);
  for (std::int32_t i = 0; i < count; ++i) d[i] = To(static_cast<float>(s[i]));
}

enum class ReduceType { SUM };

// Element r of `to` is the sum of `mask` elements, row r's; rows begin row_step * 32 bytes apart.
template <ReduceType type>
void ReduceRepeat(const LocalTensor<float>& to, const LocalTensor<float>& from, std::int32_t mask,
                  std::int32_t rows, std::int32_t to_step, std::int32_t block_step, std::int32_t row_step) {
  if (mask < 1 || mask > 64) fail("a reduction of " + std::to_string(mask) + " elements a row");
  if (rows < 1 || rows > 255) fail("a reduction of " + std::to_string(rows) + " rows");
  if (to_step != 1 || block_step != 1) fail("the stand-in reduces adjacent blocks to adjacent sums");
  begin_vector(rows);
  float sums[255];
  for (std::int32_t r = 0; r < rows; ++r) {
    float v[64] = {};
    std::memcpy(v, from[static_cast<std::uint32_t>(r * row_step * 8)].read(PIPE_V, mask),
                sizeof(float) * mask);
    for (int half = 32; half; half /= 2)  // neighbours first
      for (int i = 0; i < half; ++i) v[i] = v[2 * i] + v[2 * i + 1];
    sums[r] = v[0];
  }
  std::memcpy(to.write(PIPE_V, rows, 4), sums, sizeof(float) * static_cast<std::size_t>(rows));
}

}  // namespace AscendC
