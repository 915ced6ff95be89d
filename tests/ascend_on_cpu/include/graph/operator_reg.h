// SPDX-License-Identifier: Apache-2.0
// Stands in for the graph engine's header of this name: prototypes become lists that a test reads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/types.h"

namespace ge {

using TensorType = std::vector<DataType>;
using ListInt = std::vector<std::int64_t>;
using String = std::string;
using Int = std::int64_t;
using Bool = bool;

struct Prototype {
  struct Tensor {
    std::string name;
    TensorType types;
  };
  struct Attribute {
    std::string name, type, standard;  // the default, as text; "required"
  };
  std::vector<Tensor> inputs, outputs;
  std::vector<Attribute> attributes;

  Prototype& input(const char* name, TensorType types) { return inputs.push_back({name, types}), *this; }
  Prototype& output(const char* name, TensorType types) { return outputs.push_back({name, types}), *this; }
  Prototype& attribute(const char* name, const char* type, const std::string& standard) {
    return attributes.push_back({name, type, standard}), *this;
  }
};

inline std::string text(const ListInt& v) {
  std::string s;
  for (std::int64_t i : v) s += (s.empty() ? "" : ", ") + std::to_string(i);
  return s;
}
inline std::string text(const String& s) { return s; }
inline std::string text(Int i) { return std::to_string(i); }
inline std::string text(Bool b) { return b ? "true" : "false"; }

}  // namespace ge

#define REG_OP(op) inline const Prototype prototype_of_##op = Prototype()
#define INPUT(name, ...) input(#name, __VA_ARGS__)
#define OUTPUT(name, ...) output(#name, __VA_ARGS__)
#define REQUIRED_ATTR(name, type) attribute(#name, #type, "required")
#define ATTR(name, type, ...) attribute(#name, #type, text(type(__VA_ARGS__)))
#define OP_END_FACTORY_REG(op) attribute("", "", #op)
