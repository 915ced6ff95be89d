// SPDX-License-Identifier: Apache-2.0
// Stands in for CANN's header of this name: the part of AscendC that the kernels use, by its public
// documentation. Instructions check what is documented of them, then take effect at once; machine.h has the
// rest.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "elements.h"
#include "machine.h"

#define __aicore__
#define __global__
#define __vector__
#define __mix__(cube, vector)
#define __schedmode__(mode)
#define __gm__

namespace AscendC {

using ascend_on_cpu::Access;
using ascend_on_cpu::core;
using ascend_on_cpu::fail;

inline std::int64_t GetBlockIdx() { return core().number; }
inline std::int64_t GetBlockNum() { return core().cores; }

enum class TPosition { GM, VECIN, VECOUT, VECCALC };

// ------ Tensors

template <class T>
class GlobalTensor {
 public:
  void SetGlobalBuffer(T* data, std::uint64_t elements) { data_ = data, elements_ = elements; }
  GlobalTensor operator[](std::uint64_t i) const {
    if (i > elements_) fail("a tensor of the device begins past its end");
    GlobalTensor t;
    t.SetGlobalBuffer(data_ + i, elements_ - i);
    return t;
  }
  T* data() const { return data_; }
  std::uint64_t elements() const { return elements_; }

 private:
  T* data_ = nullptr;
  std::uint64_t elements_ = 0;
};

// Bytes [begin, end) of UB. end is that of its buffer, whatever the tensor's own beginning.
template <class T>
class LocalTensor {
 public:
  LocalTensor() = default;
  LocalTensor(std::int64_t begin, std::int64_t end, TPosition position)
      : begin_(begin), end_(end), position_(position) {}
  LocalTensor operator[](std::uint32_t i) const {
    return {begin_ + static_cast<std::int64_t>(i * sizeof(T)), end_, position_};
  }
  T GetValue(std::uint32_t i) const {
    core().pipes.issue(PIPE_S);
    T v;
    std::memcpy(&v, bytes(PIPE_S, false, i, 1, 1), sizeof v);
    return v;
  }
  void SetValue(std::uint32_t i, T v) const {
    core().pipes.issue(PIPE_S);
    std::memcpy(bytes(PIPE_S, true, i, 1, 1), &v, sizeof v);
  }

  std::int64_t begin() const { return begin_; }
  TPosition position() const { return position_; }

  // For instructions: elements [first, first + count), which the last instruction of pipe p reads or writes.
  unsigned char* bytes(pipe_t p, bool writes, std::int64_t first, std::int64_t count,
                       std::int64_t alignment) const {
    const std::int64_t from = begin_ + first * static_cast<std::int64_t>(sizeof(T)),
                       size = count * static_cast<std::int64_t>(sizeof(T));
    if (from % alignment) fail("an operand is not aligned to " + std::to_string(alignment) + " bytes");
    if (first < 0 || count < 0 || from < 0 || from + size > end_) fail("an operand leaves its buffer in UB");
    writes ? core().pipes.write(p, from, size) : core().pipes.read(p, from, size);
    return core().pipes.ub() + from;
  }
  const T* read(pipe_t p, std::int64_t count, std::int64_t alignment = 32) const {
    return reinterpret_cast<const T*>(bytes(p, false, 0, count, alignment));
  }
  T* write(pipe_t p, std::int64_t count, std::int64_t alignment = 32) const {
    return reinterpret_cast<T*>(bytes(p, true, 0, count, alignment));
  }

