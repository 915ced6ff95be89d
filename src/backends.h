// SPDX-License-Identifier: Apache-2.0
// The table of everything that can run a pass. It drives dispatch, backends(), the tests (which force every
// row) and the benchmarks.
#pragma once

#include <span>

#include "execution.h"
#include "problem.h"

namespace tapfield {

struct Row {
  const char* name;     // e.g. "cpu.binned": backend.schedule
  const char* backend;  // e.g. "cpu"
  DeviceType device;
  Pass pass;
  const char* (*why_not)(const Problem&);  // can it: null if so, else the reason
  double (*cost)(const Problem&);          // should it: comparable with the other rows' of its pass alone
  std::size_t (*workspace)(const Problem&, int slots);           // bytes of scratch
  void (*run)(const Problem&, const Workers&, void* workspace);  // workspace: as many bytes, aligned to 64
};

std::span<const Row> rows();

// The cheapest row that can run p, among those that `forced` names (a row, a backend, or null for all).
// Throws std::invalid_argument with the rows' own reasons if none can.
const Row& choose(const Problem& p, DeviceType device, const char* forced);

// Chooses a row for p, gives it threads and scratch, and runs it.
void run(const Problem& p, DeviceType device, const Execution& execution);

// The row that this thread's last call ran; for tests.
const Row*& last_row();

}  // namespace tapfield
