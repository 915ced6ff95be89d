// SPDX-License-Identifier: Apache-2.0
// Stands in for the graph engine's header of this name: a prototype becomes a class of nodes, with functions
// for its inputs, outputs and attributes, and a list of them that a test reads. Each macro ends a function
// that does what the one before it says, declares what its own entry needs, and begins the next function.
#pragma once

#include <any>
#include <cstdint>
#include <map>
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
};

// A node of a graph. Copies are as good as the original.
struct Operator {
  std::string type, name;
  Prototype prototype;
  std::map<std::string, std::vector<Operator>> inputs;  // one each
  std::map<std::string, TensorDesc> outputs;
  std::map<std::string, std::any> attributes;
};

struct Next {
  void end() {}
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

#define REG_OP(op_)                        \
  namespace op {                           \
  struct op_ : Operator {                  \
    using Self = op_;                      \
    explicit op_(const char* name_ = "") { \
      type = #op_, name = name_;           \
      list();                              \
    }                                      \
    void list() {                          \
      Next()
#define INPUT(name_, ...)                                                                  \
  end();                                                                                   \
  list_input_##name_();                                                                    \
  }                                                                                        \
  Self& set_input_##name_(const Operator& from) { return inputs[#name_] = {from}, *this; } \
  void update_input_desc_##name_(const TensorDesc&) {}                                     \
  void list_input_##name_() {                                                              \
    prototype.inputs.push_back({#name_, __VA_ARGS__});                                     \
    Next()
#define OUTPUT(name_, ...)                                                      \
  end();                                                                        \
  list_output_##name_();                                                        \
  }                                                                             \
  void update_output_desc_##name_(const TensorDesc& d) { outputs[#name_] = d; } \
  void list_output_##name_() {                                                  \
    prototype.outputs.push_back({#name_, __VA_ARGS__});                         \
    Next()
#define LIST_ATTRIBUTE(name_, type_, first, standard_)                             \
  end();                                                                           \
  list_attribute_##name_();                                                        \
  }                                                                                \
  Self& set_attr_##name_(const type_& v) { return attributes[#name_] = v, *this; } \
  void list_attribute_##name_() {                                                  \
    first;                                                                         \
    prototype.attributes.push_back({#name_, #type_, standard_});                   \
    Next()
#define REQUIRED_ATTR(name_, type_) LIST_ATTRIBUTE(name_, type_, (void)0, "required")
#define ATTR(name_, type_, ...) \
  LIST_ATTRIBUTE(name_, type_, attributes[#name_] = type_(__VA_ARGS__), text(type_(__VA_ARGS__)))
#define OP_END_FACTORY_REG(op_) \
  end();                        \
  }                             \
  }                             \
  ;                             \
  }                             \
  static_assert(true)
