// SPDX-License-Identifier: Apache-2.0
// One tap of deformable sampling and its gradients: the worked example of docs/operators.md.
#include <cstdio>

#include <tapfield/tapfield.hpp>

int main() {
  // A 2x2 map; at output (0, 0) the tap moves 0.25 along W and 0.5 along H, with mask 2. The others have 0.
  const float x[] = {1, 2, 3, 4};  // [N, H, W, C] = [1, 2, 2, 1]
  const float offsets[] = {0.25f, 0.5f, 2, 0, 0, 0,
                           0,     0,    0, 0, 0, 0};  // [N, Ho, Wo, W | H | mask] = [1, 2, 2, 3]
  const float grad[] = {1, 0, 0, 0};                  // as y
  float y[4], grad_x[4], grad_offsets[12];

  tapfield::Attributes a;
  a.ksize = {1, 1}, a.strides = {1, 1, 1, 1}, a.pads = {0, 0, 0, 0};
  tapfield::deformable_offsets({x, {1, 2, 2, 1}}, {offsets, {1, 2, 2, 3}}, a, {y, {1, 2, 2, 1}});
  tapfield::deformable_offsets_grad({grad, {1, 2, 2, 1}}, {x, {1, 2, 2, 1}}, {offsets, {1, 2, 2, 3}}, a,
                                    {grad_x, {1, 2, 2, 1}}, {grad_offsets, {1, 2, 2, 3}});

  std::printf("y = %g\n", y[0]);
  std::printf("grad_x = %g %g %g %g\n", grad_x[0], grad_x[1], grad_x[2], grad_x[3]);
  std::printf("grad_offsets = %g along W, %g along H, %g mask\n", grad_offsets[0], grad_offsets[1],
              grad_offsets[2]);
}
