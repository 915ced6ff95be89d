/* SPDX-License-Identifier: Apache-2.0
   tapfield: DeformableOffsets, its gradient and its second derivative. The C interface (C99).

   The same operators, rules and guarantees as tapfield.hpp; see there and docs/operators.md. Differences:
    - a call returns a status code; anything but TAPFIELD_OK means that nothing was written, and
      tapfield_last_error() says why (per thread);
    - every struct begins with its own size in bytes, so that it can grow: zero it, set .size = sizeof it, and
   fill in what its comment calls required. A zero or null field that is not required means its default;
    - an absent tensor is a null pointer. */
#ifndef TAPFIELD_TAPFIELD_H_
#define TAPFIELD_TAPFIELD_H_

#include <stddef.h>
#include <stdint.h>

#if defined(TAPFIELD_STATIC)
#define TAPFIELD_API
#else
#define TAPFIELD_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { TAPFIELD_FLOAT16 = 0, TAPFIELD_BFLOAT16 = 1, TAPFIELD_FLOAT32 = 2, TAPFIELD_FLOAT64 = 3 };
enum { TAPFIELD_CPU = 0, TAPFIELD_CUDA = 1 };

typedef enum tapfield_status {
  TAPFIELD_OK = 0,
  TAPFIELD_INVALID_ARGUMENT = 1,
  TAPFIELD_INVALID_DTYPE = 2,
  TAPFIELD_OUT_OF_MEMORY = 3,
  TAPFIELD_INTERNAL_ERROR = 4
} tapfield_status;

/* Calls body(context, begin, end) on pieces that cover [0, n), in any order, on any threads; returns when all
   are done. A body does not throw, and does not wait for another. */
typedef void (*tapfield_parallel_body)(void* context, int64_t begin, int64_t end);
typedef void (*tapfield_parallel_for)(void* pool, int64_t n, tapfield_parallel_body body, void* context);

/* A view of memory that the caller owns. */
typedef struct tapfield_tensor {
  size_t size;            /* sizeof(tapfield_tensor) */
  void* data;             /* required; inputs are not written */
  const int64_t* shape;   /* required: [rank] */
  const int64_t* strides; /* [rank], in elements; null: dense, last axis adjacent */
  int32_t rank;           /* required: 4 */
  int32_t dtype;          /* TAPFIELD_FLOAT16 ... */
  int32_t device_type;    /* TAPFIELD_CPU ... */
  int32_t device_index;
  int32_t read_only; /* not 0: refused as an output */
} tapfield_tensor;

typedef struct tapfield_attributes {
  size_t size;               /* sizeof(tapfield_attributes) */
  const int64_t* ksize;      /* required: Kh, Kw */
  const int64_t* strides;    /* required: 4, in data_format's order */
  const int64_t* pads;       /* required: top, bottom, left, right */
  const int64_t* dilations;  /* 4, in data_format's order; null: 1, 1, 1, 1 */
  const char* data_format;   /* "NHWC" or "NCHW"; null: "NHWC" */
  const char* border;        /* "open" or "closed"; null: "open" */
  int64_t deformable_groups; /* 0: 1 */
  int32_t unmodulated;       /* not 0: no mask plane */
} tapfield_attributes;

typedef struct tapfield_execution {
  size_t size; /* sizeof(tapfield_execution) */
  tapfield_parallel_for parallel_for;
  void* pool;
  void* workspace;
  size_t workspace_bytes;
  void* stream;
  const char* backend;
  int32_t threads;
  int32_t deterministic;
} tapfield_execution;

typedef enum tapfield_pass { TAPFIELD_FORWARD = 0, TAPFIELD_GRAD = 1, TAPFIELD_GRAD_GRAD = 2 } tapfield_pass;

/* Shapes are NHWC; with data_format "NCHW" the channel axis comes second. P = 3 (2 if unmodulated).
   `execution` may be null. */
TAPFIELD_API tapfield_status tapfield_deformable_offsets(
    const tapfield_tensor* x,                                        /* [N, H, W, C] */
    const tapfield_tensor* offsets,                                  /* [N, Ho, Wo, P*G*Kh*Kw] */
    const tapfield_attributes* attributes, const tapfield_tensor* y, /* out: [N, Ho*Kh, Wo*Kw, C] */
    const tapfield_execution* execution);

TAPFIELD_API tapfield_status tapfield_deformable_offsets_grad(
    const tapfield_tensor* grad,                                          /* [N, Ho*Kh, Wo*Kw, C] */
    const tapfield_tensor* x,                                             /* [N, H, W, C] */
    const tapfield_tensor* offsets,                                       /* [N, Ho, Wo, P*G*Kh*Kw] */
    const tapfield_attributes* attributes, const tapfield_tensor* grad_x, /* out: as x */
    const tapfield_tensor* grad_offsets,                                  /* out: as offsets */
    const tapfield_execution* execution);

TAPFIELD_API tapfield_status tapfield_deformable_offsets_grad_grad(
    const tapfield_tensor* grad,                                             /* [N, Ho*Kh, Wo*Kw, C] */
    const tapfield_tensor* x,                                                /* [N, H, W, C] */
    const tapfield_tensor* offsets,                                          /* [N, Ho, Wo, P*G*Kh*Kw] */
    const tapfield_tensor* gg_x,                                             /* as x, or null */
    const tapfield_tensor* gg_offsets,                                       /* as offsets, or null */
    const tapfield_attributes* attributes, const tapfield_tensor* grad_grad, /* out: as grad */
    const tapfield_tensor* grad_x,                                           /* out: as x */
    const tapfield_tensor* grad_offsets,                                     /* out: as offsets */
    const tapfield_execution* execution);

/* ho_wo[0..1] of an input of height and width size[0..1]. */
TAPFIELD_API tapfield_status tapfield_output_size(const int64_t* size, const tapfield_attributes* attributes,
                                                  int64_t* ho_wo);

/* Bytes of scratch for a tapfield_pass; `tensors` holds the tensors in the order of its own arguments: 3, 5
 * or 8. */
TAPFIELD_API tapfield_status tapfield_workspace_size(int32_t pass, const tapfield_tensor* const* tensors,
                                                     const tapfield_attributes* attributes,
                                                     const tapfield_execution* execution, size_t* bytes);

TAPFIELD_API tapfield_status tapfield_set_num_threads(int32_t n);
TAPFIELD_API int32_t tapfield_get_num_threads(void);
TAPFIELD_API void tapfield_release_scratch(void);

/* The text of this thread's last error, "" if its last call succeeded. Valid until its next call. */
TAPFIELD_API const char* tapfield_last_error(void);
TAPFIELD_API const char* tapfield_version(void);

#ifdef __cplusplus
}
#endif

#endif /* TAPFIELD_TAPFIELD_H_ */
