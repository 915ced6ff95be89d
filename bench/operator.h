// SPDX-License-Identifier: Apache-2.0
// One operator on one case's tensors, ready to be timed.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "backends.h"
#include "case_table.h"
#include "floor.h"

namespace tapfield::bench {

struct Free {
  void operator()(char* p) const { std::free(p); }
};
using Block = std::unique_ptr<char, Free>;  // aligned to 64 bytes

struct Spec {
  testing::Case c;
  Pass pass;
  DType dtype;
  std::string
      offsets;  // "zero", "std1", "std20", "flow", another kind of the case table, or "own": the case's
  bool nchw = false;

  std::string name() const;  // "grad/c/float32/std1", with "/NCHW" behind if so
};

class Operator {
 public:
  explicit Operator(const Spec& spec);

  void run(const Execution& execution);  // through the API
  Problem problem() const;
  // The scratch that tapfield.hpp promises not to exceed.
  std::size_t workspace_bound(int threads) const;

  std::vector<Span> read() const, written() const;  // what a call must move

 private:
  struct Buffer {
    Block data;
    std::size_t bytes = 0;
    Tensor tensor;
  };
  Buffer make(const testing::Shape& logical) const;
  void fill(Buffer& buffer, unsigned seed) const;
  void fill_offsets();

  Spec spec_;
  Attributes attributes_;
  Buffer x_, offsets_, y_, grad_, grad_x_, grad_offsets_, gg_x_, gg_offsets_;
};

// The same call below the API: checked, its row chosen, threads and scratch at hand. What Operator::run takes
// longer than this is overhead. The operator must outlive it.
class Kernel {
 public:
  Kernel(const Operator& op, const Execution& execution);

  void run() const { row_.run(problem_, workers_, block_.get()); }
  const char* row() const { return row_.name; }
  std::size_t workspace() const { return bytes_; }

 private:
  Problem problem_;
  const Row& row_;
  Workers workers_;
  std::size_t bytes_;
  Block block_;
};

}  // namespace tapfield::bench
