// SPDX-License-Identifier: Apache-2.0
// The C interface: plain structs to the C++ ones, exceptions to status codes.
#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "tapfield/tapfield.hpp"

namespace {

using namespace tapfield;

std::string& error() {
  thread_local std::string text;
  return text;
}

template <class Call>
tapfield_status guarded(const Call& call) noexcept {
  try {
    error().clear();
    call();
    return TAPFIELD_OK;
  } catch (const dtype_error& e) {
    return error() = e.what(), TAPFIELD_INVALID_DTYPE;
  } catch (const std::invalid_argument& e) {
    return error() = e.what(), TAPFIELD_INVALID_ARGUMENT;
  } catch (const std::bad_alloc&) {
    return error() = "out of memory", TAPFIELD_OUT_OF_MEMORY;
  } catch (const std::exception& e) { return error() = e.what(), TAPFIELD_INTERNAL_ERROR; } catch (...) {
    return error() = "an unknown exception", TAPFIELD_INTERNAL_ERROR;
  }
}

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

// A copy of the caller's struct in today's form: fields it does not know are zero.
template <class T>
T known_part(const T* given, const char* name) {
  if (!given) fail(std::string(name) + " must be given but is null");
  if (given->size < sizeof(std::size_t) || given->size > 4096)
    fail(std::string(name) + ".size must be sizeof(its struct) but is " + std::to_string(given->size));
  T copy;
  std::memset(&copy, 0, sizeof copy);
  std::memcpy(&copy, given, std::min(given->size, sizeof copy));
  return copy;
}

Tensor tensor(const tapfield_tensor* given, const char* name) {
  const tapfield_tensor t = known_part(given, name);
  if (t.rank < 0) fail(std::string(name) + ".rank must be 4 but is " + std::to_string(t.rank));
  if (!t.shape) fail(std::string(name) + ".shape must be given but is null");
  Tensor r(t.data, static_cast<DType>(t.dtype), Ints(t.shape, t.rank));
  if (t.strides) r.strides = Ints(t.strides, t.rank);
  if (t.device_type != TAPFIELD_CPU && t.device_type != TAPFIELD_CUDA)
    fail(std::string(name) + ".device_type must be TAPFIELD_CPU or TAPFIELD_CUDA but is " +
         std::to_string(t.device_type));
  r.device = {static_cast<DeviceType>(t.device_type), t.device_index};
  r.read_only = t.read_only != 0;
  return r;
}

Tensor optional_tensor(const tapfield_tensor* given, const char* name) {
  return given ? tensor(given, name) : Tensor{};
}

Ints list(const std::int64_t* values, std::int64_t count, const char* name) {
  if (!values) fail(std::string(name) + " must be given but is null");
  return Ints(values, count);
}

Attributes attributes_of(const tapfield_attributes* given) {
  const tapfield_attributes a = known_part(given, "attributes");
  Attributes r;
  r.ksize = list(a.ksize, 2, "ksize");
  r.strides = list(a.strides, 4, "strides");
  r.pads = list(a.pads, 4, "pads");
  if (a.dilations) r.dilations = Ints(a.dilations, 4);
  if (a.data_format) r.data_format = a.data_format;
  if (a.border) r.border = a.border;
  if (a.deformable_groups) r.deformable_groups = a.deformable_groups;
  r.modulated = !a.unmodulated;
  return r;
}

Execution execution_of(const tapfield_execution* given) {
  if (!given) return {};
  const tapfield_execution e = known_part(given, "execution");
  Execution r;
  r.threads = e.threads, r.parallel_for = e.parallel_for, r.pool = e.pool;
  r.workspace = e.workspace, r.workspace_bytes = e.workspace_bytes;
  r.stream = e.stream, r.deterministic = e.deterministic != 0, r.backend = e.backend;
  return r;
}

}  // namespace

