// SPDX-License-Identifier: Apache-2.0
// Part of kernel_operator.h: TPipe, TBuf and TQue. A queue's two flags for each buffer are clocks here: of
// what filled it, when it is enqueued; of what used it, when it is freed.
#pragma once

#include <deque>
#include <vector>

namespace AscendC {

struct QueueBuffer {
  enum { is_free, allocated, enqueued, dequeued } state = is_free;
  std::int64_t begin = 0;
  ascend_on_cpu::Clock clock{};
};

template <TPosition position>
class TBuf {
 public:
  template <class T>
  LocalTensor<T> Get() const {
    if (!bytes) fail("a TBuf is used that was not given memory");
    return {begin, begin + bytes, position};
  }
  std::int64_t begin = 0, bytes = 0;
};

template <TPosition position, int depth>
class TQue {
 public:
  static constexpr pipe_t kFills = position == TPosition::VECIN ? PIPE_MTE2 : PIPE_V;
  static constexpr pipe_t kUses = position == TPosition::VECIN ? PIPE_V : PIPE_MTE3;

  template <class T>
  LocalTensor<T> AllocTensor() {
    for (QueueBuffer& b : buffers)
      if (b.state == QueueBuffer::is_free) {
        b.state = QueueBuffer::allocated;
        core().pipes.wait(kFills, b.clock);
        return tensor<T>(b);
      }
    fail("AllocTensor of a queue whose buffers are all in use");
  }
  template <class T>
  void EnQue(const LocalTensor<T>& t) {
    QueueBuffer& b = find(t.begin(), QueueBuffer::allocated, "EnQue");
    b.state = QueueBuffer::enqueued, b.clock = core().pipes.done_by(kFills);
    if (static_cast<int>(order.size()) == depth) fail("EnQue beyond the queue's depth");
    order.push_back(t.begin());
  }
  template <class T>
  LocalTensor<T> DeQue() {
    if (order.empty()) fail("DeQue of an empty queue");
    QueueBuffer& b = find(order.front(), QueueBuffer::enqueued, "DeQue");
    order.pop_front();
    b.state = QueueBuffer::dequeued;
    core().pipes.wait(kUses, b.clock);
    return tensor<T>(b);
  }
  template <class T>
  void FreeTensor(LocalTensor<T>& t) {
    QueueBuffer& b = find(t.begin(), QueueBuffer::dequeued, "FreeTensor");
    b.state = QueueBuffer::is_free, b.clock = core().pipes.done_by(kUses);
  }
  ~TQue() {
    for (const QueueBuffer& b : buffers)
      if (b.state != QueueBuffer::is_free) ascend_on_cpu::blame("a queue's tensor is not freed");
  }

  std::vector<QueueBuffer> buffers;
  std::int64_t bytes = 0;

 private:
  template <class T>
  LocalTensor<T> tensor(const QueueBuffer& b) const {
    return {b.begin, b.begin + bytes, position};
  }
  QueueBuffer& find(std::int64_t begin, int state, const char* what) {
    for (QueueBuffer& b : buffers)
      if (b.begin == begin && b.state == state) return b;
    fail(std::string(what) + " of a tensor that is not where it should be in its queue");
  }
  std::deque<std::int64_t> order;
};

// Hands out UB from the beginning on.
class TPipe {
 public:
  TPipe() {
    if (core().pipe) fail("a core has two TPipes");
    core().pipe = this;
  }
  ~TPipe() { core().pipe = nullptr; }
  TPipe(const TPipe&) = delete;

  template <TPosition position, int depth>
  void InitBuffer(TQue<position, depth>& queue, int count, std::int64_t bytes) {
    queue.bytes = bytes;
    for (int i = 0; i < count; ++i) queue.buffers.push_back({QueueBuffer::is_free, take(bytes), {}});
  }
  template <TPosition position>
  void InitBuffer(TBuf<position>& buffer, std::int64_t bytes) {
    buffer.begin = take(bytes), buffer.bytes = bytes;
  }
  // An id whose flag is not set now.
  int FetchEventID(HardEvent e) const {
    for (int id = 0; id < ascend_on_cpu::kFlags; ++id)
      if (!core().pipes.flag(source_of(e), target_of(e), id)) return id;
    fail("no flag is left");
  }

 private:
  std::int64_t take(std::int64_t bytes) {
    if (bytes <= 0 || bytes % 32) fail("a buffer of " + std::to_string(bytes) + " bytes");
    const std::int64_t begin = used_;
    used_ += bytes;
    if (used_ > core().pipes.bytes())
      fail("the buffers take " + std::to_string(used_) + " bytes of " + std::to_string(core().pipes.bytes()) +
           " that UB has");
    ascend_on_cpu::note_unified_buffer(used_);
    return begin;
  }
  std::int64_t used_ = 0;
};

}  // namespace AscendC

inline AscendC::TPipe* GetTPipePtr() { return static_cast<AscendC::TPipe*>(ascend_on_cpu::core().pipe); }
