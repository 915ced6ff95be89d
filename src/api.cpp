// SPDX-License-Identifier: Apache-2.0
// The operators: check, choose a row of the table, run it. Nothing else dispatches.
#include "backends.h"

#ifndef TAPFIELD_VERSION
#error "the build defines TAPFIELD_VERSION"
#endif

namespace tapfield {

void run(const Problem& p, DeviceType device, const Execution& execution) {
  const Row& row = choose(p, device, execution.backend);
  const Workers workers(execution, p.y_elements());
  // Scratch on a GPU that the caller does not give is the backend's own.
  const bool mine = row.device == DeviceType::cpu || execution.workspace;
  const Scratch scratch(p.n && mine ? row.workspace(p, workers.slots()) : 0, execution);
  last_row() = &row;
  if (p.n) row.run(p, workers, scratch.block());
}

namespace {

Problem problem_of(Pass pass, const Arguments& arguments, const Attributes& attributes,
                   const Execution& execution, bool with_data) {
  Problem p = make_problem(pass, arguments, attributes, with_data);
  p.device = arguments.x->device.index, p.stream = execution.stream,
  p.deterministic = execution.deterministic;
  return p;
}

void run(Pass pass, const Arguments& arguments, const Attributes& attributes, const Execution& execution) {
  run(problem_of(pass, arguments, attributes, execution, /*with_data=*/true), arguments.x->device.type,
      execution);
}

std::size_t measure(Pass pass, const Arguments& arguments, const Attributes& attributes,
                    const Execution& execution) {
  const Problem p = problem_of(pass, arguments, attributes, execution, /*with_data=*/false);
  const Row& row = choose(p, arguments.x->device.type, execution.backend);
  return p.n ? row.workspace(p, Workers(execution, p.y_elements()).slots()) : 0;
}

}  // namespace

void deformable_offsets(const Tensor& x, const Tensor& offsets, const Attributes& attributes, const Tensor& y,
                        const Execution& execution) {
  run(Pass::forward, {.x = &x, .offsets = &offsets, .y = &y}, attributes, execution);
}

void deformable_offsets_grad(const Tensor& grad, const Tensor& x, const Tensor& offsets,
                             const Attributes& attributes, const Tensor& grad_x, const Tensor& grad_offsets,
                             const Execution& execution) {
  run(Pass::grad,
      {.x = &x, .offsets = &offsets, .grad = &grad, .grad_x = &grad_x, .grad_offsets = &grad_offsets},
      attributes, execution);
}

void deformable_offsets_grad_grad(const Tensor& grad, const Tensor& x, const Tensor& offsets,
                                  const Tensor& gg_x, const Tensor& gg_offsets, const Attributes& attributes,
                                  const Tensor& grad_grad, const Tensor& grad_x, const Tensor& grad_offsets,
                                  const Execution& execution) {
  run(Pass::grad_grad,
      {.x = &x,
       .offsets = &offsets,
       .grad = &grad,
       .gg_x = &gg_x,
       .gg_offsets = &gg_offsets,
       .grad_grad = &grad_grad,
       .grad_x = &grad_x,
       .grad_offsets = &grad_offsets},
      attributes, execution);
}

std::size_t workspace_size(const Tensor& x, const Tensor& offsets, const Attributes& attributes,
                           const Tensor& y, const Execution& execution) {
  return measure(Pass::forward, {.x = &x, .offsets = &offsets, .y = &y}, attributes, execution);
}

std::size_t workspace_size(const Tensor& grad, const Tensor& x, const Tensor& offsets,
                           const Attributes& attributes, const Tensor& grad_x, const Tensor& grad_offsets,
                           const Execution& execution) {
  return measure(
      Pass::grad,
      {.x = &x, .offsets = &offsets, .grad = &grad, .grad_x = &grad_x, .grad_offsets = &grad_offsets},
      attributes, execution);
}

std::size_t workspace_size(const Tensor& grad, const Tensor& x, const Tensor& offsets, const Tensor& gg_x,
                           const Tensor& gg_offsets, const Attributes& attributes, const Tensor& grad_grad,
                           const Tensor& grad_x, const Tensor& grad_offsets, const Execution& execution) {
  return measure(Pass::grad_grad,
                 {.x = &x,
                  .offsets = &offsets,
                  .grad = &grad,
                  .gg_x = &gg_x,
                  .gg_offsets = &gg_offsets,
                  .grad_grad = &grad_grad,
                  .grad_x = &grad_x,
                  .grad_offsets = &grad_offsets},
                 attributes, execution);
}

const char* version() { return TAPFIELD_VERSION; }

}  // namespace tapfield
