// SPDX-License-Identifier: Apache-2.0
// Stands in for CANN's header of this name. The log is a list that a test reads.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

using aclError = int;
constexpr aclError ACL_SUCCESS = 0;
enum aclLogLevel { ACL_ERROR = 3 };
enum aclrtDevAttr { ACL_DEV_ATTR_VECTOR_CORE_NUM };

namespace ascend_on_cpu {
struct Acl {
  std::int64_t vector_cores = 3;
  std::vector<std::string> log;
};
inline Acl& acl() {
  static Acl a;
  return a;
}
}  // namespace ascend_on_cpu

inline aclError aclrtGetDevice(std::int32_t* device) { return *device = 0, ACL_SUCCESS; }
inline aclError aclrtGetDeviceInfo(std::uint32_t, aclrtDevAttr, std::int64_t* value) {
  return *value = ascend_on_cpu::acl().vector_cores, ACL_SUCCESS;
}
inline void aclAppLog(aclLogLevel, const char* function, const char*, std::uint32_t, const char* format,
                      ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  ascend_on_cpu::acl().log.push_back(std::string(function) + ": " + text);
}
