// SPDX-License-Identifier: Apache-2.0
// Threads and scratch. A backend never makes threads: it hands items to Workers, which run them on oneTBB or
// on the caller's own parallel-for. A backend never allocates: it carves its scratch from one block.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "floats.h"
#include "tapfield/tapfield.hpp"

namespace tapfield {

// Runs independent items. Results must not depend on which slot runs an item, nor in which order.
class Workers {
 public:
  // `work`: elements of y or grad. A call that names neither threads nor a parallel-for runs on one thread
  // below kShared of them: some 20 us of work, about what it costs to wake a second thread twice.
  static constexpr std::int64_t kShared = 1 << 16;
  Workers(const Execution& execution, std::int64_t work);

  // At most this many items run at once; `slot` below is in [0, slots()) and owned by one item at a time.
  int slots() const { return slots_; }

  // Calls item(i, slot) once for every i in [0, items) and returns when all are done: what they wrote is then
  // visible to the caller. Items must not throw or wait. Each slot starts with its own share of the items,
  // then helps the others. Items run in the default floating-point environment, whoever runs them.
  template <class Item>
  void run(std::int64_t items, const Item& item) const {
    const DefaultFloats of_the_caller;
    const int slots = items < slots_ ? static_cast<int>(items) : slots_;
    if (slots <= 1) {
      for (std::int64_t i = 0; i < items; ++i) item(i, 0);
      return;
    }
    Share<Item> share{item, items, slots,
                      std::make_unique<std::atomic<std::int64_t>[]>(static_cast<std::size_t>(slots))};
    for (int s = 0; s < slots; ++s)
      share.next[static_cast<std::size_t>(s)].store(share.begin(s), std::memory_order_relaxed);
    dispatch(slots, &Share<Item>::body, &share);
  }

 private:
  template <class Item>
  struct Share {
    const Item& item;
    std::int64_t items;
    int slots;
    std::unique_ptr<std::atomic<std::int64_t>[]>
        next;  // [slots]: first item of each share that nobody has taken

    std::int64_t begin(int s) const { return items / slots * s + (items % slots < s ? items % slots : s); }
    static void body(void* context, std::int64_t first, std::int64_t last) {
      const DefaultFloats of_a_slot;
      const Share& self = *static_cast<const Share*>(context);
      for (int slot = static_cast<int>(first); slot < last; ++slot)
        for (int k = 0; k < self.slots; ++k) {
          const int s = (slot + k) % self.slots;
          auto& next = self.next[static_cast<std::size_t>(s)];
          for (;;) {
            const std::int64_t i = next.fetch_add(1, std::memory_order_relaxed);
            if (i >= self.begin(s + 1)) break;
            self.item(i, slot);
          }
        }
    }
  };

  void dispatch(int n, tapfield_parallel_body body, void* context) const;

  int slots_;
  tapfield_parallel_for parallel_for_;
  void* pool_;
};

// Cuts arrays off one block of scratch, each aligned to a 64-byte line. Without a block it only measures, so
// that a kernel's workspace size and its use of it are the same lines of code.
class Carver {
 public:
  static constexpr std::size_t kAlign = 64;
  explicit Carver(void* block = nullptr) : block_(static_cast<char*>(block)) {}
  template <class T>
  T* take(std::int64_t count) {
    char* p = block_ ? block_ + used_ : nullptr;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return reinterpret_cast<T*>(p);
  }
  std::size_t used() const { return used_; }

 private:
  char* block_;
  std::size_t used_ = 0;
};

// One block of scratch for the length of a call: the caller's workspace (throws if it is too small or not
// aligned), or one that the library keeps for later calls.
class Scratch {
 public:
  Scratch(std::size_t bytes, const Execution& execution);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* block() const { return block_; }

 private:
  void* block_ = nullptr;
  std::size_t owned_bytes_ = 0;  // 0: the caller's
};

}  // namespace tapfield
