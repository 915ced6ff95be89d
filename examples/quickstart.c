/* SPDX-License-Identifier: Apache-2.0
   One tap of deformable sampling and its gradients: the worked example of docs/operators.md. */
#include <stdio.h>

#include <tapfield/tapfield.h>

int main(void) {
  /* A 2x2 map; at output (0, 0) the tap moves 0.25 along W and 0.5 along H, with mask 2. Others have 0. */
  float x[4] = {1, 2, 3, 4}, offsets[12] = {0.25f, 0.5f, 2}, grad[4] = {1, 0, 0, 0};
  float y[4], grad_x[4], grad_offsets[12];
  const int64_t map[4] = {1, 2, 2, 1}, taps[4] = {1, 2, 2, 3}; /* [N, H, W, C], [N, Ho, Wo, W | H | mask] */
  const int64_t ksize[2] = {1, 1}, strides[4] = {1, 1, 1, 1}, pads[4] = {0, 0, 0, 0};

#define TENSOR(array, axes) \
  { .size = sizeof(tapfield_tensor), .data = array, .shape = axes, .rank = 4, .dtype = TAPFIELD_FLOAT32 }
  const tapfield_tensor tx = TENSOR(x, map), to = TENSOR(offsets, taps), tg = TENSOR(grad, map),
                        ty = TENSOR(y, map), tgx = TENSOR(grad_x, map), tgo = TENSOR(grad_offsets, taps);
  const tapfield_attributes a = {.size = sizeof a, .ksize = ksize, .strides = strides, .pads = pads};

  if (tapfield_deformable_offsets(&tx, &to, &a, &ty, NULL) != TAPFIELD_OK ||
      tapfield_deformable_offsets_grad(&tg, &tx, &to, &a, &tgx, &tgo, NULL) != TAPFIELD_OK) {
    fprintf(stderr, "%s\n", tapfield_last_error());
    return 1;
  }
  printf("y = %g\n", y[0]);
  printf("grad_x = %g %g %g %g\n", grad_x[0], grad_x[1], grad_x[2], grad_x[3]);
  printf("grad_offsets = %g along W, %g along H, %g mask\n", grad_offsets[0], grad_offsets[1],
         grad_offsets[2]);
  return 0;
}
