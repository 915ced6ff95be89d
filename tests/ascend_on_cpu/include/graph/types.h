// SPDX-License-Identifier: Apache-2.0
// Stands in for the graph engine's header of this name.
#pragma once

namespace ge {

enum DataType { DT_FLOAT = 0, DT_FLOAT16 = 1, DT_INT32 = 3, DT_BF16 = 27, DT_UNDEFINED = 28 };

using graphStatus = unsigned;
constexpr graphStatus GRAPH_SUCCESS = 0, GRAPH_FAILED = 0xffffffff;

}  // namespace ge
