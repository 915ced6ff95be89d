// SPDX-License-Identifier: Apache-2.0
#include "races.h"

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "machine.h"

namespace cuda_on_cpu {
namespace {

enum class Access { load, store, atomic };

// Of one place: its last store or atomic, and its loads since.
struct Past {
  std::int64_t grid = 0;
  Moment stored{}, loaded{};
  bool any_stored = false, atomically = false, any_loaded = false;
  bool by_many = false, by_many_warps = false, by_many_blocks = false;  // loaded
};

constexpr std::uintptr_t kPlace = 2, kPage = 4096;  // bytes of a place: the smallest element

struct Page {
  Past at[kPage / kPlace];
};

std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages;
long long checked = 0;

Past& past_of(std::uintptr_t address) {
  static std::uintptr_t last = 0;
  static Page* page = nullptr;
  if (!page || address / kPage != last) {
    last = address / kPage;
    auto& p = pages[last];
    if (!p) p = std::make_unique<Page>();
    page = p.get();
  }
  return page->at[address % kPage / kPlace];
}

bool before(const Moment& then, const Moment& now) {
  if (then.block != now.block) return false;
  if (then.thread == now.thread || then.barriers < now.barriers) return true;
  return then.thread / 32 == now.thread / 32 && then.warp_syncs < now.warp_syncs;
}

bool loads_before(const Past& past, const Moment& now) {
  if (past.by_many_blocks || past.loaded.block != now.block) return false;
  if (past.loaded.barriers < now.barriers) return true;
  if (past.by_many_warps || past.loaded.thread / 32 != now.thread / 32) return false;
  if (past.loaded.warp_syncs < now.warp_syncs) return true;
  return !past.by_many && past.loaded.thread == now.thread;
}

void note_load(Past& past, const Moment& now) {
  if (!past.any_loaded || before(past.loaded, now)) {
    // Earlier loads, if any, are before this one: it stands for them, unless others were not.
    if (!past.any_loaded || loads_before(past, now))
      past.by_many = past.by_many_warps = past.by_many_blocks = false;
  } else {
    past.by_many = true;
    past.by_many_warps |= past.loaded.thread / 32 != now.thread / 32;
    past.by_many_blocks |= past.loaded.block != now.block;
  }
  past.any_loaded = true, past.loaded = now;
}

const char* check(Past& past, Access access, const Moment& now) {
  if (past.any_stored && !(access == Access::atomic && past.atomically) && !before(past.stored, now))
    return access == Access::load ? "a load races with a store" : "a store races with a store";
  if (access == Access::load) return note_load(past, now), nullptr;
  if (past.any_loaded && !loads_before(past, now)) return "a store races with a load";
  past.stored = now, past.any_stored = true, past.atomically = access == Access::atomic,
  past.any_loaded = false;
  return nullptr;
}

void note(const void* p, std::size_t bytes, Access access) {
  if (!in_grid()) return;
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  const auto here = reinterpret_cast<std::uintptr_t>(&address);
  if (address - (here - (64 << 10)) < (128 << 10)) return;  // the fiber's own stack
  const Memory shared = shared_memory();
  const std::uintptr_t in_shared = address - reinterpret_cast<std::uintptr_t>(shared.begin);
  const bool is_shared = in_shared < shared.room;
  if (is_shared && in_shared + bytes > shared.used) fail("shared memory is accessed out of bounds");
  const Moment moment = now();
  ++checked;
  // A block's shared memory has nothing to do with another's.
  const std::int64_t grid = grids_begun() * (std::int64_t{1} << 32) + (is_shared ? moment.block + 1 : 0);
  for (std::uintptr_t at = address / kPlace * kPlace; at < address + bytes; at += kPlace) {
    Past& past = past_of(at);
    if (past.grid != grid) past = Past{}, past.grid = grid;
    if (const char* found = check(past, access, moment))
      fail(std::string(found) + (is_shared ? " in shared memory" : " in global memory") + ", thread " +
           std::to_string(moment.thread) + " of block " + std::to_string(moment.block));
  }
}

}  // namespace

void atomic_access(const void* p, std::size_t bytes) { note(p, bytes, Access::atomic); }
long long accesses_checked() { return checked; }

}  // namespace cuda_on_cpu

// ------ What the compiler calls

using cuda_on_cpu::Access;

#define LOADS_AND_STORES(bytes)                                                             \
  void __tsan_read##bytes(void* p) { cuda_on_cpu::note(p, bytes, Access::load); }           \
  void __tsan_write##bytes(void* p) { cuda_on_cpu::note(p, bytes, Access::store); }         \
  void __tsan_unaligned_read##bytes(void* p) { cuda_on_cpu::note(p, bytes, Access::load); } \
  void __tsan_unaligned_write##bytes(void* p) { cuda_on_cpu::note(p, bytes, Access::store); }

extern "C" {
LOADS_AND_STORES(1)
LOADS_AND_STORES(2)
LOADS_AND_STORES(4)
LOADS_AND_STORES(8)
LOADS_AND_STORES(16)
void __tsan_read_range(void* p, unsigned long bytes) { cuda_on_cpu::note(p, bytes, Access::load); }
void __tsan_write_range(void* p, unsigned long bytes) { cuda_on_cpu::note(p, bytes, Access::store); }
// A guard of a static variable: of host code.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) {
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
