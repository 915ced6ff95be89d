// SPDX-License-Identifier: Apache-2.0
// The NumPy door: Python arguments in, the calls of tapfield.hpp out, the GIL released while they run. Every
// argument comes as a plain object and is checked here, so that each message names it.
#include <climits>
#include <cstring>
#include <string>

#include "numpy_arrays.h"

namespace {

using tapfield::Attributes, tapfield::Execution;

// ------ Plain arguments

// One integer: an int or what has __index__, but no bool. `whole` is the argument to show, of kind `wanted`.
int64_t integer(const char* name, const char* wanted, nb::handle h, nb::handle whole) {
  const auto index = nb::steal(PyBool_Check(h.ptr()) ? nullptr : PyNumber_Index(h.ptr()));
  if (!index.is_valid()) wrong_kind(name, wanted, whole);
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow) value_error(string(name) + " must fit 64 bits but is " + shown(whole));
  return value;
}

// A list longer than Ints holds keeps its size, for the library to refuse.
Ints integers(const char* name, nb::handle h) {
  const char* wanted = "a sequence of integers";
  const bool text = PyUnicode_Check(h.ptr()) || PyBytes_Check(h.ptr()) || PyByteArray_Check(h.ptr());
  const auto list = nb::steal(!text && PySequence_Check(h.ptr()) ? PySequence_Tuple(h.ptr()) : nullptr);
  if (!list.is_valid()) wrong_kind(name, wanted, h);
  int64_t at[Ints::capacity] = {};
  const int64_t count = PyTuple_GET_SIZE(list.ptr());
  for (int64_t i = 0; i < count && i < Ints::capacity; ++i)
    at[i] = integer(name, wanted, PyTuple_GET_ITEM(list.ptr(), i), h);
  return Ints(at, count);
}

bool boolean(const char* name, nb::handle h) {
  if (!PyBool_Check(h.ptr()) && !PyArray_IsScalar(h.ptr(), Bool)) wrong_kind(name, "a bool", h);
  return PyObject_IsTrue(h.ptr()) == 1;
}

// Points into the str, which the caller keeps.
const char* text(const char* name, nb::handle h) {
  if (!PyUnicode_Check(h.ptr())) wrong_kind(name, "a str", h);
  Py_ssize_t size = 0;
  const char* s = PyUnicode_AsUTF8AndSize(h.ptr(), &size);
  if (s && std::strlen(s) == static_cast<std::size_t>(size)) return s;
  PyErr_Clear();
  value_error(string(name) + " must be plain text but is " + shown(h));
}

// In the order of __init__.py's `attributes`. Points into its strings, which the caller keeps.
Attributes attributes_of(nb::handle t) {
  return {.ksize = integers("ksize", t[0]),
          .strides = integers("strides", t[1]),
          .pads = integers("pads", t[2]),
          .dilations = integers("dilations", t[3]),
          .data_format = text("data_format", t[4]),
          .deformable_groups = integer("deformable_groups", "an integer", t[5], t[5]),
          .modulated = boolean("modulated", t[6]),
          .border = text("border", t[7])};
}

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

// ------ The operators. Shapes: tapfield.hpp

// An operator's arguments: its tensors, the attributes, the backend. Only gg_x and gg_offsets may be None.
struct Call {
  Array arrays[8];
  Attributes attributes;
  Execution execution;

  Call(std::initializer_list<const char*> names, const nb::args& args) {
    int i = 0;
    for (const char* name : names) {
      if (std::strncmp(name, "gg_", 3) || !args[i].is_none()) arrays[i] = array(name, args[i]);
      ++i;
    }
    attributes = attributes_of(args[i]);
    if (const nb::handle backend = args[i + 1]; !backend.is_none())
      execution.backend = text("backend", backend);
  }
  const Tensor& operator[](int i) const { return arrays[i].tensor; }
};

