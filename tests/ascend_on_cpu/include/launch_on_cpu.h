// SPDX-License-Identifier: Apache-2.0
// What a launch in an .asc file becomes: kernel<<<cores, 0, stream>>>(arguments) is launch_on_cpu(cores,
// stream, kernel, arguments), by CMakeLists.txt.
#pragma once

#include "machine.h"

template <class... Parameters, class... Arguments>
void launch_on_cpu(std::int64_t cores, void*, void (*kernel)(Parameters...), const Arguments&... arguments) {
  ascend_on_cpu::run_cores(cores, [&] { kernel(arguments...); });
}
