// SPDX-License-Identifier: Apache-2.0
// Stands in for CANN's header of this name.
#pragma once

#include "elements.h"
