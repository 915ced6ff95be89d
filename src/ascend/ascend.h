// SPDX-License-Identifier: Apache-2.0
// What backends() says of Ascend: it is no device of this library's tensors, but a package that CANN loads.
#pragma once

#include "tapfield/tapfield.hpp"

namespace tapfield::ascend {

inline BackendInfo info() {
  return {"ascend", "ascend", false,
          "not called from here: operators of CANN's graph mode, built with -DTAPFIELD_ASCEND=dav-2201 or "
          "dav-3510 "
          "(docs/ascend.md)"};
}

}  // namespace tapfield::ascend
