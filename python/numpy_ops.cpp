// SPDX-License-Identifier: Apache-2.0
// The NumPy door: Python arguments in, the calls of tapfield.hpp out, the GIL released while they run. Arrays are
// read in place: NumPy's through its C API (bfloat16 too, which its DLPack and buffer protocol refuse), all others
// through DLPack. Every argument comes as a plain object and is checked here, so that each message names it.
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <climits>
#include <cstring>
#include <string>

#include "tapfield/tapfield.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using std::int64_t;
using std::string;
using tapfield::Attributes, tapfield::DType, tapfield::Execution, tapfield::Ints, tapfield::Tensor;

namespace {

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
  } catch (nb::python_error&) {
    return kind(h);
  }
}

[[noreturn]] void type_error(const string& message) { throw nb::type_error(message.c_str()); }
[[noreturn]] void value_error(const string& message) { throw nb::value_error(message.c_str()); }

// ------ Plain arguments

// One integer: an int or what has __index__, but no bool. `whole` is the argument to show, of kind `wanted`.
int64_t integer(const char* name, nb::handle h, const char* wanted, nb::handle whole) {
  const auto index = nb::steal(PyBool_Check(h.ptr()) ? nullptr : PyNumber_Index(h.ptr()));
  if (!index.is_valid()) {
    PyErr_Clear();
    type_error(string(name) + " must be " + wanted + " but is " + shown(whole));
  }
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow) value_error(string(name) + " must fit 64 bits but is " + shown(whole));
  return value;
}

int64_t integer(const char* name, nb::handle h) { return integer(name, h, "an integer", h); }

// A list longer than Ints holds keeps its size, for the library to refuse.
Ints integers(const char* name, nb::handle h) {
  const char* wanted = "a sequence of integers";
  const bool text = PyUnicode_Check(h.ptr()) || PyBytes_Check(h.ptr()) || PyByteArray_Check(h.ptr());
  const auto list = nb::steal(!text && PySequence_Check(h.ptr()) ? PySequence_Fast(h.ptr(), "") : nullptr);
  if (!list.is_valid()) {
    PyErr_Clear();
    type_error(string(name) + " must be " + wanted + " but is " + shown(h));
  }
  int64_t at[Ints::capacity] = {};
  const int64_t count = PySequence_Fast_GET_SIZE(list.ptr());
  for (int64_t i = 0; i < count && i < Ints::capacity; ++i)
    at[i] = integer(name, PySequence_Fast_GET_ITEM(list.ptr(), i), wanted, h);
  return Ints(at, count);
}

bool boolean(const char* name, nb::handle h) {
  if (PyBool_Check(h.ptr())) return h.ptr() == Py_True;
  if (PyArray_IsScalar(h.ptr(), Bool)) return PyObject_IsTrue(h.ptr()) == 1;
  type_error(string(name) + " must be a bool but is " + shown(h));
}

// Points into the str, which the caller keeps.
const char* text(const char* name, nb::handle h) {
  if (!PyUnicode_Check(h.ptr())) type_error(string(name) + " must be a str but is " + shown(h));
  Py_ssize_t size = 0;
  const char* s = PyUnicode_AsUTF8AndSize(h.ptr(), &size);
  if (s && std::strlen(s) == static_cast<std::size_t>(size)) return s;
  PyErr_Clear();
  value_error(string(name) + " must be plain text but is " + shown(h));
}

// In the order of __init__.py's `attributes` tuples, which the caller keeps.
Attributes attributes_of(const nb::tuple& t) {
  return {.ksize = integers("ksize", t[0]),
          .strides = integers("strides", t[1]),
          .pads = integers("pads", t[2]),
          .dilations = integers("dilations", t[3]),
          .data_format = text("data_format", t[4]),
          .deformable_groups = integer("deformable_groups", t[5]),
          .modulated = boolean("modulated", t[6]),
          .border = text("border", t[7])};
}

