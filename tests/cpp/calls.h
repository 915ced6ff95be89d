// SPDX-License-Identifier: Apache-2.0
// One call of one pass on guarded tensors, by any row of the backend table.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends.h"
#include "guarded.h"

namespace tapfield::testing {

inline const char* name_of(Pass p) {
  return p == Pass::forward ? "forward" : p == Pass::grad ? "grad" : "grad_grad";
}

struct Dtypes {
  DType x, offsets, grad_x, grad_offsets;
  explicit Dtypes(DType t) : x(t), offsets(t), grad_x(t), grad_offsets(t) {}
  Dtypes(DType x_, DType offsets_, DType grad_x_, DType grad_offsets_)
      : x(x_), offsets(offsets_), grad_x(grad_x_), grad_offsets(grad_offsets_) {}
};

struct RowStrides {
  std::int64_t x = 0, offsets = 0, grad = 0, grad_x = 0, grad_offsets = 0;
};  // see GuardedTensor

class Call {
 public:
  const Case& c;
  Pass pass;
  bool nchw;
  Device device;  // of all tensors
  Attributes attributes;
  GuardedTensor x, offsets, grad, gg_x, gg_offsets;  // inputs of all passes
  std::vector<std::unique_ptr<GuardedTensor>>
      outputs;  // y | grad_x, grad_offsets | grad_grad, grad_x, grad_offsets

  Call(const Case& c_, Pass pass_, Dtypes t, bool nchw_, Place place = Place::at_end, RowStrides r = {})
      : c(c_),
        pass(pass_),
        nchw(nchw_),
        attributes(c.attributes(nchw)),
        x(c.x, t.x, nchw, place, r.x),
        offsets(c.offsets_shape(), t.offsets, nchw, place, r.offsets),
        grad(c.y_shape(), t.x, nchw, place, r.grad),
        gg_x(c.x, t.grad_x, nchw, place, r.x),
        gg_offsets(c.offsets_shape(), t.grad_offsets, nchw, place, r.offsets) {
    x.fill(data_values(c, c.x, 1));
    offsets.fill(offsets_values(c, t.offsets));
    grad.fill(data_values(c, c.y_shape(), 2));
    gg_x.fill(data_values(c, c.x, 3));
    gg_offsets.fill(data_values(c, c.offsets_shape(), 4));
    const auto add = [&](const Shape& shape, DType dtype, std::int64_t row_stride) {
      outputs.push_back(std::make_unique<GuardedTensor>(shape, dtype, nchw, place, row_stride));
    };
    if (pass != Pass::grad) add(c.y_shape(), t.x, r.grad);
    if (pass == Pass::forward) return;
    add(c.x, t.grad_x, r.grad_x);
    add(c.offsets_shape(), t.grad_offsets, r.grad_offsets);
  }

  Tensor view(const GuardedTensor& t) const {
    Tensor v = t.view();
    v.device = device;
    return v;
  }

  void run(const Execution& e) {
    for (auto& o : outputs) o->poison();
    switch (pass) {
      case Pass::forward: return deformable_offsets(view(x), view(offsets), attributes, view(*outputs[0]), e);
      case Pass::grad:
        return deformable_offsets_grad(view(grad), view(x), view(offsets), attributes, view(*outputs[0]),
                                       view(*outputs[1]), e);
      case Pass::grad_grad:
        return deformable_offsets_grad_grad(view(grad), view(x), view(offsets), view(gg_x), view(gg_offsets),
                                            attributes, view(*outputs[0]), view(*outputs[1]),
                                            view(*outputs[2]), e);
    }
  }
  std::size_t workspace(const Execution& e) const {
    switch (pass) {
      case Pass::forward: return workspace_size(view(x), view(offsets), attributes, view(*outputs[0]), e);
      case Pass::grad:
        return workspace_size(view(grad), view(x), view(offsets), attributes, view(*outputs[0]),
                              view(*outputs[1]), e);
      default:
        return workspace_size(view(grad), view(x), view(offsets), view(gg_x), view(gg_offsets), attributes,
                              view(*outputs[0]), view(*outputs[1]), view(*outputs[2]), e);
    }
  }
  // False, with the reason, where the row cannot take this call.
  bool runs(const Row& row, int threads = 1, std::string* why = nullptr) {
    Execution e;
    e.backend = row.name, e.threads = threads;
    try {
      run(e);
      return true;
    } catch (const std::invalid_argument& error) {
      if (std::string(error.what()).find("no backend can run this call") == std::string::npos) throw;
      if (why) *why = error.what();
      return false;
    }
  }
  std::vector<std::vector<char>> bytes() const {
    std::vector<std::vector<char>> all;
    for (const auto& o : outputs) all.push_back(o->bytes());
    return all;
  }
  std::vector<std::vector<double>> values() const {
    std::vector<std::vector<double>> all;
    for (const auto& o : outputs) all.push_back(o->values());
    return all;
  }
  std::string output_name(std::size_t i) const {
    if (pass == Pass::forward) return "y";
    const char* names[] = {"grad_grad", "grad_x", "grad_offsets"};
    return names[i + (pass == Pass::grad ? 1 : 0)];
  }
};

// Every row of the table for a device, but the reference's.
inline std::vector<const Row*> kernels(DeviceType device = DeviceType::cpu) {
  std::vector<const Row*> r;
  for (const Row& row : rows())
    if (row.device == device && std::string(row.backend).find("reference") == std::string::npos)
      r.push_back(&row);
  return r;
}

// The windows are for groups of 32 channels at most; every other row takes every case.
inline bool takes(const Row& row, const Case& c) {
  return row.name != std::string("cpu.windows") || c.x[3] / c.groups <= 32;
}

// What a test of a row on a case is given, and how it is called.
struct RowCase {
  const Row* row;
  Case c;
};
inline std::string name_of(const RowCase& p) {
  std::string s = std::string(p.row->name) + "_" + name_of(p.row->pass) + "_" + p.c.name;
  for (char& ch : s)
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  return s;
}

// The table but for the benchmarks'; with those marked large or without.
inline std::vector<Case> small_cases(bool with_large = false) {
  std::vector<Case> r;
  for (const Case& c : read_cases())
    if (!c.bench && (with_large || !c.large)) r.push_back(c);
  return r;
}

}  // namespace tapfield::testing
