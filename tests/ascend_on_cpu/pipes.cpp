// SPDX-License-Identifier: Apache-2.0
#include "pipes.h"

#include <algorithm>
#include <string>

#include "machine.h"

namespace ascend_on_cpu {

const char* name_of(pipe_t p) {
  constexpr const char* kNames[] = {"S", "V", "MTE2", "MTE3", "ALL"};
  return kNames[p];
}

Pipes::Pipes(std::int64_t bytes)
    : memory_(static_cast<std::size_t>(bytes), 0xff), blocks_(static_cast<std::size_t>(bytes / kBlock)) {}

void Pipes::issue(pipe_t p) {
  ++issued_[p];
  for (int q = 0; q < kPipes; ++q)
    if (q != PIPE_S) known_[p][q] = std::max(known_[p][q], known_[PIPE_S][q]);
  if (p == PIPE_S) known_[p][p] = issued_[p] - 1;  // the scalar unit does one thing after the other
}

void Pipes::check(pipe_t p, pipe_t other, std::uint32_t instruction, const char* what,
                  std::int64_t block) const {
  if (instruction <= known_[p][other] || (p == other && instruction == issued_[p])) return;
  fail(std::string(name_of(p)) + " " + what + " " + name_of(other) +
       (p == other ? " without a barrier" : " without waiting for it") + ", at byte " +
       std::to_string(block * kBlock) + " of UB");
}

void Pipes::read(pipe_t p, std::int64_t begin, std::int64_t bytes) {
  for (std::int64_t i = begin / kBlock; i * kBlock < begin + bytes; ++i) {
    Block& b = blocks_[static_cast<std::size_t>(i)];
    check(p, b.writer, b.written, "reads what is written by", i);
    b.read[p] = issued_[p];
  }
}

void Pipes::write(pipe_t p, std::int64_t begin, std::int64_t bytes) {
  for (std::int64_t i = begin / kBlock; i * kBlock < begin + bytes; ++i) {
    Block& b = blocks_[static_cast<std::size_t>(i)];
    check(p, b.writer, b.written, "overwrites what is written by", i);
    for (int q = 0; q < kPipes; ++q)
      check(p, static_cast<pipe_t>(q), b.read[q], "overwrites what is read by", i);
    b = {issued_[p], p, {}};
  }
}

Clock Pipes::done_by(pipe_t p) const {
  Clock c = known_[p];
  c[p] = issued_[p];
  return c;
}

void Pipes::wait(pipe_t p, const Clock& clock) {
  for (int q = 0; q < kPipes; ++q) known_[p][q] = std::max(known_[p][q], clock[q]);
}

void Pipes::barrier(pipe_t p) {
  if (p == PIPE_ALL)
    known_.fill(issued_);
  else
    known_[p][p] = issued_[p];
}

void Pipes::set_flag(pipe_t from, pipe_t to, int id) {
  if (id < 0 || id >= kFlags) fail("flag " + std::to_string(id) + " does not exist");
  Flag& f = flags_[from][to][id];
  if (f.set) fail(std::string("a flag ") + name_of(from) + "_" + name_of(to) + " is set twice");
  f = {true, done_by(from)};
}

void Pipes::wait_flag(pipe_t from, pipe_t to, int id) {
  if (id < 0 || id >= kFlags) fail("flag " + std::to_string(id) + " does not exist");
  Flag& f = flags_[from][to][id];
  if (!f.set)
    fail(std::string("a flag ") + name_of(from) + "_" + name_of(to) + " is waited for, but not set");
  wait(to, f.clock);
  f.set = false;
}

bool Pipes::idle() const { return known_[PIPE_S] == issued_; }

void Pipes::finish() const {
  for (int from = 0; from < kPipes; ++from)
    for (int to = 0; to < kPipes; ++to)
      for (int id = 0; id < kFlags; ++id)
        if (flags_[from][to][id].set)
          fail(std::string("a flag ") + name_of(static_cast<pipe_t>(from)) + "_" +
               name_of(static_cast<pipe_t>(to)) + " is set and never waited for");
}

}  // namespace ascend_on_cpu