Execution execution_of(nb::handle backend) {
  Execution e;
  if (!backend.is_none()) e.backend = text("backend", backend);
  return e;
}

// ------ Arrays

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
enum : std::int32_t { kCpu = 1, kCudaHost = 3, kRocmHost = 11 };

int bfloat16_number = 0;  // NumPy's number of ml_dtypes.bfloat16

struct Array {
  Tensor tensor;
  nb::object owner;  // keeps the memory; a capsule that is not taken over calls its own deleter
};

[[noreturn]] void wrong_dtype(const char* name, const string& dtype) {
  throw tapfield::dtype_error(string(name) + " must be float16, bfloat16, float32 or float64 but is " + dtype);
}

Array from_numpy(const char* name, PyArrayObject* a) {
  Array out{{}, nb::borrow(reinterpret_cast<PyObject*>(a))};
  PyArray_Descr* descr = PyArray_DESCR(a);
  if (!PyArray_ISNBO(descr->byteorder))
    value_error(string(name) + " must be in native byte order but is " + shown(reinterpret_cast<PyObject*>(descr)));
  Tensor& t = out.tensor;
  switch (descr->type_num) {
    case NPY_HALF: t.dtype = DType::float16; break;
    case NPY_FLOAT: t.dtype = DType::float32; break;
    case NPY_DOUBLE: t.dtype = DType::float64; break;
    default:
      if (descr->type_num != bfloat16_number) wrong_dtype(name, nb::str(reinterpret_cast<PyObject*>(descr)).c_str());
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

// Asks for DLPack 1, whose capsules can be read-only; what knows only the older one is asked again.
nb::object capsule_of(const char* name, nb::handle h) {
  try {
    const auto device = nb::cast<nb::tuple>(h.attr("__dlpack_device__")());
    const int64_t type = nb::cast<int64_t>(device[0]);
    if (type != kCpu && type != kCudaHost && type != kRocmHost)
      value_error(string(name) + " must be on the CPU but is on another device (DLPack type " + std::to_string(type) +
                  ")");
    const nb::object dlpack = h.attr("__dlpack__");
    try {
      return dlpack("max_version"_a = nb::make_tuple(1, 0));
    } catch (nb::python_error& e) {
      if (!e.matches(PyExc_TypeError)) throw;
      return dlpack();
    }
  } catch (nb::python_error& e) {
    if (!e.matches(PyExc_Exception) || e.matches(PyExc_MemoryError)) throw;
    const string what = string(name) + " must be readable through DLPack but its __dlpack__ failed: ";
    nb::raise_from(e, PyExc_ValueError, "%s%s", what.c_str(), nb::str(e.value()).c_str());
  } catch (nb::cast_error&) {
    type_error(string(name) + " must give its device as a pair of integers from __dlpack_device__, but does not");
  }
  std::abort();  // not reached
}

Array from_dlpack(const char* name, nb::handle h) {
  if (nb::getattr(h, "requires_grad", nb::none()).ptr() == Py_True)
    value_error(string(name) + " must not require grad: use tapfield.torch, whose operators are differentiable, or " +
                "pass its .detach()");
  Array out{{}, capsule_of(name, h)};
  PyObject* capsule = out.owner.ptr();
  const DLTensor* d = nullptr;
  Tensor& t = out.tensor;
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    const auto* m = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    if (m->major != 1) value_error(string(name) + " must speak DLPack 1 but speaks " + std::to_string(m->major));
    d = &m->tensor;
    t.read_only = m->flags & 3;  // what is written into a copy is lost as well
  } else if (PyCapsule_IsValid(capsule, "dltensor")) {
    d = &static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"))->tensor;
  } else {
    type_error(string(name) + " must give a DLPack capsule from __dlpack__ but gives " + kind(out.owner));
  }
  if (d->code == kFloat && d->bits == 16 && d->lanes == 1) t.dtype = DType::float16;
  else if (d->code == kBFloat && d->bits == 16 && d->lanes == 1) t.dtype = DType::bfloat16;
  else if (d->code == kFloat && d->bits == 32 && d->lanes == 1) t.dtype = DType::float32;
  else if (d->code == kFloat && d->bits == 64 && d->lanes == 1) t.dtype = DType::float64;
  else wrong_dtype(name, nb::str(nb::getattr(h, "dtype", nb::str("of another DLPack type"))).c_str());
  t.data = static_cast<char*>(d->data) + d->byte_offset;
  t.shape = Ints(d->shape, d->ndim);
  if (d->strides) t.strides = Ints(d->strides, d->ndim);
  return out;
}

Array array(const char* name, nb::handle h) {
  if (PyArray_Check(h.ptr())) return from_numpy(name, reinterpret_cast<PyArrayObject*>(h.ptr()));
  if (nb::hasattr(h, "__dlpack__") && nb::hasattr(h, "__dlpack_device__")) return from_dlpack(name, h);
  type_error(string(name) + " must be an array (NumPy, or any that speaks DLPack 1.0) but is " + kind(h));
}

Array array_or_none(const char* name, nb::handle h) { return h.is_none() ? Array{} : array(name, h); }

// ------ What __init__.py allocates: (shape, code of the dtype)

nb::tuple shape_and_dtype(const Ints& shape, DType dtype) {
  nb::list list;
  for (int64_t i = 0; i < shape.size() && i < Ints::capacity; ++i) list.append(shape[i]);
  return nb::make_tuple(nb::tuple(list), static_cast<int>(dtype));
}

nb::tuple like(const char* name, nb::handle h) {
  const Array a = array(name, h);
  return shape_and_dtype(a.tensor.shape, a.tensor.dtype);
}

// Of y. Refuses what the forward would, so that nothing is allocated for a call that cannot run.
nb::tuple like_y(nb::handle x, nb::handle offsets, const nb::tuple& attributes, nb::handle backend) {
  const Array xa = array("x", x), oa = array("offsets", offsets);
  const Attributes a = attributes_of(attributes);
  Tensor y(static_cast<void*>(nullptr), xa.tensor.dtype, xa.tensor.shape);
  if (xa.tensor.shape.size() == 4) {
    const int h = std::strcmp(a.data_format, "NCHW") ? 1 : 2;
    const auto [ho, wo] = tapfield::output_size({y.shape[h], y.shape[h + 1]}, a);
    if (__builtin_mul_overflow(ho, a.ksize[0], &y.shape[h]) || __builtin_mul_overflow(wo, a.ksize[1], &y.shape[h + 1]))
      y.shape = {};  // workspace_size finds the same overflow first
  }
  tapfield::workspace_size(xa.tensor, oa.tensor, a, y, execution_of(backend));
  return shape_and_dtype(y.shape, y.dtype);
}

// ------ The operators. Shapes: __init__.py, tapfield.hpp

void deformable_offsets(nb::handle x, nb::handle offsets, nb::handle y, const nb::tuple& attributes, nb::handle backend) {
  const Array xa = array("x", x), oa = array("offsets", offsets), ya = array("y", y);
  const Attributes a = attributes_of(attributes);
  const Execution e = execution_of(backend);
  const nb::gil_scoped_release released;
  tapfield::deformable_offsets(xa.tensor, oa.tensor, a, ya.tensor, e);
}

void deformable_offsets_grad(nb::handle grad, nb::handle x, nb::handle offsets, nb::handle grad_x,
                             nb::handle grad_offsets, const nb::tuple& attributes, nb::handle backend) {
  const Array ga = array("grad", grad), xa = array("x", x), oa = array("offsets", offsets);
  const Array gxa = array("grad_x", grad_x), goa = array("grad_offsets", grad_offsets);
  const Attributes a = attributes_of(attributes);
  const Execution e = execution_of(backend);
  const nb::gil_scoped_release released;
  tapfield::deformable_offsets_grad(ga.tensor, xa.tensor, oa.tensor, a, gxa.tensor, goa.tensor, e);
}

void deformable_offsets_grad_grad(nb::handle grad, nb::handle x, nb::handle offsets, nb::handle gg_x,
                                  nb::handle gg_offsets, nb::handle grad_grad, nb::handle grad_x,
                                  nb::handle grad_offsets, const nb::tuple& attributes, nb::handle backend) {
  const Array ga = array("grad", grad), xa = array("x", x), oa = array("offsets", offsets);
  const Array ua = array_or_none("gg_x", gg_x), va = array_or_none("gg_offsets", gg_offsets);
  const Array gga = array("grad_grad", grad_grad), gxa = array("grad_x", grad_x),
              goa = array("grad_offsets", grad_offsets);
  const Attributes a = attributes_of(attributes);
  const Execution e = execution_of(backend);
  const nb::gil_scoped_release released;
  tapfield::deformable_offsets_grad_grad(ga.tensor, xa.tensor, oa.tensor, ua.tensor, va.tensor, a, gga.tensor,
                                         gxa.tensor, goa.tensor, e);
}

nb::tuple output_size(nb::handle size, const nb::tuple& attributes) {
  const auto [ho, wo] = tapfield::output_size(integers("size", size), attributes_of(attributes));
  return nb::make_tuple(ho, wo);
}

void set_num_threads(nb::handle n) {
  const int64_t value = integer("n", n);
  if (value > INT_MAX || value < 1)
    value_error("n must be from 1 to " + std::to_string(INT_MAX) + " but is " + std::to_string(value));
  tapfield::set_num_threads(static_cast<int>(value));
}

nb::list backends() {
  nb::list list;
  for (const auto& b : tapfield::backends())
    list.append(nb::make_tuple(b.name.c_str(), b.device.c_str(), b.available, b.reason.c_str()));
  return list;
}

// The capsule of 16-bit integers, now of bfloat16: NumPy makes no such capsule itself.
nb::object relabel_bfloat16(nb::object capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned"))
    static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"))->tensor.code = kBFloat;
  else if (void* m = PyCapsule_GetPointer(capsule.ptr(), "dltensor"))
    static_cast<DLManagedTensor*>(m)->tensor.code = kBFloat;
  else
    throw nb::python_error();
  return capsule;
}

}  // namespace

