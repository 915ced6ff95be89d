// SPDX-License-Identifier: Apache-2.0
// One operator on one case's tensors, ready to be timed.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "case_table.h"
#include "floor.h"
#include "problem.h"

namespace tapfield::bench {

struct Spec {
  testing::Case c;
  Pass pass;
  DType dtype;
  std::string offsets;  // "zero", "std1", "std20", "flow", or "own": the case's
  bool nchw;

  std::string name() const;  // "grad/c/float32/std1", with "/NCHW" behind if so
};

class Operator {
 public:
  explicit Operator(const Spec& spec);

  void run(const Execution& execution);
  std::size_t workspace(const Execution& execution) const;
  // The scratch that docs/performance.md promises not to exceed.
  std::size_t workspace_bound(int threads) const;

  std::vector<Span> read() const, written() const;  // what a call must move
  std::size_t bytes() const;

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  struct Buffer {
    std::unique_ptr<char, Free> data;
    std::size_t bytes = 0;
    Tensor tensor;
  };
  Buffer make(const testing::Shape& logical) const;
  void fill(Buffer& buffer, double deviation, unsigned seed) const;
  void fill_offsets();

  Spec spec_;
  Attributes attributes_;
  Buffer x_, offsets_, y_, grad_, grad_x_, grad_offsets_, gg_x_, gg_offsets_;
};

}  // namespace tapfield::bench