extern "C" {

tapfield_status tapfield_deformable_offsets(const tapfield_tensor* x, const tapfield_tensor* offsets,
                                            const tapfield_attributes* attributes, const tapfield_tensor* y,
                                            const tapfield_execution* execution) {
  return guarded([&] {
    deformable_offsets(tensor(x, "x"), tensor(offsets, "offsets"), attributes_of(attributes), tensor(y, "y"),
                       execution_of(execution));
  });
}

tapfield_status tapfield_deformable_offsets_grad(const tapfield_tensor* grad, const tapfield_tensor* x,
                                                 const tapfield_tensor* offsets,
                                                 const tapfield_attributes* attributes,
                                                 const tapfield_tensor* grad_x,
                                                 const tapfield_tensor* grad_offsets,
                                                 const tapfield_execution* execution) {
  return guarded([&] {
    deformable_offsets_grad(tensor(grad, "grad"), tensor(x, "x"), tensor(offsets, "offsets"),
                            attributes_of(attributes), tensor(grad_x, "grad_x"),
                            tensor(grad_offsets, "grad_offsets"), execution_of(execution));
  });
}

tapfield_status tapfield_deformable_offsets_grad_grad(
    const tapfield_tensor* grad, const tapfield_tensor* x, const tapfield_tensor* offsets,
    const tapfield_tensor* gg_x, const tapfield_tensor* gg_offsets, const tapfield_attributes* attributes,
    const tapfield_tensor* grad_grad, const tapfield_tensor* grad_x, const tapfield_tensor* grad_offsets,
    const tapfield_execution* execution) {
  return guarded([&] {
    deformable_offsets_grad_grad(
        tensor(grad, "grad"), tensor(x, "x"), tensor(offsets, "offsets"), optional_tensor(gg_x, "gg_x"),
        optional_tensor(gg_offsets, "gg_offsets"), attributes_of(attributes), tensor(grad_grad, "grad_grad"),
        tensor(grad_x, "grad_x"), tensor(grad_offsets, "grad_offsets"), execution_of(execution));
  });
}

tapfield_status tapfield_output_size(const int64_t* size, const tapfield_attributes* attributes,
                                     int64_t* ho_wo) {
  return guarded([&] {
    if (!ho_wo) fail("ho_wo must be given but is null");
    const auto r = output_size(list(size, 2, "size"), attributes_of(attributes));
    ho_wo[0] = r[0], ho_wo[1] = r[1];
  });
}

tapfield_status tapfield_workspace_size(int32_t pass, const tapfield_tensor* const* t,
                                        const tapfield_attributes* attributes,
                                        const tapfield_execution* execution, size_t* bytes) {
  return guarded([&] {
    if (!t) fail("tensors must be given but is null");
    if (!bytes) fail("bytes must be given but is null");
    const Attributes a = attributes_of(attributes);
    const Execution e = execution_of(execution);
    switch (pass) {
      case TAPFIELD_FORWARD:
        *bytes = workspace_size(tensor(t[0], "x"), tensor(t[1], "offsets"), a, tensor(t[2], "y"), e);
        return;
      case TAPFIELD_GRAD:
        *bytes = workspace_size(tensor(t[0], "grad"), tensor(t[1], "x"), tensor(t[2], "offsets"), a,
                                tensor(t[3], "grad_x"), tensor(t[4], "grad_offsets"), e);
        return;
      case TAPFIELD_GRAD_GRAD:
        *bytes = workspace_size(tensor(t[0], "grad"), tensor(t[1], "x"), tensor(t[2], "offsets"),
                                optional_tensor(t[3], "gg_x"), optional_tensor(t[4], "gg_offsets"), a,
                                tensor(t[5], "grad_grad"), tensor(t[6], "grad_x"),
                                tensor(t[7], "grad_offsets"), e);
        return;
    }
    fail("pass must be a tapfield_pass but is " + std::to_string(pass));
  });
}

tapfield_status tapfield_set_num_threads(int32_t n) {
  return guarded([&] { set_num_threads(n); });
}
int32_t tapfield_get_num_threads(void) { return get_num_threads(); }
void tapfield_release_scratch(void) { release_scratch(); }
const char* tapfield_last_error(void) { return error().c_str(); }
const char* tapfield_version(void) { return version(); }

}  // extern "C"
