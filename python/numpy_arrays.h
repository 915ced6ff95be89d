// SPDX-License-Identifier: Apache-2.0
// Python's arrays as Tensors, in place: NumPy's through its C API (bfloat16 too, which its DLPack and buffer
// protocol refuse), all others through DLPack. Everything is checked here, so that each message names its
// argument. Part of numpy_ops.cpp, which imports NumPy.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <cstring>
#include <string>

#include "tapfield/tapfield.hpp"

namespace nb = nanobind;

namespace {

using namespace nb::literals;
using std::int64_t;
using std::string;
using tapfield::DType, tapfield::Ints, tapfield::Tensor;

// ------ Messages

string kind(nb::handle h) {
  if (h.is_none()) return "None";
  const char* type = Py_TYPE(h.ptr())->tp_name;
  return (std::strchr("aeiouAEIOU", type[0]) ? "an " : "a ") + string(type);
}

// The repr, cut at 80 characters; the kind where the object has none.
string shown(nb::handle h) {
  try {
    const nb::str whole = nb::repr(h);
    if (PyUnicode_GET_LENGTH(whole.ptr()) <= 80) return whole.c_str();
    return nb::steal<nb::str>(PyUnicode_Substring(whole.ptr(), 0, 80)).c_str() + string("...");
  } catch (nb::python_error&) { return kind(h); }
}

[[noreturn]] void type_error(const string& message) { throw nb::type_error(message.c_str()); }
[[noreturn]] void value_error(const string& message) { throw nb::value_error(message.c_str()); }

[[noreturn]] void wrong_kind(const char* name, const char* wanted, nb::handle h) {
  PyErr_Clear();
  type_error(string(name) + " must be " + wanted + " but is " + shown(h));
}

// ------ DLPack and NumPy

// DLPack 1, https://dmlc.github.io/dlpack: the structs that a capsule holds.
struct DLTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  int64_t* shape;    // [ndim]
  int64_t* strides;  // [ndim], in elements; null: dense
  std::uint64_t byte_offset;
};
struct DLManagedTensor {  // in a capsule named "dltensor"
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {  // in a capsule named "dltensor_versioned"
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  std::uint64_t flags;  // 1: read-only, 2: a copy
  DLTensor tensor;
};
enum : std::uint8_t { kFloat = 2, kBFloat = 4 };
enum : std::int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kRocmHost = 11, kCudaManaged = 13 };

int bfloat16_number = 0;  // NumPy's number of ml_dtypes.bfloat16

struct Array {
  Tensor tensor;
  nb::object owner;  // keeps the memory; a capsule that is not taken over calls its own deleter
};

[[noreturn]] void wrong_dtype(const char* name, const string& dtype) {
  throw tapfield::dtype_error(string(name) + " must be float16, bfloat16, float32 or float64 but is " +
                              dtype);
}

Array from_numpy(const char* name, PyArrayObject* a) {
  Array out{{}, nb::borrow(reinterpret_cast<PyObject*>(a))};
  PyArray_Descr* descr = PyArray_DESCR(a);
  if (!PyArray_ISNBO(descr->byteorder))
    value_error(string(name) + " must be in native byte order but is " +
                shown(reinterpret_cast<PyObject*>(descr)));
  Tensor& t = out.tensor;
  switch (descr->type_num) {
    case NPY_HALF: t.dtype = DType::float16; break;
    case NPY_FLOAT: t.dtype = DType::float32; break;
    case NPY_DOUBLE: t.dtype = DType::float64; break;
    default:
      if (descr->type_num != bfloat16_number)
        wrong_dtype(name, nb::str(reinterpret_cast<PyObject*>(descr)).c_str());
      t.dtype = DType::bfloat16;
  }
  t.data = PyArray_DATA(a);
  t.read_only = !PyArray_ISWRITEABLE(a);
  t.shape = t.strides = Ints(reinterpret_cast<const int64_t*>(PyArray_SHAPE(a)), PyArray_NDIM(a));
  const int64_t size = PyDataType_ELSIZE(descr);
  for (int i = 0; i < PyArray_NDIM(a) && i < Ints::capacity; ++i) {
    if (PyArray_STRIDE(a, i) % size && PyArray_DIM(a, i) > 1)
      value_error(string(name) + " must have strides of whole elements (" + std::to_string(size) +
                  " bytes) but has one of " + std::to_string(PyArray_STRIDE(a, i)) + " bytes");
    t.strides[i] = PyArray_STRIDE(a, i) / size;
  }
  return out;
}

