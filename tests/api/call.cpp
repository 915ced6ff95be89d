// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <new>

namespace tapfield::test {
namespace {

template <class Function>
Outcome caught(const Function& function) {
  try {
    function();
    return {};
  } catch (const dtype_error& e) {
    return {TAPFIELD_INVALID_DTYPE, e.what()};
  } catch (const std::invalid_argument& e) {
    return {TAPFIELD_INVALID_ARGUMENT, e.what()};
  } catch (const std::bad_alloc& e) { return {TAPFIELD_OUT_OF_MEMORY, e.what()}; }
}

Outcome returned(tapfield_status status) { return {status, tapfield_last_error()}; }

tapfield_tensor to_c(const Tensor& t) {
  tapfield_tensor c = {};
  c.size = sizeof c;
  c.data = t.data;
  c.shape = t.shape.data();
  c.strides = t.strides.size() ? t.strides.data() : nullptr;
  c.rank = static_cast<std::int32_t>(t.shape.size());
  c.dtype = static_cast<std::int32_t>(t.dtype);
  c.device_type = static_cast<std::int32_t>(t.device.type), c.device_index = t.device.index;
  c.read_only = t.read_only;
  return c;
}

tapfield_attributes to_c(const Attributes& a) {
  tapfield_attributes c = {};
  c.size = sizeof c;
  c.ksize = a.ksize.data(), c.strides = a.strides.data(), c.pads = a.pads.data(),
  c.dilations = a.dilations.data();
  c.data_format = a.data_format, c.border = a.border;
  c.deformable_groups = a.deformable_groups;
  c.unmodulated = !a.modulated;
  return c;
}

tapfield_execution to_c(const Execution& e) {
  tapfield_execution c = {};
  c.size = sizeof c;
  c.parallel_for = e.parallel_for, c.pool = e.pool;
  c.workspace = e.workspace, c.workspace_bytes = e.workspace_bytes;
  c.stream = e.stream, c.backend = e.backend;
  c.threads = e.threads, c.deterministic = e.deterministic;
  return c;
}

}  // namespace

Outcome Operation::run(Via via) {
  if (via == Via::cpp)
    return caught([&] {
      if (pass == TAPFIELD_FORWARD)
        deformable_offsets(x, offsets, attributes, y, execution);
      else if (pass == TAPFIELD_GRAD)
        deformable_offsets_grad(grad, x, offsets, attributes, grad_x, grad_offsets, execution);
      else
        deformable_offsets_grad_grad(grad, x, offsets, gg_x, gg_offsets, attributes, grad_grad, grad_x,
                                     grad_offsets, execution);
    });
  std::vector<tapfield_tensor> t;
  for (const Tensor* one : tensors()) t.push_back(to_c(*one));
  const tapfield_attributes a = to_c(attributes);
  const tapfield_execution e = to_c(execution);
  if (pass == TAPFIELD_FORWARD) return returned(tapfield_deformable_offsets(&t[0], &t[1], &a, &t[2], &e));
  if (pass == TAPFIELD_GRAD)
    return returned(tapfield_deformable_offsets_grad(&t[0], &t[1], &t[2], &a, &t[3], &t[4], &e));
  return returned(
      tapfield_deformable_offsets_grad_grad(&t[0], &t[1], &t[2], &t[3], &t[4], &a, &t[5], &t[6], &t[7], &e));
}

Outcome Operation::workspace_size(Via via, std::size_t& bytes) {
  if (via == Via::cpp)
    return caught([&] {
      bytes = pass == TAPFIELD_FORWARD ? tapfield::workspace_size(x, offsets, attributes, y, execution)
              : pass == TAPFIELD_GRAD
                  ? tapfield::workspace_size(grad, x, offsets, attributes, grad_x, grad_offsets, execution)
                  : tapfield::workspace_size(grad, x, offsets, gg_x, gg_offsets, attributes, grad_grad,
                                             grad_x, grad_offsets, execution);
    });
  std::vector<tapfield_tensor> t;
  std::vector<const tapfield_tensor*> pointers;
  for (const Tensor* one : tensors()) t.push_back(to_c(*one));
  for (const tapfield_tensor& one : t) pointers.push_back(&one);
  const tapfield_attributes a = to_c(attributes);
  const tapfield_execution e = to_c(execution);
  return returned(tapfield_workspace_size(pass, pointers.data(), &a, &e, &bytes));
}

}  // namespace tapfield::test
