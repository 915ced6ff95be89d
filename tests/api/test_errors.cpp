// SPDX-License-Identifier: Apache-2.0
// Every rule of docs/operators.md, "Errors": a valid call, one change, the whole message, and nothing written.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>

#include "call.h"

namespace tapfield::test {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max(), kMin = std::numeric_limits<std::int64_t>::min();

struct Case {
  std::string name;
  tapfield_pass pass;
  std::function<void(Call&)> change;
  std::string message;
  tapfield_status status = TAPFIELD_INVALID_ARGUMENT;
  bool in_c = true;  // false: C cannot say it (its attribute lists have no length)
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.message; }

constexpr auto F = TAPFIELD_FORWARD;
constexpr auto G = TAPFIELD_GRAD;
constexpr auto GG = TAPFIELD_GRAD_GRAD;
const char* const kInterleaved =
    " but their ranges of memory do (interleaved slices of one buffer count as overlapping)";

std::vector<Case> attribute_cases() {
  std::vector<Case> cases;
  const auto add = [&](const char* name, std::function<void(Attributes&)> change, std::string message, bool in_c = true) {
    cases.push_back({name, F, [change](Call& c) { change(c.attributes); }, std::move(message), TAPFIELD_INVALID_ARGUMENT, in_c});
  };
  add("ksize_missing", [](auto& a) { a.ksize = {}; }, "ksize must have 2 entries (Kh, Kw) but is []", false);
  add("ksize_three", [](auto& a) { a.ksize = {1, 2, 3}; }, "ksize must have 2 entries (Kh, Kw) but is [1, 2, 3]", false);
  add("ksize_long", [](auto& a) { a.ksize = {1, 2, 3, 4, 5, 6, 7, 8, 9}; },
      "ksize must have 2 entries (Kh, Kw) but is [1, 2, 3, 4, 5, 6, 7, 8, ...]", false);
  add("ksize_zero", [](auto& a) { a.ksize = {2, 0}; }, "ksize must have entries of at least 1 (Kh, Kw) but is [2, 0]");
  add("ksize_least", [](auto& a) { a.ksize = {kMin, 3}; },
      "ksize must have entries of at least 1 (Kh, Kw) but is [-9223372036854775808, 3]");
  add("ksize_greatest", [](auto& a) { a.ksize = {2, kMax}; },
      "ksize must have entries of at least 1 and below 2^62 (Kh, Kw) but is [2, 9223372036854775807]");
  add("ksize_product", [](auto& a) { a.ksize = {std::int64_t{1} << 40, std::int64_t{1} << 40}; a.pads = {kMax / 4, 0, kMax / 4, 0}; },
      "ksize is too large: its size overflows 64 bits");
  add("strides_missing", [](auto& a) { a.strides = {}; }, "strides must have 4 entries (N, H, W, C) but is []", false);
  add("strides_two", [](auto& a) { a.strides = {1, 2}; }, "strides must have 4 entries (N, H, W, C) but is [1, 2]", false);
  add("strides_zero", [](auto& a) { a.strides = {1, 1, 0, 1}; },
      "strides must have entries of at least 1 (N, H, W, C) but is [1, 1, 0, 1]");
  add("strides_batch", [](auto& a) { a.strides = {2, 1, 1, 1}; }, "strides must be 1 for N and C (N, H, W, C) but is [2, 1, 1, 1]");
  add("strides_channels", [](auto& a) { a.strides = {1, 1, 1, 2}; }, "strides must be 1 for N and C (N, H, W, C) but is [1, 1, 1, 2]");
  add("strides_of_the_other_order", [](auto& a) { a.data_format = "NCHW"; a.strides = {1, 2, 1, 1}; },
      "strides must be 1 for N and C (N, C, H, W) but is [1, 2, 1, 1]");
  add("strides_greatest", [](auto& a) { a.strides = {1, kMax, 1, 1}; },
      "strides must have entries of at least 1 and below 2^62 (N, H, W, C) but is [1, 9223372036854775807, 1, 1]");
  add("pads_two", [](auto& a) { a.pads = {1, 1}; }, "pads must have 4 entries (top, bottom, left, right) but is [1, 1]", false);
  add("pads_negative", [](auto& a) { a.pads = {0, 0, -1, 0}; },
      "pads must have entries of at least 0 (top, bottom, left, right) but is [0, 0, -1, 0]");
  add("pads_greatest", [](auto& a) { a.pads = {kMax, 0, 0, 0}; },
      "pads must have entries of at least 0 and below 2^62 (top, bottom, left, right) but is [9223372036854775807, 0, 0, 0]");
  add("pads_sum", [](auto& a) { a.pads = {kMax / 2, kMax / 2, 0, 0}; }, "pads is too large: its size overflows 64 bits");
  add("dilations_two", [](auto& a) { a.dilations = {1, 1}; }, "dilations must have 4 entries (N, H, W, C) but is [1, 1]", false);
  add("dilations_zero", [](auto& a) { a.dilations = {1, 0, 1, 1}; },
      "dilations must have entries of at least 1 (N, H, W, C) but is [1, 0, 1, 1]");
  add("dilations_channels", [](auto& a) { a.dilations = {1, 1, 1, 3}; },
      "dilations must be 1 for N and C (N, H, W, C) but is [1, 1, 1, 3]");
  add("dilations_product", [](auto& a) { a.dilations = {1, 1, kMax / 2, 1}; },
      "ksize times dilations is too large: its size overflows 64 bits");
  add("extent_along_h", [](auto& a) { a.ksize = {8, 3}; },
      "ksize must fit the padded input, so that Ho is at least 1, but is [8, 3] with dilations [1, 1, 2, 1], pads [1, 1, 1, 2] "
      "and size 4 along H");
  add("extent_along_w", [](auto& a) { a.dilations = {1, 1, 4, 1}; },
      "ksize must fit the padded input, so that Wo is at least 1, but is [2, 3] with dilations [1, 1, 4, 1], pads [1, 1, 1, 2] "
      "and size 5 along W");
  add("data_format_unknown", [](auto& a) { a.data_format = "nhwc"; }, "data_format must be \"NHWC\" or \"NCHW\" but is \"nhwc\"");
  add("data_format_null", [](auto& a) { a.data_format = nullptr; }, "data_format must be \"NHWC\" or \"NCHW\" but is null", false);
  add("border_unknown", [](auto& a) { a.border = ""; }, "border must be \"open\" or \"closed\" but is \"\"");
  add("border_null", [](auto& a) { a.border = nullptr; }, "border must be \"open\" or \"closed\" but is null", false);
  add("groups_zero", [](auto& a) { a.deformable_groups = 0; }, "deformable_groups must be at least 1 but is 0", false);
  add("groups_negative", [](auto& a) { a.deformable_groups = -2; }, "deformable_groups must be at least 1 but is -2");
  add("groups_not_dividing", [](auto& a) { a.deformable_groups = 4; }, "deformable_groups must divide C = 6 but is 4");
  add("groups_greatest", [](auto& a) { a.deformable_groups = kMax; },
      "deformable_groups must divide C = 6 but is 9223372036854775807");
  add("groups_other", [](auto& a) { a.deformable_groups = 3; },
      "offsets must have shape [2, 5, 2, 54] (N, Ho, Wo, 3*G*Kh*Kw) but has [2, 5, 2, 36]");
  add("unmodulated", [](auto& a) { a.modulated = false; },
      "offsets must have shape [2, 5, 2, 24] (N, Ho, Wo, 2*G*Kh*Kw) but has [2, 5, 2, 36]");
  return cases;
}

// Ranks, sizes and strides of each pass's each tensor.
std::vector<Case> shape_cases() {
  std::vector<Case> cases;
  for (tapfield_pass pass : kPasses)
    for (std::size_t i = 0; i < Call::names(pass).size(); ++i) {
      const std::string name = Call::names(pass)[i];
      const auto add = [&](const char* what, std::function<void(Tensor&)> change, std::string message) {
        cases.push_back({name_of_pass(pass) + "_" + name + "_" + what, pass,
                         [i, change](Call& c) { change(*c.tensors()[i]); }, name + message});
      };
      const bool map = name == "x" || name == "gg_x" || name == "grad_x", taps = name.find("offsets") != std::string::npos;
      const std::string want = map    ? "[2, 4, 5, 6] (N, H, W, C)"
                               : taps ? "[2, 5, 2, 36] (N, Ho, Wo, 3*G*Kh*Kw)"
                                      : "[2, 10, 6, 6] (N, Ho*Kh, Wo*Kw, C)";
      add("rank3", [](Tensor& t) { t.shape = {4, 5, 6}; }, " must have 4 dimensions (N, H, W, C) but has shape [4, 5, 6]");
      add("rank9", [](Tensor& t) { t.shape = {1, 1, 1, 1, 1, 1, 1, 1, 1}; },
          " must have 4 dimensions (N, H, W, C) but has shape [1, 1, 1, 1, 1, 1, 1, 1, ...]");
      add("negative", [](Tensor& t) { t.shape[2] = kMin; },
          " must have sizes of at least 0 but has shape " + std::string(map    ? "[2, 4, -9223372036854775808, 6]"
                                                                       : taps ? "[2, 5, -9223372036854775808, 36]"
                                                                              : "[2, 10, -9223372036854775808, 6]"));
      add("stride_greatest", [](Tensor& t) { t.strides = {kMax, 6, 6, 1}; },
          " is too large: its strides [9223372036854775807, 6, 6, 1] overflow 64 bits");
      add("stride_least", [](Tensor& t) { t.strides = {1, 6, 6, kMin}; },
          " is too large: its strides [1, 6, 6, -9223372036854775808] overflow 64 bits");
      if (name == "x") {
        add("no_height", [](Tensor& t) { t.shape[1] = 0; },
            " must have H, W and C of at least 1 (N, H, W, C) but has shape [2, 0, 5, 6]");
        add("no_width", [](Tensor& t) { t.shape[2] = 0; },
            " must have H, W and C of at least 1 (N, H, W, C) but has shape [2, 4, 0, 6]");
        add("no_channels", [](Tensor& t) { t.shape[3] = 0; },
            " must have H, W and C of at least 1 (N, H, W, C) but has shape [2, 4, 5, 0]");
        add("size_greatest", [](Tensor& t) { t.shape = {1, kMax, kMax, 2}; },
            " is too large: the size of shape [1, 9223372036854775807, 9223372036854775807, 2] overflows 64 bits");
        add("size_greatest_of_none", [](Tensor& t) { t.shape = {0, kMax, kMax, 2}; },
            " is too large: the size of shape [0, 9223372036854775807, 9223372036854775807, 2] overflows 64 bits");
        add("bytes_greatest", [](Tensor& t) { t.shape = {1, 1, 1, kMax / 4}; },
            " is too large: the size of shape [1, 1, 1, 2305843009213693951] overflows 64 bits");
        continue;
      }
      for (int axis = 0; axis < 4; ++axis)
        add(("axis" + std::to_string(axis)).c_str(), [axis](Tensor& t) { ++t.shape[axis]; },
            " must have shape " + want + " but has " + [&] {
              Call valid(pass);
              Ints s = valid.tensors()[i]->shape;
              ++s[axis];
              std::string text = "[";
              for (int k = 0; k < 4; ++k) text += (k ? ", " : "") + std::to_string(s[k]);
              return text + "]";
            }());
    }
  const auto add_strides = [&](const char* name, Ints strides, const char* message) {
    cases.push_back({name, F, [strides](Call& c) { c.x.strides = strides; }, message, TAPFIELD_INVALID_ARGUMENT, false});
  };
  add_strides("strides_too_few", {1, 2}, "x must have as many strides as dimensions but has strides [1, 2]");
  add_strides("strides_too_many", {1, 2, 3, 4, 5}, "x must have as many strides as dimensions but has strides [1, 2, 3, 4, 5]");
  cases.push_back({"output_larger_than_64_bits", F,
                   [](Call& c) {
                     c.attributes.ksize = {std::int64_t{1} << 30, std::int64_t{1} << 30};
                     c.attributes.pads = {std::int64_t{1} << 60, 0, std::int64_t{1} << 60, 0};
                   },
                   "offsets is too large: its size overflows 64 bits"});
  cases.push_back({"rows_larger_than_64_bits", F,
                   [](Call& c) {
                     c.attributes.ksize = {std::int64_t{1} << 20, 1};
                     c.attributes.pads = {std::int64_t{1} << 60, 0, 0, 0};
                   },
                   "Ho*Kh is too large: its size overflows 64 bits"});
  return cases;
}

// Pointers, devices and overlap of each pass's each tensor.
std::vector<Case> memory_cases() {
  std::vector<Case> cases;
  for (tapfield_pass pass : kPasses) {
    const std::vector<std::string> names = Call::names(pass);
    const std::size_t inputs = static_cast<std::size_t>(Call::inputs(pass));
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto add = [&](const std::string& what, std::function<void(Call&, Tensor&)> change, std::string message) {
        cases.push_back({name_of_pass(pass) + "_" + names[i] + "_" + what, pass,
                         [i, change](Call& c) { change(c, *c.tensors()[i]); }, std::move(message)});
      };
      add("null", [](Call&, Tensor& t) { t.data = nullptr; }, names[i] + " must have data but its pointer is null");
      add("misaligned", [](Call&, Tensor& t) { t.data = static_cast<char*>(t.data) + 2; },
          names[i] + " must be aligned to its element of 4 bytes but its pointer is not");
      if (names[i] != "x")
        add("elsewhere", [](Call&, Tensor& t) { t.device = {DeviceType::cuda, 1}; },
            names[i] + " must be on x's device cpu:0 but is on cuda:1");
      if (names[i] != "x" && names[i] != "gg_x" && names[i] != "gg_offsets")
        add("absent", [](Call&, Tensor& t) { t = Tensor{}; }, names[i] + " is required but absent");
      if (i < inputs) continue;
      add("read_only", [](Call&, Tensor& t) { t.read_only = true; }, names[i] + " is written but is read-only");
      for (std::size_t k = 0; k < names.size(); ++k) {
        if (k == i) continue;
        // Of two outputs the alphabetically later one is named first.
        const bool swap = k >= inputs && names[k] > names[i];
        const std::string message = names[swap ? k : i] + " must not overlap " + names[swap ? i : k] + kInterleaved;
        const auto bytes = [](const Tensor& t) { return element_count(t.shape) * element_size(t.dtype); };
        add("starts_in_last_element_of_" + names[k], [k, bytes](Call& c, Tensor& t) {
              const Tensor& other = *c.tensors()[k];
              t.data = static_cast<char*>(other.data) + bytes(other) - element_size(other.dtype);
            }, message);
        add("ends_in_first_element_of_" + names[k], [k, bytes](Call& c, Tensor& t) {
              t.data = static_cast<char*>(c.tensors()[k]->data) - bytes(t) + element_size(t.dtype);
            }, message);
      }
    }
  }
  const auto add = [&](const char* name, std::function<void(Call&)> change, std::string message) {
    cases.push_back({name, F, std::move(change), std::move(message)});
  };
  const std::string self = "y must not overlap itself (each axis must step over all of the smaller ones) but has shape "
                           "[2, 10, 6, 6] with strides ";
  add("y_broadcast", [](Call& c) { c.y.strides = {0, 36, 6, 1}; }, self + "[0, 36, 6, 1]");
  add("y_broadcast_channels", [](Call& c) { c.y.strides = {360, 36, 6, 0}; }, self + "[360, 36, 6, 0]");
  add("y_rows_one_short", [](Call& c) { c.y.strides = {360, 35, 6, 1}; }, self + "[360, 35, 6, 1]");
  add("y_rows_one_short_backwards", [](Call& c) { c.y.strides = {360, -35, 6, -1}; }, self + "[360, -35, 6, -1]");
  add("y_interleaved_with_itself", [](Call& c) { c.y.strides = {1, 36, 6, 1}; }, self + "[1, 36, 6, 1]");
  add("y_interleaved_with_x", [](Call& c) {
        c.attributes.ksize = {1, 1}, c.attributes.strides = {1, 1, 1, 1}, c.attributes.pads = {0, 0, 0, 0};
        c.offsets.shape = {2, 4, 5, 6};
        c.y = c.x;
        c.x.strides = c.y.strides = {240, 60, 12, 1};
        c.y.data = static_cast<float*>(c.x.data) + 6;
      }, std::string("y must not overlap x") + kInterleaved);
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
      {"dtype_offsets_of_another_16bit", G, [=](Call& c) { c.x.dtype = half; c.offsets.dtype = DType::bfloat16; },
       "offsets must be float16 or float32, as x is float16, but is bfloat16", D},
      {"dtype_y", F, [=](Call& c) { c.y.dtype = wide; }, "y must be float32, as x is, but is float64", D},
      {"dtype_grad", G, [=](Call& c) { c.grad.dtype = half; }, "grad must be float32, as x is, but is float16", D},
      {"dtype_grad_x", G, [=](Call& c) { c.grad_x.dtype = wide; },
       "grad_x must be float32, as x is float32, but is float64", D},
      {"dtype_grad_offsets", G, [=](Call& c) { c.grad_offsets.dtype = half; },
       "grad_offsets must be float32, as offsets is float32, but is float16", D},
      {"dtype_gg_x", GG, [=](Call& c) { c.gg_x.dtype = half; }, "gg_x must be float32, as x is float32, but is float16", D},
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
       [](Call& c) { c.execution.backend = "reference", c.execution.workspace = c.slot(9), c.execution.workspace_bytes = 959; },
       "execution.workspace must have 960 bytes but has 959"},  // one image of x in double
      {"workspace_misaligned", G,
       [](Call& c) { c.execution.workspace = c.slot(9) + 32, c.execution.workspace_bytes = Call::kRoom - 32; },
       "execution.workspace must be aligned to 64 bytes but is not"},
      {"backend_unknown", F, [](Call& c) { c.execution.backend = "cuda"; },
       "execution.backend must be one of cpu, reference, reference.magnitudes but is \"cuda\""},
      {"backend_empty", F, [](Call& c) { c.execution.backend = ""; },
       "execution.backend must be one of cpu, reference, reference.magnitudes but is \"\""},
  };
}

class Refused : public testing::TestWithParam<Case> {};

TEST_P(Refused, SaysWhyAndWritesNothing) {
  const Case& test = GetParam();
  for (Via via : {Via::cpp, Via::c}) {
    if (via == Via::c && !test.in_c) continue;
    SCOPED_TRACE(via == Via::cpp ? "C++" : "C");
    Call call(test.pass);
    test.change(call);
    const auto before = call.arena;
    const Outcome outcome = call.run(via);
    EXPECT_EQ(outcome.status, test.status);
    EXPECT_EQ(outcome.message, test.message);
    EXPECT_TRUE(call.arena == before);
  }
}

std::string case_name(const testing::TestParamInfo<Case>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Attributes, Refused, testing::ValuesIn(attribute_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Shapes, Refused, testing::ValuesIn(shape_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Memory, Refused, testing::ValuesIn(memory_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(DTypes, Refused, testing::ValuesIn(dtype_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Execution, Refused, testing::ValuesIn(execution_cases()), case_name);

}  // namespace
}  // namespace tapfield::test
