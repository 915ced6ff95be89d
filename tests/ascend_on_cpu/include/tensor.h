// SPDX-License-Identifier: Apache-2.0
// Stands in for the graph engine's header of this name.
#pragma once

#include "ge/ge_api.h"
