// SPDX-License-Identifier: Apache-2.0
// A core's unified buffer (UB) and its pipes. Kernels run in program order here; on a core pipes run side by
// side. So for each block of UB it is noted which instruction of which pipe last wrote it and which have read
// it since, and for each pipe up to which instruction of every other it has waited: a vector clock. An access
// that was not waited for is a Failure.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

enum pipe_t { PIPE_S, PIPE_V, PIPE_MTE2, PIPE_MTE3, PIPE_ALL };

namespace ascend_on_cpu {

constexpr int kPipes = 4;
constexpr int kFlags = 8;  // of each pair of pipes
using Clock = std::array<std::uint32_t, kPipes>;

const char* name_of(pipe_t p);

class Pipes {
 public:
  explicit Pipes(std::int64_t bytes = 0);

  unsigned char* ub() { return memory_.data(); }
  std::int64_t bytes() const { return static_cast<std::int64_t>(memory_.size()); }

  // An instruction begins: it may not start before what the scalar unit, which issues it, has waited for.
  void issue(pipe_t p);
  // The instruction last issued to p reads or writes UB.
  void read(pipe_t p, std::int64_t begin, std::int64_t bytes);
  void write(pipe_t p, std::int64_t begin, std::int64_t bytes);

  // All that p has been given so far, and what that has waited for.
  Clock done_by(pipe_t p) const;
  void wait(pipe_t p, const Clock& clock);
  void barrier(pipe_t p);

  void set_flag(pipe_t from, pipe_t to, int id);
  void wait_flag(pipe_t from, pipe_t to, int id);
  bool flag(pipe_t from, pipe_t to, int id) const { return flags_[from][to][id].set; }

  // Nothing is under way in any pipe.
  bool idle() const;
  // Fails where a flag is still set.
  void finish() const;

 private:
  static constexpr std::int64_t kBlock = 32;
  struct Block {
    std::uint32_t written = 0;
    pipe_t writer = PIPE_S;
    Clock read{};
  };
  struct Flag {
    bool set = false;
    Clock clock{};
  };
  void check(pipe_t p, pipe_t other, std::uint32_t instruction, const char* what, std::int64_t block) const;

  std::vector<unsigned char> memory_;
  std::vector<Block> blocks_;
  Clock issued_{};
  std::array<Clock, kPipes> known_{};
  Flag flags_[kPipes][kPipes][kFlags];
};

}  // namespace ascend_on_cpu
