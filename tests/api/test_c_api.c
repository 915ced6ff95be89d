/* SPDX-License-Identifier: Apache-2.0
   The whole of tapfield.h from C99, without a framework: returns 1 if a check fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tapfield/tapfield.h>

static int failures = 0;

#define CHECK(condition)                                                                                     \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      ++failures;                                                                                            \
      fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, tapfield_last_error()); \
    }                                                                                                        \
  } while (0)

#define CHECK_FAILS(call, status, text)                \
  do {                                                 \
    CHECK((call) == (status));                         \
    CHECK(strcmp(tapfield_last_error(), (text)) == 0); \
  } while (0)

/* The example of docs/operators.md: a 2x2 map, one tap at (0.5, 0.25) with mask 2, the other three masked
 * out. */
static float x_values[4] = {1, 2, 3, 4};
static float offsets_values[12] = {0.25f, 0.5f, 2};
static float grad_values[4] = {1, 0, 0, 0};
static float gg_x_values[4] = {1, 1, 1, 1};
static float y_values[4], grad_x_values[4], grad_offsets_values[12], grad_grad_values[4];

static const int64_t map_shape[4] = {1, 2, 2, 1}, taps_shape[4] = {1, 2, 2, 3};
static const int64_t one_by_one[2] = {1, 1}, ones[4] = {1, 1, 1, 1}, zeros[4] = {0, 0, 0, 0};

static tapfield_tensor tensor(float* data, const int64_t* shape) {
  tapfield_tensor t;
  memset(&t, 0, sizeof t);
  t.size = sizeof t;
  t.data = data;
  t.shape = shape;
  t.rank = 4;
  t.dtype = TAPFIELD_FLOAT32;
  return t;
}

static tapfield_attributes attributes(void) {
  tapfield_attributes a;
  memset(&a, 0, sizeof a);
  a.size = sizeof a;
  a.ksize = one_by_one;
  a.strides = ones;
  a.pads = zeros;
  return a;
}

static tapfield_execution execution(void) {
  tapfield_execution e;
  memset(&e, 0, sizeof e);
  e.size = sizeof e;
  return e;
}

static int equal(const float* values, const float* want, int count) {
  int i;
  for (i = 0; i < count; ++i)
    if (values[i] != want[i]) return 0;
  return 1;
}

/* Runs the pieces last to first, and counts them. */
static void backwards(void* pool, int64_t n, tapfield_parallel_body body, void* context) {
  int64_t i;
  for (i = n; i-- > 0;) body(context, i, i + 1);
  *(int*)pool += 1;
}