 private:
  std::int64_t begin_ = 0, end_ = 0;
  TPosition position_ = TPosition::GM;
};

// ------ Copies

struct DataCopyExtParams {
  DataCopyExtParams(std::uint16_t count, std::uint32_t length, std::uint32_t from, std::uint32_t to,
                    std::uint32_t)
      : blockCount(count), blockLen(length), srcStride(from), dstStride(to) {}
  std::uint16_t blockCount;
  std::uint32_t blockLen, srcStride, dstStride;  // bytes; of UB: between rows, in 32 bytes
};
template <class T>
struct DataCopyPadExtParams {
  DataCopyPadExtParams(bool isPad, int left, int right, T) {
    if (isPad || left || right) fail("the stand-in pads with nothing");
  }
};

template <class T>
void check_copy(const LocalTensor<T>& local, const DataCopyExtParams& p) {
  if (local.position() != TPosition::VECIN && local.position() != TPosition::VECOUT)
    fail("a copy is to or from a buffer that is neither VECIN nor VECOUT");
  if (p.blockCount < 1 || p.blockCount > 4095) fail("a copy of " + std::to_string(p.blockCount) + " blocks");
  if (p.blockLen < 1 || p.blockLen > 2097151 || p.blockLen % sizeof(T))
    fail("a copy of blocks of " + std::to_string(p.blockLen) + " bytes");
}
constexpr std::int64_t in_units(std::int64_t bytes) { return (bytes + 31) / 32 * 32; }

// Each block is filled up to 32 bytes in UB, with what is not said: all ones here.
template <class T>
void DataCopyPad(const LocalTensor<T>& to, const GlobalTensor<T>& from, const DataCopyExtParams& p,
                 const DataCopyPadExtParams<T>&) {
  ascend_on_cpu::pause();
  check_copy(to, p);
  core().pipes.issue(PIPE_MTE2);
  const std::int64_t room = in_units(p.blockLen), size = sizeof(T);
  for (std::int64_t i = 0; i < p.blockCount; ++i) {
    const std::int64_t at = i * (std::int64_t{p.blockLen} + p.srcStride);
    if (static_cast<std::uint64_t>(at + p.blockLen) > from.elements() * sizeof(T))
      fail("a copy leaves its tensor");
    const char* source = reinterpret_cast<const char*>(from.data()) + at;
    ascend_on_cpu::touch(source, p.blockLen, Access::read);
    unsigned char* target =
        to.bytes(PIPE_MTE2, true, i * (room + std::int64_t{p.dstStride} * 32) / size, room / size, 32);
    std::memset(target, 0xff, static_cast<std::size_t>(room));
    std::memcpy(target, source, p.blockLen);
  }
}

template <class T>
void DataCopyPad(const GlobalTensor<T>& to, const LocalTensor<T>& from, const DataCopyExtParams& p) {
  ascend_on_cpu::pause();
  check_copy(from, p);
  core().pipes.issue(PIPE_MTE3);
  const bool adds = core().adds_atomically;
  if (adds && !std::is_same_v<T, float>) fail("an atomic copy of another type than SetAtomicAdd said");
  const std::int64_t room = in_units(p.blockLen), size = sizeof(T);
  for (std::int64_t i = 0; i < p.blockCount; ++i) {
    const std::int64_t at = i * (std::int64_t{p.blockLen} + p.dstStride);
    if (static_cast<std::uint64_t>(at + p.blockLen) > to.elements() * sizeof(T))
      fail("a copy leaves its tensor");
    char* target = reinterpret_cast<char*>(to.data()) + at;
    ascend_on_cpu::touch(target, p.blockLen, adds ? Access::add : Access::write);
    const unsigned char* source =
        from.bytes(PIPE_MTE3, false, i * (room + std::int64_t{p.srcStride} * 32) / size, room / size, 32);
    if (adds)
      for (std::size_t e = 0; e < p.blockLen / sizeof(float); ++e)
        ascend_on_cpu::add_atomically(reinterpret_cast<float*>(target) + e,
                                      reinterpret_cast<const float*>(source)[e]);
    else
      std::memcpy(target, source, p.blockLen);
  }
}

template <class T>
void SetAtomicAdd() {
  static_assert(std::is_same_v<T, float>, "sums are float32");
  core().adds_atomically = true;
}
inline void SetAtomicNone() { core().adds_atomically = false; }

// ------ Flags and barriers

enum class HardEvent { MTE2_V, MTE2_S, V_S, V_MTE2, V_MTE3, S_V, S_MTE2, S_MTE3, MTE3_V, MTE3_S };

constexpr pipe_t source_of(HardEvent e) {
  switch (e) {
    case HardEvent::MTE2_V:
    case HardEvent::MTE2_S: return PIPE_MTE2;
    case HardEvent::V_S:
    case HardEvent::V_MTE2:
    case HardEvent::V_MTE3: return PIPE_V;
    case HardEvent::MTE3_V:
    case HardEvent::MTE3_S: return PIPE_MTE3;
    default: return PIPE_S;
  }
}
constexpr pipe_t target_of(HardEvent e) {
  switch (e) {
    case HardEvent::MTE2_S:
    case HardEvent::V_S:
    case HardEvent::MTE3_S: return PIPE_S;
    case HardEvent::V_MTE2:
    case HardEvent::S_MTE2: return PIPE_MTE2;
    case HardEvent::V_MTE3:
    case HardEvent::S_MTE3: return PIPE_MTE3;
    default: return PIPE_V;
  }
}

template <HardEvent e>
void SetFlag(int id) {
  core().pipes.set_flag(source_of(e), target_of(e), id);
}
template <HardEvent e>
void WaitFlag(int id) {
  core().pipes.wait_flag(source_of(e), target_of(e), id);
}
template <pipe_t p>
void PipeBarrier() {
  static_assert(p != PIPE_S);
  core().pipes.barrier(p);
}
inline void SyncAll() {
  if (!core().pipes.idle()) fail("a core meets the others while its pipes are at work");
  ascend_on_cpu::meet();
}

}  // namespace AscendC

#include "queues.h"
#include "instructions.h"
