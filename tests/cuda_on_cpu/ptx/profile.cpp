// SPDX-License-Identifier: Apache-2.0
#include "profile.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "machine.h"

namespace ptx_on_cpu {
namespace {

constexpr int kWarp = 32, kSector = 32, kBanks = 32, kWord = 4;

// An instruction of a warp: its line, and how often its lanes had been at its block.
using Moment = std::tuple<int, int>;

struct One {  // lane's access
  int lane;
  std::uint64_t address;
};
struct Instruction {
  Space space;
  Access access;
  int bytes;
  std::vector<One> lanes;
};

struct Thread {
  std::vector<int> visits;  // [basic block]
  int block = 0;
};

std::vector<Thread> threads;
std::vector<int> lengths;                           // [basic block]: its instructions
std::vector<std::map<Moment, Instruction>> memory;  // [warp]
Counts counts;

template <class T>
T& grown(std::vector<T>& v, int i) {
  if (static_cast<int>(v.size()) <= i) v.resize(static_cast<std::size_t>(i) + 1);
  return v[static_cast<std::size_t>(i)];
}

int sectors(const Instruction& instruction) {
  std::set<std::uint64_t> touched;
  for (const One& one : instruction.lanes) touched.insert(one.address / kSector);
  return static_cast<int>(touched.size());
}

int passes(const Instruction& instruction) {
  const int together = kWarp * kWord / std::max(instruction.bytes, kWord);  // lanes
  int all = 0;
  for (int first = 0; first < kWarp; first += together) {
    std::map<std::uint64_t, int> words;  // how many lanes want it
    for (const One& one : instruction.lanes)
      if (one.lane / together == first / together)
        for (int at = 0; at < instruction.bytes; at += kWord) ++words[(one.address + at) / kWord];
    int of_bank[kBanks] = {};
    for (auto [word, lanes] : words) of_bank[word % kBanks] += instruction.access == Access::add ? lanes : 1;
    all += *std::max_element(of_bank, of_bank + kBanks);
  }
  return all;
}

void count_block() {
  for (std::size_t first = 0; first < threads.size(); first += kWarp)
    for (std::size_t block = 0; block < lengths.size(); ++block) {
      int most = 0;
      for (std::size_t t = first; t < std::min(first + kWarp, threads.size()); ++t)
        if (block < threads[t].visits.size()) most = std::max(most, threads[t].visits[block]);
      counts.instructions += static_cast<double>(most) * lengths[block];
    }
  for (const auto& warp : memory)
    for (const auto& [moment, instruction] : warp) {
      if (instruction.space == Space::shared)
        counts.passes += passes(instruction);
      else if (instruction.access == Access::load)
        counts.loaded += sectors(instruction);
      else
        (instruction.access == Access::store ? counts.stored : counts.added) += sectors(instruction);
    }
  threads.clear(), memory.clear(), lengths.clear();
}

}  // namespace

void enter(int number, int instructions) {
  Thread& t = grown(threads, cuda_on_cpu::now().thread);
  ++grown(t.visits, number);
  t.block = number;
  grown(lengths, number) = instructions;
}

void note(int line, Space space, Access access, std::uint64_t address, std::size_t bytes) {
  if (space == Space::param) return;
  const int thread = cuda_on_cpu::now().thread;
  const Thread& t = grown(threads, thread);
  auto& at = grown(memory, thread / kWarp)[{line, t.visits[static_cast<std::size_t>(t.block)]}];
  at.space = space, at.access = access, at.bytes = static_cast<int>(bytes);
  at.lanes.push_back({thread % kWarp, address});
}

void begin_profile() {
  counts = {};
  cuda_on_cpu::options().after_block = count_block;
}

Counts end_profile() {
  cuda_on_cpu::options().after_block = nullptr;
  return counts;
}

}  // namespace ptx_on_cpu