static void the_operators(void) {
  static const float want_y[4] = {4.5f, 0, 0, 0}, want_grad_x[4] = {0.75f, 0.25f, 0.75f, 0.25f};
  static const float want_grad_offsets[12] = {2, 4, 2.25f};
  static const float want_grad_grad[4] = {2, 0, 0, 0}; /* the forward, of gg_x instead of x */
  const tapfield_tensor x = tensor(x_values, map_shape), offsets = tensor(offsets_values, taps_shape),
                        grad = tensor(grad_values, map_shape), gg_x = tensor(gg_x_values, map_shape),
                        y = tensor(y_values, map_shape), grad_x = tensor(grad_x_values, map_shape),
                        grad_offsets = tensor(grad_offsets_values, taps_shape),
                        grad_grad = tensor(grad_grad_values, map_shape);
  const tapfield_attributes a = attributes();
  CHECK(tapfield_deformable_offsets(&x, &offsets, &a, &y, NULL) == TAPFIELD_OK);
  CHECK(equal(y_values, want_y, 4));
  CHECK(tapfield_deformable_offsets_grad(&grad, &x, &offsets, &a, &grad_x, &grad_offsets, NULL) ==
        TAPFIELD_OK);
  CHECK(equal(grad_x_values, want_grad_x, 4));
  CHECK(equal(grad_offsets_values, want_grad_offsets, 3));
  CHECK(tapfield_deformable_offsets_grad_grad(&grad, &x, &offsets, &gg_x, NULL, &a, &grad_grad, &grad_x,
                                              &grad_offsets, NULL) == TAPFIELD_OK);
  CHECK(equal(grad_grad_values, want_grad_grad, 4));
  CHECK(tapfield_deformable_offsets_grad_grad(&grad, &x, &offsets, NULL, NULL, &a, &grad_grad, &grad_x,
                                              &grad_offsets, NULL) == TAPFIELD_OK);
  CHECK(equal(grad_grad_values, (const float[4]){0, 0, 0, 0}, 4));
  CHECK(strcmp(tapfield_last_error(), "") == 0);

  /* A field that is zero means its default. */
  {
    static const int64_t dense[4] = {4, 2, 1, 1};
    tapfield_attributes named = a;
    tapfield_tensor strided = y;
    named.dilations = ones;
    named.data_format = "NHWC";
    named.border = "open";
    named.deformable_groups = 1;
    strided.strides = dense;
    memset(y_values, 0x7f, sizeof y_values);
    CHECK(tapfield_deformable_offsets(&x, &offsets, &named, &strided, NULL) == TAPFIELD_OK);
    CHECK(equal(y_values, want_y, 4));
  }
  /* And one that is not zero is read. */
  {
    static const int64_t two_planes[4] = {1, 2, 2, 2};
    static float v1_values[8] = {0.25f, 0.5f};
    const tapfield_tensor v1 = tensor(v1_values, two_planes);
    tapfield_attributes unmodulated = a;
    unmodulated.unmodulated = 1;
    CHECK(tapfield_deformable_offsets(&x, &v1, &unmodulated, &y, NULL) == TAPFIELD_OK);
    CHECK(y_values[0] == 2.25f);
  }
}

static void the_execution(void) {
  const tapfield_tensor x = tensor(x_values, map_shape), offsets = tensor(offsets_values, taps_shape),
                        grad = tensor(grad_values, map_shape), y = tensor(y_values, map_shape),
                        grad_x = tensor(grad_x_values, map_shape),
                        grad_offsets = tensor(grad_offsets_values, taps_shape);
  const tapfield_tensor* tensors[5];
  const tapfield_attributes a = attributes();
  tapfield_execution e = execution();
  size_t bytes = 0, i;
  int calls = 0;
  tensors[0] = &grad, tensors[1] = &x, tensors[2] = &offsets, tensors[3] = &grad_x,
  tensors[4] = &grad_offsets;
  e.threads = 3;
  e.parallel_for = backwards;
  e.pool = &calls;
  CHECK(tapfield_deformable_offsets(&x, &offsets, &a, &y, &e) == TAPFIELD_OK);
  CHECK(y_values[0] == 4.5f);

  e = execution();
  e.backend = "reference"; /* its workspace is known: two doubles an element of x */
  CHECK(tapfield_workspace_size(TAPFIELD_GRAD, tensors, &a, &e, &bytes) == TAPFIELD_OK);
  CHECK(bytes == 8 * sizeof(double));
  {
    char* const block = malloc(bytes + 64);
    char* const aligned = block + (64 - (uintptr_t)block % 64);
    CHECK(block != NULL);
    memset(aligned, 0x7f, bytes);
    e.workspace = aligned;
    e.workspace_bytes = bytes;
    CHECK(tapfield_deformable_offsets_grad(&grad, &x, &offsets, &a, &grad_x, &grad_offsets, &e) ==
          TAPFIELD_OK);
    CHECK(grad_offsets_values[2] == 2.25f);
    for (i = 0; i < bytes && aligned[i] == 0x7f; ++i) {}
    CHECK(i < bytes); /* it was used */
    free(block);
  }
  CHECK(tapfield_set_num_threads(2) == TAPFIELD_OK);
  CHECK(tapfield_get_num_threads() == 2);
  CHECK_FAILS(tapfield_set_num_threads(0), TAPFIELD_INVALID_ARGUMENT, "n must be from 1 to 4096 but is 0");
  CHECK(tapfield_get_num_threads() == 2);
  tapfield_release_scratch();
  CHECK(strcmp(tapfield_version(), EXPECTED_VERSION) == 0);
}

