// SPDX-License-Identifier: Apache-2.0
#include "error_cases.h"

namespace tapfield::test {

std::vector<Case> shape_cases() {
  std::vector<Case> cases;
  for (tapfield_pass pass : kPasses)
    for (std::size_t i = 0; i < Call::names(pass).size(); ++i) {
      const std::string name = Call::names(pass)[i];
      const auto add = [&](const char* what, std::function<void(Tensor&)> change, std::string message) {
        cases.push_back({name_of_pass(pass) + "_" + name + "_" + what, pass,
                         [i, change](Call& c) { change(*c.tensors()[i]); }, name + message});
      };
      const bool map = name == "x" || name == "gg_x" || name == "grad_x",
                 taps = name.find("offsets") != std::string::npos;
      const std::string want = map    ? "[2, 4, 5, 6] (N, H, W, C)"
                               : taps ? "[2, 5, 2, 36] (N, Ho, Wo, 3*G*Kh*Kw)"
                                      : "[2, 10, 6, 6] (N, Ho*Kh, Wo*Kw, C)";
      add(
          "rank3",
          [](Tensor& t) {
            t.shape = {4, 5, 6};
          },
          " must have 4 dimensions (N, H, W, C) but has shape [4, 5, 6]");
      add(
          "rank9", [](Tensor& t) { t.shape = {1, 1, 1, 1, 1, 1, 1, 1, 1}; },
          " must have 4 dimensions (N, H, W, C) but has shape [1, 1, 1, 1, 1, 1, 1, 1, ...]");
      add(
          "negative", [](Tensor& t) { t.shape[2] = kMin; },
          " must have sizes of at least 0 but has shape " +
              std::string(map    ? "[2, 4, -9223372036854775808, 6]"
                          : taps ? "[2, 5, -9223372036854775808, 36]"
                                 : "[2, 10, -9223372036854775808, 6]"));
      add(
          "stride_greatest",
          [](Tensor& t) {
            t.strides = {kMax, 6, 6, 1};
          },
          " is too large: its strides [9223372036854775807, 6, 6, 1] overflow 64 bits");
      add(
          "stride_least",
          [](Tensor& t) {
            t.strides = {1, 6, 6, kMin};
          },
          " is too large: its strides [1, 6, 6, -9223372036854775808] overflow 64 bits");
      if (name == "x") {
        add(
            "no_height", [](Tensor& t) { t.shape[1] = 0; },
            " must have H, W and C of at least 1 (N, H, W, C) but has shape [2, 0, 5, 6]");
        add(
            "no_width", [](Tensor& t) { t.shape[2] = 0; },
            " must have H, W and C of at least 1 (N, H, W, C) but has shape [2, 4, 0, 6]");
        add(
            "no_channels", [](Tensor& t) { t.shape[3] = 0; },
            " must have H, W and C of at least 1 (N, H, W, C) but has shape [2, 4, 5, 0]");
        add(
            "size_greatest",
            [](Tensor& t) {
              t.shape = {1, kMax, kMax, 2};
            },
            " is too large: the size of shape [1, 9223372036854775807, 9223372036854775807, 2] overflows 64 "
            "bits");
        add(
            "size_greatest_of_none",
            [](Tensor& t) {
              t.shape = {0, kMax, kMax, 2};
            },
            " is too large: the size of shape [0, 9223372036854775807, 9223372036854775807, 2] overflows 64 "
            "bits");
        add(
            "bytes_greatest",
            [](Tensor& t) {
              t.shape = {1, 1, 1, kMax / 4};
            },
            " is too large: the size of shape [1, 1, 1, 2305843009213693951] overflows 64 bits");
        continue;
      }
      for (int axis = 0; axis < 4; ++axis)
        add(("axis" + std::to_string(axis)).c_str(), [axis](Tensor& t) { ++t.shape[axis]; },
            " must have shape " + want + " but has " +
                [&] {
                  Call valid(pass);
                  Ints s = valid.tensors()[i]->shape;
                  ++s[axis];
                  std::string text = "[";
                  for (int k = 0; k < 4; ++k) text += (k ? ", " : "") + std::to_string(s[k]);
                  return text + "]";
                }());
    }
  const auto add_strides = [&](const char* name, Ints strides, const char* message) {
    cases.push_back(
        {name, F, [strides](Call& c) { c.x.strides = strides; }, message, TAPFIELD_INVALID_ARGUMENT, false});
  };
  add_strides("strides_too_few", {1, 2}, "x must have as many strides as dimensions but has strides [1, 2]");
  add_strides("strides_too_many", {1, 2, 3, 4, 5},
              "x must have as many strides as dimensions but has strides [1, 2, 3, 4, 5]");
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

const char* const kInterleaved =
    " but their ranges of memory do (interleaved slices of one buffer count as overlapping)";

std::vector<Case> memory_cases() {
  std::vector<Case> cases;
  for (tapfield_pass pass : kPasses) {
    const std::vector<std::string> names = Call::names(pass);
    const std::size_t inputs = static_cast<std::size_t>(Call::inputs(pass));
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto add = [&](const std::string& what, std::function<void(Call&, Tensor&)> change,
                           std::string message) {
        cases.push_back({name_of_pass(pass) + "_" + names[i] + "_" + what, pass,
                         [i, change](Call& c) { change(c, *c.tensors()[i]); }, std::move(message)});
      };
      add(
          "null", [](Call&, Tensor& t) { t.data = nullptr; },
          names[i] + " must have data but its pointer is null");
      add(
          "misaligned", [](Call&, Tensor& t) { t.data = static_cast<char*>(t.data) + 2; },
          names[i] + " must be aligned to its element of 4 bytes but its pointer is not");
      if (names[i] != "x")
        add(
            "elsewhere",
            [](Call&, Tensor& t) {
              t.device = {DeviceType::cuda, 1};
            },
            names[i] + " must be on x's device cpu:0 but is on cuda:1");
      if (names[i] != "x" && names[i] != "gg_x" && names[i] != "gg_offsets")
        add(
            "absent", [](Call&, Tensor& t) { t = Tensor{}; }, names[i] + " is required but absent");
      if (i < inputs) continue;
      add(
          "read_only", [](Call&, Tensor& t) { t.read_only = true; },
          names[i] + " is written but is read-only");
      for (std::size_t k = 0; k < names.size(); ++k) {
        if (k == i) continue;
        // Of two outputs the alphabetically later one is named first.
        const bool swap = k >= inputs && names[k] > names[i];
        const std::string message =
            names[swap ? k : i] + " must not overlap " + names[swap ? i : k] + kInterleaved;
        const auto bytes = [](const Tensor& t) { return element_count(t.shape) * element_size(t.dtype); };
        add(
            "starts_in_last_element_of_" + names[k],
            [k, bytes](Call& c, Tensor& t) {
              const Tensor& other = *c.tensors()[k];
              t.data = static_cast<char*>(other.data) + bytes(other) - element_size(other.dtype);
            },
            message);
        add(
            "ends_in_first_element_of_" + names[k],
            [k, bytes](Call& c, Tensor& t) {
              t.data = static_cast<char*>(c.tensors()[k]->data) - bytes(t) + element_size(t.dtype);
            },
            message);
      }
    }
  }
  const auto add = [&](const char* name, std::function<void(Call&)> change, std::string message) {
    cases.push_back({name, F, std::move(change), std::move(message)});
  };
  const std::string self =
      "y must not overlap itself (each axis must step over all of the smaller ones) but has shape "
      "[2, 10, 6, 6] with strides ";
  add(
      "y_broadcast",
      [](Call& c) {
        c.y.strides = {0, 36, 6, 1};
      },
      self + "[0, 36, 6, 1]");
  add(
      "y_broadcast_channels",
      [](Call& c) {
        c.y.strides = {360, 36, 6, 0};
      },
      self + "[360, 36, 6, 0]");
  add(
      "y_rows_one_short",
      [](Call& c) {
        c.y.strides = {360, 35, 6, 1};
      },
      self + "[360, 35, 6, 1]");
  add(
      "y_rows_one_short_backwards",
      [](Call& c) {
        c.y.strides = {360, -35, 6, -1};
      },
      self + "[360, -35, 6, -1]");
  add(
      "y_interleaved_with_itself",
      [](Call& c) {
        c.y.strides = {1, 36, 6, 1};
      },
      self + "[1, 36, 6, 1]");
  add(
      "y_interleaved_with_x",
      [](Call& c) {
        c.attributes.ksize = {1, 1}, c.attributes.strides = {1, 1, 1, 1}, c.attributes.pads = {0, 0, 0, 0};
        c.offsets.shape = {2, 4, 5, 6};
        c.y = c.x;
        c.x.strides = c.y.strides = {240, 60, 12, 1};
        c.y.data = static_cast<float*>(c.x.data) + 6;
      },
      std::string("y must not overlap x") + kInterleaved);
  return cases;
}

}  // namespace tapfield::test