NB_MODULE(_core, m) {
  if (PyArray_ImportNumPyAPI() < 0) throw nb::python_error();
  const nb::object bfloat16 = nb::module_::import_("numpy").attr("dtype")(nb::module_::import_("ml_dtypes").attr("bfloat16"));
  bfloat16_number = nb::cast<int>(bfloat16.attr("num"));
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const tapfield::dtype_error& e) {  // a std::invalid_argument, which nanobind makes a ValueError
      PyErr_SetString(PyExc_TypeError, e.what());
    }
  });
  const auto any = nb::arg().none();  // None too comes here, to be refused by name
  const auto tuple = nb::arg();
  m.def("like", &like, nb::arg(), any);
  m.def("like_y", &like_y, any, any, tuple, any);
  m.def("deformable_offsets", &deformable_offsets, any, any, any, tuple, any);
  m.def("deformable_offsets_grad", &deformable_offsets_grad, any, any, any, any, any, tuple, any);
  m.def("deformable_offsets_grad_grad", &deformable_offsets_grad_grad, any, any, any, any, any, any, any, any, tuple,
        any);
  m.def("output_size", &output_size, any, tuple);
  m.def("set_num_threads", &set_num_threads, any);
  m.def("get_num_threads", &tapfield::get_num_threads);
  m.def("release_scratch", &tapfield::release_scratch);
  m.def("backends", &backends);
  m.def("relabel_bfloat16", &relabel_bfloat16);
  m.attr("version") = tapfield::version();
}