static void output_size(void) {
  static const int64_t size[2] = {7, 11}, kernel[2] = {3, 2}, pads[4] = {1, 0, 2, 0},
                       strides[4] = {1, 2, 3, 1};
  int64_t ho_wo[2] = {0, 0};
  tapfield_attributes a = attributes();
  a.ksize = kernel;
  a.pads = pads;
  a.strides = strides;
  CHECK(tapfield_output_size(size, &a, ho_wo) == TAPFIELD_OK);
  CHECK(ho_wo[0] == 3 && ho_wo[1] == 4); /* (7+1-3)/2+1, (11+2-2)/3+1 */
  CHECK_FAILS(tapfield_output_size(NULL, &a, ho_wo), TAPFIELD_INVALID_ARGUMENT,
              "size must be given but is null");
  CHECK_FAILS(tapfield_output_size(size, &a, NULL), TAPFIELD_INVALID_ARGUMENT,
              "ho_wo must be given but is null");
  CHECK_FAILS(tapfield_output_size(size, NULL, ho_wo), TAPFIELD_INVALID_ARGUMENT,
              "attributes must be given but is null");
  CHECK(ho_wo[0] == 3 && ho_wo[1] == 4);
}

static void what_only_c_can_get_wrong(void) {
  const tapfield_tensor x = tensor(x_values, map_shape), offsets = tensor(offsets_values, taps_shape),
                        y = tensor(y_values, map_shape);
  const tapfield_tensor* tensors[3];
  const tapfield_attributes a = attributes();
  size_t bytes = 7;
  tensors[0] = &x, tensors[1] = &offsets, tensors[2] = &y;
  memset(y_values, 0x7f, sizeof y_values);

#define FORWARD(x_, offsets_, a_, y_, e_) tapfield_deformable_offsets(x_, offsets_, a_, y_, e_)
#define BAD(call, text) CHECK_FAILS(call, TAPFIELD_INVALID_ARGUMENT, text)
#define WITH(type, from, change, call, text) \
  do {                                       \
    type bad = from;                         \
    change;                                  \
    BAD(call, text);                         \
  } while (0)
  BAD(FORWARD(NULL, &offsets, &a, &y, NULL), "x must be given but is null");
  BAD(FORWARD(&x, NULL, &a, &y, NULL), "offsets must be given but is null");
  BAD(FORWARD(&x, &offsets, NULL, &y, NULL), "attributes must be given but is null");
  BAD(FORWARD(&x, &offsets, &a, NULL, NULL), "y must be given but is null");
  WITH(tapfield_tensor, x, bad.size = 0, FORWARD(&bad, &offsets, &a, &y, NULL),
       "x.size must be sizeof(its struct) but is 0");
  WITH(tapfield_tensor, y, bad.size = 5000, FORWARD(&x, &offsets, &a, &bad, NULL),
       "y.size must be sizeof(its struct) but is 5000");
  WITH(tapfield_attributes, a, bad.size = 7, FORWARD(&x, &offsets, &bad, &y, NULL),
       "attributes.size must be sizeof(its struct) but is 7");
  WITH(tapfield_execution, execution(), bad.size = 0, FORWARD(&x, &offsets, &a, &y, &bad),
       "execution.size must be sizeof(its struct) but is 0");
  WITH(tapfield_tensor, x, bad.shape = NULL, FORWARD(&bad, &offsets, &a, &y, NULL),
       "x.shape must be given but is null");
  WITH(tapfield_tensor, x, bad.rank = -1, FORWARD(&bad, &offsets, &a, &y, NULL),
       "x.rank must be 4 but is -1");
  WITH(tapfield_tensor, x, bad.rank = 3, FORWARD(&bad, &offsets, &a, &y, NULL),
       "x must have 4 dimensions (N, H, W, C) but has shape [1, 2, 2]");
  WITH(tapfield_tensor, offsets, bad.device_type = 9, FORWARD(&x, &bad, &a, &y, NULL),
       "offsets.device_type must be TAPFIELD_CPU or TAPFIELD_CUDA but is 9");
  WITH(tapfield_attributes, a, bad.ksize = NULL, FORWARD(&x, &offsets, &bad, &y, NULL),
       "ksize must be given but is null");
  WITH(tapfield_attributes, a, bad.strides = NULL, FORWARD(&x, &offsets, &bad, &y, NULL),
       "strides must be given but is null");
  WITH(tapfield_attributes, a, bad.pads = NULL, FORWARD(&x, &offsets, &bad, &y, NULL),
       "pads must be given but is null");
  BAD(tapfield_workspace_size(9, tensors, &a, NULL, &bytes), "pass must be a tapfield_pass but is 9");
  BAD(tapfield_workspace_size(TAPFIELD_FORWARD, NULL, &a, NULL, &bytes), "tensors must be given but is null");
  BAD(tapfield_workspace_size(TAPFIELD_FORWARD, tensors, &a, NULL, NULL), "bytes must be given but is null");
  BAD(tapfield_workspace_size(TAPFIELD_FORWARD, tensors, NULL, NULL, &bytes),
      "attributes must be given but is null");
  tensors[1] = NULL;
  BAD(tapfield_workspace_size(TAPFIELD_FORWARD, tensors, &a, NULL, &bytes),
      "offsets must be given but is null");
  tensors[1] = &offsets;
  {
    tapfield_tensor bad = x;
    bad.dtype = 9;
    CHECK_FAILS(FORWARD(&bad, &offsets, &a, &y, NULL), TAPFIELD_INVALID_DTYPE,
                "x must be float16 or bfloat16 or float32 or float64 but is dtype code 9");
  }
  CHECK(bytes == 7);
  {
    const unsigned char* byte = (const unsigned char*)y_values;
    size_t i;
    for (i = 0; i < sizeof y_values; ++i) CHECK(byte[i] == 0x7f);
  }
}

