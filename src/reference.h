// SPDX-License-Identifier: Apache-2.0
// The golden reference (reference.cpp): one thread, any strides, double arithmetic.
#pragma once

#include "execution.h"
#include "problem.h"

namespace tapfield::reference {

std::size_t workspace(const Problem& p,
                      int slots);  // two doubles an element of one image of x for the gradients, else 0

void forward(const Problem& p, const Workers&, void* workspace);
void grad(const Problem& p, const Workers&, void* workspace);
void grad_grad(const Problem& p, const Workers&, void* workspace);

// The same passes, each output element the sum of |terms|.
void forward_magnitudes(const Problem& p, const Workers&, void* workspace);
void grad_magnitudes(const Problem& p, const Workers&, void* workspace);
void grad_grad_magnitudes(const Problem& p, const Workers&, void* workspace);

}  // namespace tapfield::reference