// Of y. Refuses what the forward would, so that nothing is allocated for a call that cannot run.
nb::tuple like_y(const nb::args& args) {
  const Call c({"x", "offsets"}, args);
  Tensor y(static_cast<void*>(nullptr), c[0].dtype, c[0].shape);
  y.device = c[0].device;
  if (y.shape.size() == 4) {
    int64_t *h = &y.shape[std::strcmp(c.attributes.data_format, "NCHW") ? 1 : 2], *w = h + 1;
    const auto [ho, wo] = tapfield::output_size({*h, *w}, c.attributes);
    if (__builtin_mul_overflow(ho, c.attributes.ksize[0], h)) *h = INT64_MAX;  // refused below
    if (__builtin_mul_overflow(wo, c.attributes.ksize[1], w)) *w = INT64_MAX;
  }
  tapfield::workspace_size(c[0], c[1], c.attributes, y, c.execution);
  return shape_and_dtype(y.shape, y.dtype);
}

void deformable_offsets(const nb::args& args) {
  const Call c({"x", "offsets", "y"}, args);
  const nb::gil_scoped_release released;
  tapfield::deformable_offsets(c[0], c[1], c.attributes, c[2], c.execution);
}

void deformable_offsets_grad(const nb::args& args) {
  const Call c({"grad", "x", "offsets", "grad_x", "grad_offsets"}, args);
  const nb::gil_scoped_release released;
  tapfield::deformable_offsets_grad(c[0], c[1], c[2], c.attributes, c[3], c[4], c.execution);
}

void deformable_offsets_grad_grad(const nb::args& args) {
  const Call c({"grad", "x", "offsets", "gg_x", "gg_offsets", "grad_grad", "grad_x", "grad_offsets"}, args);
  const nb::gil_scoped_release released;
  tapfield::deformable_offsets_grad_grad(c[0], c[1], c[2], c[3], c[4], c.attributes, c[5], c[6], c[7],
                                         c.execution);
}

nb::tuple output_size(const nb::args& args) {
  const auto [ho, wo] = tapfield::output_size(integers("size", args[0]), attributes_of(args[1]));
  return nb::make_tuple(ho, wo);
}

void set_num_threads(const nb::args& args) {
  const int64_t n = integer("n", "an integer", args[0], args[0]);
  if (n < 1 || n > INT_MAX)
    value_error("n must be from 1 to " + std::to_string(INT_MAX) + " but is " + std::to_string(n));
  tapfield::set_num_threads(static_cast<int>(n));
}

nb::list backends() {
  nb::list list;
  for (const auto& b : tapfield::backends())
    list.append(nb::make_tuple(b.name.c_str(), b.device.c_str(), b.available, b.reason.c_str()));
  return list;
}

// The capsule of 16-bit integers, now of bfloat16: NumPy makes no such capsule itself.
nb::object relabel_bfloat16(nb::object capsule) {
  bool ignored = false;
  if (DLTensor* d = tensor_in("capsule", capsule.ptr(), &ignored)) d->code = kBFloat;
  return capsule;
}

}  // namespace

NB_MODULE(_core, m) {
  if (PyArray_ImportNumPyAPI() < 0) throw nb::python_error();
  const nb::object bfloat16 = nb::module_::import_("ml_dtypes").attr("bfloat16");
  bfloat16_number = nb::cast<int>(nb::module_::import_("numpy").attr("dtype")(bfloat16).attr("num"));
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const tapfield::dtype_error& e) {  // a std::invalid_argument, which nanobind makes a ValueError
      PyErr_SetString(PyExc_TypeError, e.what());
    }
  });
  m.def("like", &like, nb::arg(), nb::arg().none());
  m.def("like_y", &like_y);
  m.def("deformable_offsets", &deformable_offsets);
  m.def("deformable_offsets_grad", &deformable_offsets_grad);
  m.def("deformable_offsets_grad_grad", &deformable_offsets_grad_grad);
  m.def("output_size", &output_size);
  m.def("set_num_threads", &set_num_threads);
  m.def("get_num_threads", &tapfield::get_num_threads);
  m.def("release_scratch", &tapfield::release_scratch);
  m.def("backends", &backends);
  m.def("relabel_bfloat16", &relabel_bfloat16);
  m.attr("version") = tapfield::version();
}
