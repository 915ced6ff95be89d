// SPDX-License-Identifier: Apache-2.0
#include "error_cases.h"

namespace tapfield::test {

std::vector<Case> attribute_cases() {
  std::vector<Case> cases;
  const auto add = [&](const char* name, std::function<void(Attributes&)> change, std::string message,
                       bool in_c = true) {
    cases.push_back({name, F, [change](Call& c) { change(c.attributes); }, std::move(message),
                     TAPFIELD_INVALID_ARGUMENT, in_c});
  };
  add(
      "ksize_missing", [](auto& a) { a.ksize = {}; }, "ksize must have 2 entries (Kh, Kw) but is []", false);
  add(
      "ksize_three",
      [](auto& a) {
        a.ksize = {1, 2, 3};
      },
      "ksize must have 2 entries (Kh, Kw) but is [1, 2, 3]", false);
  add(
      "ksize_long", [](auto& a) { a.ksize = {1, 2, 3, 4, 5, 6, 7, 8, 9}; },
      "ksize must have 2 entries (Kh, Kw) but is [1, 2, 3, 4, 5, 6, 7, 8, ...]", false);
  add(
      "ksize_zero",
      [](auto& a) {
        a.ksize = {2, 0};
      },
      "ksize must have entries of at least 1 (Kh, Kw) but is [2, 0]");
  add(
      "ksize_least",
      [](auto& a) {
        a.ksize = {kMin, 3};
      },
      "ksize must have entries of at least 1 (Kh, Kw) but is [-9223372036854775808, 3]");
  add(
      "ksize_greatest",
      [](auto& a) {
        a.ksize = {2, kMax};
      },
      "ksize must have entries of at least 1 and below 2^62 (Kh, Kw) but is [2, 9223372036854775807]");
  add(
      "ksize_product",
      [](auto& a) {
        a.ksize = {std::int64_t{1} << 40, std::int64_t{1} << 40};
        a.pads = {kMax / 4, 0, kMax / 4, 0};
      },
      "ksize is too large: its size overflows 64 bits");
  add(
      "strides_missing", [](auto& a) { a.strides = {}; },
      "strides must have 4 entries (N, H, W, C) but is []", false);
  add(
      "strides_two",
      [](auto& a) {
        a.strides = {1, 2};
      },
      "strides must have 4 entries (N, H, W, C) but is [1, 2]", false);
  add(
      "strides_zero",
      [](auto& a) {
        a.strides = {1, 1, 0, 1};
      },
      "strides must have entries of at least 1 (N, H, W, C) but is [1, 1, 0, 1]");
  add(
      "strides_batch",
      [](auto& a) {
        a.strides = {2, 1, 1, 1};
      },
      "strides must be 1 for N and C (N, H, W, C) but is [2, 1, 1, 1]");
  add(
      "strides_channels",
      [](auto& a) {
        a.strides = {1, 1, 1, 2};
      },
      "strides must be 1 for N and C (N, H, W, C) but is [1, 1, 1, 2]");
  add(
      "strides_of_the_other_order",
      [](auto& a) {
        a.data_format = "NCHW";
        a.strides = {1, 2, 1, 1};
      },
      "strides must be 1 for N and C (N, C, H, W) but is [1, 2, 1, 1]");
  add(
      "strides_greatest",
      [](auto& a) {
        a.strides = {1, kMax, 1, 1};
      },
      "strides must have entries of at least 1 and below 2^62 (N, H, W, C) but is [1, 9223372036854775807, "
      "1, 1]");
  add(
      "pads_two",
      [](auto& a) {
        a.pads = {1, 1};
      },
      "pads must have 4 entries (top, bottom, left, right) but is [1, 1]", false);
  add(
      "pads_negative",
      [](auto& a) {
        a.pads = {0, 0, -1, 0};
      },
      "pads must have entries of at least 0 (top, bottom, left, right) but is [0, 0, -1, 0]");
  add(
      "pads_greatest",
      [](auto& a) {
        a.pads = {kMax, 0, 0, 0};
      },
      "pads must have entries of at least 0 and below 2^62 (top, bottom, left, right) but is "
      "[9223372036854775807, 0, 0, 0]");
  add(
      "pads_sum",
      [](auto& a) {
        a.pads = {kMax / 2, kMax / 2, 0, 0};
      },
      "pads is too large: its size overflows 64 bits");
  add(
      "dilations_two",
      [](auto& a) {
        a.dilations = {1, 1};
      },
      "dilations must have 4 entries (N, H, W, C) but is [1, 1]", false);
  add(
      "dilations_zero",
      [](auto& a) {
        a.dilations = {1, 0, 1, 1};
      },
      "dilations must have entries of at least 1 (N, H, W, C) but is [1, 0, 1, 1]");
  add(
      "dilations_channels",
      [](auto& a) {
        a.dilations = {1, 1, 1, 3};
      },
      "dilations must be 1 for N and C (N, H, W, C) but is [1, 1, 1, 3]");
  add(
      "dilations_product",
      [](auto& a) {
        a.dilations = {1, 1, kMax / 2, 1};
      },
      "ksize times dilations is too large: its size overflows 64 bits");
  add(
      "extent_along_h",
      [](auto& a) {
        a.ksize = {8, 3};
      },
      "ksize must fit the padded input, so that Ho is at least 1, but is [8, 3] with dilations [1, 1, 2, 1], "
      "pads [1, 1, 1, 2] "
      "and size 4 along H");
  add(
      "extent_along_w",
      [](auto& a) {
        a.dilations = {1, 1, 4, 1};
      },
      "ksize must fit the padded input, so that Wo is at least 1, but is [2, 3] with dilations [1, 1, 4, 1], "
      "pads [1, 1, 1, 2] "
      "and size 5 along W");
  add(
      "data_format_unknown", [](auto& a) { a.data_format = "nhwc"; },
      "data_format must be \"NHWC\" or \"NCHW\" but is \"nhwc\"");
  add(
      "data_format_null", [](auto& a) { a.data_format = nullptr; },
      "data_format must be \"NHWC\" or \"NCHW\" but is null", false);
  add(
      "border_unknown", [](auto& a) { a.border = ""; }, "border must be \"open\" or \"closed\" but is \"\"");
  add(
      "border_null", [](auto& a) { a.border = nullptr; }, "border must be \"open\" or \"closed\" but is null",
      false);
  add(
      "groups_zero", [](auto& a) { a.deformable_groups = 0; },
      "deformable_groups must be at least 1 but is 0", false);
  add(
      "groups_negative", [](auto& a) { a.deformable_groups = -2; },
      "deformable_groups must be at least 1 but is -2");
  add(
      "groups_not_dividing", [](auto& a) { a.deformable_groups = 4; },
      "deformable_groups must divide C = 6 but is 4");
  add(
      "groups_greatest", [](auto& a) { a.deformable_groups = kMax; },
      "deformable_groups must divide C = 6 but is 9223372036854775807");
  add(
      "groups_other", [](auto& a) { a.deformable_groups = 3; },
      "offsets must have shape [2, 5, 2, 54] (N, Ho, Wo, 3*G*Kh*Kw) but has [2, 5, 2, 36]");
  add(
      "unmodulated", [](auto& a) { a.modulated = false; },
      "offsets must have shape [2, 5, 2, 24] (N, Ho, Wo, 2*G*Kh*Kw) but has [2, 5, 2, 36]");
  return cases;
}

std::vector<Case> dtype_cases() {
  const auto code = static_cast<DType>(7);
  const auto half = DType::float16;
  const auto wide = DType::float64;
  const auto D = TAPFIELD_INVALID_DTYPE;
  return {
      {"dtype_x_unknown", F, [=](Call& c) { c.x.dtype = code; },
       "x must be float16 or bfloat16 or float32 or float64 but is dtype code 7", D},
      {"dtype_x_negative", F, [](Call& c) { c.x.dtype = static_cast<DType>(-1); },
       "x must be float16 or bfloat16 or float32 or float64 but is dtype code -1", D},
      {"dtype_offsets_unknown", F, [=](Call& c) { c.offsets.dtype = code; },
       "offsets must be float32, as x is float32, but is dtype code 7", D},
      {"dtype_offsets_narrower", G, [=](Call& c) { c.offsets.dtype = half; },
       "offsets must be float32, as x is float32, but is float16", D},
      {"dtype_offsets_wider", G, [=](Call& c) { c.offsets.dtype = wide; },
       "offsets must be float32, as x is float32, but is float64", D},
      {"dtype_offsets_of_another_16bit", G,
       [=](Call& c) {
         c.x.dtype = half;
         c.offsets.dtype = DType::bfloat16;
       },
       "offsets must be float16 or float32, as x is float16, but is bfloat16", D},
      {"dtype_y", F, [=](Call& c) { c.y.dtype = wide; }, "y must be float32, as x is, but is float64", D},
      {"dtype_grad", G, [=](Call& c) { c.grad.dtype = half; },
       "grad must be float32, as x is, but is float16", D},
      {"dtype_grad_x", G, [=](Call& c) { c.grad_x.dtype = wide; },
       "grad_x must be float32, as x is float32, but is float64", D},
      {"dtype_grad_offsets", G, [=](Call& c) { c.grad_offsets.dtype = half; },
       "grad_offsets must be float32, as offsets is float32, but is float16", D},
      {"dtype_gg_x", GG, [=](Call& c) { c.gg_x.dtype = half; },
       "gg_x must be float32, as x is float32, but is float16", D},
      {"dtype_gg_offsets", GG, [=](Call& c) { c.gg_offsets.dtype = wide; },
       "gg_offsets must be float32, as offsets is float32, but is float64", D},
      {"dtype_grad_grad", GG, [=](Call& c) { c.grad_grad.dtype = half; },
       "grad_grad must be float32, as x is, but is float16", D},
  };
}

std::vector<Case> execution_cases() {
  return {
      {"threads_negative", F, [](Call& c) { c.execution.threads = -1; },
       "execution.threads must be from 0 (the library's setting) to 4096 but is -1"},
      {"threads_many", F, [](Call& c) { c.execution.threads = 4097; },
       "execution.threads must be from 0 (the library's setting) to 4096 but is 4097"},
      {"workspace_small", G,
       [](Call& c) {
         c.execution.backend = "reference", c.execution.workspace = c.slot(9),
         c.execution.workspace_bytes = 959;
       },
       "execution.workspace must have 960 bytes but has 959"},  // a double an element of one image of x
      {"workspace_misaligned", G,
       [](Call& c) {
         c.execution.workspace = c.slot(9) + 32, c.execution.workspace_bytes = Call::kRoom - 32;
       },
       "execution.workspace must be aligned to 64 bytes but is not"},
      {"backend_unknown", F, [](Call& c) { c.execution.backend = "gpu"; },
       "execution.backend must be one of cpu, cuda, reference, reference.magnitudes but is \"gpu\""},
      {"backend_empty", F, [](Call& c) { c.execution.backend = ""; },
       "execution.backend must be one of cpu, cuda, reference, reference.magnitudes but is \"\""},
      {"backend_of_another_device", F, [](Call& c) { c.execution.backend = "cuda"; },
       "no backend can run this call: cuda.tiles: the tensors are on another device"},
  };
}

}  // namespace tapfield::test