/* A program built with an older header has smaller structs; what it does not have means the default. One
   built with a newer header has larger ones. */
static void structs_of_other_versions(void) {
  const tapfield_tensor x = tensor(x_values, map_shape), offsets = tensor(offsets_values, taps_shape);
  tapfield_tensor y = tensor(y_values, map_shape);
  tapfield_attributes a = attributes();
  tapfield_execution e = execution();
  struct {
    tapfield_attributes known;
    char more[64];
  } newer;
  y.read_only = 1; /* beyond its size, so it is not there */
  y.size = offsetof(tapfield_tensor, read_only);
  a.border = "nonsense";
  a.unmodulated = 1;
  a.size = offsetof(tapfield_attributes, border);
  e.threads = -1;
  e.backend = "nonsense";
  e.size = offsetof(tapfield_execution, backend);
  CHECK(tapfield_deformable_offsets(&x, &offsets, &a, &y, &e) == TAPFIELD_OK);
  CHECK(y_values[0] == 4.5f);
  y.size = sizeof y;
  CHECK_FAILS(tapfield_deformable_offsets(&x, &offsets, &a, &y, &e), TAPFIELD_INVALID_ARGUMENT,
              "y is written but is read-only");
  y.read_only = 0;
  memset(&newer, 0x7f, sizeof newer);
  newer.known = attributes();
  newer.known.size = sizeof newer;
  CHECK(tapfield_deformable_offsets(&x, &offsets, &newer.known, &y, NULL) == TAPFIELD_OK);
}

int main(void) {
  the_operators();
  the_execution();
  output_size();
  what_only_c_can_get_wrong();
  structs_of_other_versions();
  return failures != 0;
}