// The tensor in a capsule; null if it is none. Throws if its DLPack is newer than what we know.
DLTensor* tensor_in(const char* name, PyObject* capsule, bool* read_only) {
  *read_only = true;  // the older capsule cannot say: JAX's immutable arrays come in it
  if (PyCapsule_IsValid(capsule, "dltensor"))
    return &static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"))->tensor;
  if (!PyCapsule_IsValid(capsule, "dltensor_versioned")) return nullptr;
  auto* m = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
  if (m->major != 1)
    value_error(string(name) + " must speak DLPack 1 but speaks DLPack " + std::to_string(m->major));
  *read_only = m->flags & 3;  // read-only, or a copy: what is written there is lost as well
  return &m->tensor;
}

// Asks for DLPack 1, whose capsules can be read-only; what knows only the older one is asked again. A GPU's
// array shall be ready on the default stream (1 in DLPack), on which the kernels are queued.
nb::object capsule_of(const char* name, nb::handle h, tapfield::Device* where) {
  nb::object capsule;
  try {
    const nb::object dlpack = h.attr("__dlpack__"), device = h.attr("__dlpack_device__")();
    const auto integer = [](const nb::object& o) {
      const auto value = PyLong_AsLong(o.ptr());
      if (PyErr_Occurred()) throw nb::python_error();
      return value;
    };
    const nb::object type = device[0], index = device[1];
    const auto number = integer(type);
    const bool cuda = number == kCuda || number == kCudaManaged;
    if (cuda)
      *where = {tapfield::DeviceType::cuda, static_cast<std::int32_t>(integer(index))};
    else if (number != kCpu && number != kCudaHost && number != kRocmHost)
      value_error(string(name) + " must be on the CPU or a CUDA GPU but is on DLPack's device " +
                  shown(type));
    const auto ask = [&](bool versioned) {
      nb::dict how;
      if (cuda) how["stream"] = 1;
      if (versioned) how["max_version"] = nb::make_tuple(1, 0);
      return nb::object(dlpack(**how));
    };
    try {
      capsule = ask(true);
    } catch (nb::python_error& e) {
      if (!e.matches(PyExc_TypeError)) throw;
      capsule = ask(false);
    }
  } catch (nb::python_error& e) {
    if (!e.matches(PyExc_Exception) || e.matches(PyExc_MemoryError)) throw;
    const string what = string(name) + " must be readable through DLPack but its __dlpack__ failed: ";
    nb::raise_from(e, PyExc_ValueError, "%s%s", what.c_str(), nb::str(e.value()).c_str());
  }
  return capsule;
}

Array from_dlpack(const char* name, nb::handle h) {
  if (nb::getattr(h, "requires_grad", nb::none()).ptr() == Py_True)
    value_error(string(name) +
                " must not require grad: use tapfield.torch, which is differentiable, or its .detach()");
  Array out;
  Tensor& t = out.tensor;
  out.owner = capsule_of(name, h, &t.device);
  const DLTensor* d = tensor_in(name, out.owner.ptr(), &t.read_only);
  if (!d)
    type_error(string(name) + " must give a DLPack capsule from __dlpack__ but gives " + kind(out.owner));
  switch (d->lanes == 1 ? d->code * 256 + d->bits : 0) {
    case kFloat * 256 + 16: t.dtype = DType::float16; break;
    case kBFloat * 256 + 16: t.dtype = DType::bfloat16; break;
    case kFloat * 256 + 32: t.dtype = DType::float32; break;
    case kFloat * 256 + 64: t.dtype = DType::float64; break;
    default: wrong_dtype(name, nb::str(nb::getattr(h, "dtype", nb::str("of another DLPack type"))).c_str());
  }
  t.data = static_cast<char*>(d->data) + d->byte_offset;
  t.shape = Ints(d->shape, d->ndim);
  if (d->strides) t.strides = Ints(d->strides, d->ndim);
  return out;
}

Array array(const char* name, nb::handle h) {
  if (PyArray_Check(h.ptr())) return from_numpy(name, reinterpret_cast<PyArrayObject*>(h.ptr()));
  if (nb::hasattr(h, "__dlpack__") && nb::hasattr(h, "__dlpack_device__")) return from_dlpack(name, h);
  const string what = kind(h);
  const char* hint = what.ends_with("Tracer") ? ": inside JAX's transformations use tapfield.jax" : "";
  type_error(string(name) + " must be an array (NumPy, or any that speaks DLPack 1.0) but is " + what + hint);
}

}  // namespace
