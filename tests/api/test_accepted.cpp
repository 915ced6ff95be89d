// SPDX-License-Identifier: Apache-2.0
// What must not be refused, and what the sizes that the API computes promise.
#include <gtest/gtest.h>

#include <limits>

#include "call.h"

namespace tapfield::test {
namespace {

constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();

class EachPass : public testing::TestWithParam<tapfield_pass> {};

// Without this the refusals of test_errors.cpp could come from the call that they change.
TEST_P(EachPass, RunsThroughCppAndCWithTheSameBits) {
  Call cpp(GetParam()), c(GetParam());
  const auto before = cpp.arena;
  EXPECT_EQ(cpp.run(Via::cpp).message, "");
  EXPECT_EQ(c.run(Via::c).message, "");
  EXPECT_TRUE(cpp.arena == c.arena);
  for (std::size_t i = 0; i < cpp.tensors().size(); ++i) {
    // Every element of an output is written (poison is no value that comes out here), and no input is.
    const Tensor& t = *cpp.tensors()[i];
    const auto* bytes = static_cast<const unsigned char*>(t.data);
    const std::int64_t size = element_count(t.shape) * element_size(t.dtype);
    std::int64_t poisoned = 0;
    for (std::int64_t k = 0; k < size; k += 4)
      poisoned += bytes[k] == Call::kPoison && bytes[k + 1] == Call::kPoison && bytes[k + 2] == Call::kPoison;
    EXPECT_EQ(poisoned, 0) << Call::names(cpp.pass)[i];
    // What comes after a tensor is not its own.
    for (std::int64_t k = size; k < size + 4096; ++k)
      ASSERT_EQ(bytes[k], Call::kPoison) << k - size << " bytes behind";
  }
}

TEST_P(EachPass, AcceptsNoImages) {
  for (Via via : {Via::cpp, Via::c}) {
    Call call(GetParam());
    const auto before = call.arena;
    for (Tensor* t : call.tensors()) t->shape[0] = 0;
    EXPECT_EQ(call.run(via).message, "");
    EXPECT_TRUE(call.arena == before);
    call.make_empty();
    EXPECT_EQ(call.run(via).message, "") << "without memory";
    for (Tensor* t : call.tensors()) t->strides = {kMin, 0, 0, -1};
    EXPECT_EQ(call.run(via).message, "") << "with strides that nobody steps along";
    std::size_t bytes = 1;
    EXPECT_EQ(call.workspace_size(via, bytes).message, "");
    EXPECT_EQ(bytes, 0u);
    call.offsets.shape[3] = 35;
    EXPECT_EQ(call.run(via).message,
              "offsets must have shape [0, 5, 2, 36] (N, Ho, Wo, 3*G*Kh*Kw) but has [0, 5, 2, 35]");
  }
}

// The stride of an axis with one element is never stepped along: frameworks leave anything there.
TEST_P(EachPass, IgnoresTheStrideOfOneImage) {
  Call plain(GetParam()), odd(GetParam());
  for (Tensor* t : plain.tensors()) t->shape[0] = 1;
  for (Tensor* t : odd.tensors()) {
    t->shape[0] = 1;
    t->strides = {kMin, t->shape[2] * t->shape[3], t->shape[3], 1};
  }
  EXPECT_EQ(plain.run(Via::cpp).message, "");
  EXPECT_EQ(odd.run(Via::cpp).message, "");
  EXPECT_TRUE(plain.arena == odd.arena);
}

// Side by side is not overlapping, in either order.
TEST_P(EachPass, AcceptsTensorsThatTouch) {
  Call far(GetParam()), near(GetParam());
  char* end = near.slot(9) + Call::kRoom;
  for (Tensor* t : near.tensors()) {
    const std::int64_t bytes = element_count(t->shape) * 4;
    end -= bytes;
    std::memcpy(end, t->data, static_cast<std::size_t>(bytes));
    t->data = end;
  }
  EXPECT_EQ(far.run(Via::cpp).message, "");
  EXPECT_EQ(near.run(Via::cpp).message, "");
  for (std::size_t i = 0; i < far.tensors().size(); ++i) {
    const Tensor &a = *far.tensors()[i], &b = *near.tensors()[i];
    EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<std::size_t>(element_count(a.shape) * 4)), 0)
        << Call::names(far.pass)[i];
  }
}

TEST_P(EachPass, AcceptsInputsThatAreReadOnlyOrOneBroadcastElement) {
  for (Via via : {Via::cpp, Via::c}) {
    Call call(GetParam());
    for (int i = 0; i < Call::inputs(call.pass); ++i) {
      call.tensors()[static_cast<std::size_t>(i)]->strides = {0, 0, 0, 0};
      call.tensors()[static_cast<std::size_t>(i)]->read_only = true;
    }
    EXPECT_EQ(call.run(via).message, "");
  }
}

// In C, here, as structs of rank 0 without data; test_c_api.c has them as null pointers.
TEST(Accepted, AbsentCotangents) {
  for (Via via : {Via::cpp, Via::c}) {
    Call call(TAPFIELD_GRAD_GRAD);
    call.gg_x = Tensor{}, call.gg_offsets = Tensor{};
    EXPECT_EQ(call.run(via).message, "");
    const auto* g = static_cast<const float*>(call.grad_grad.data);
    for (std::int64_t i = 0; i < element_count(call.grad_grad.shape); ++i) ASSERT_EQ(g[i], 0.0f);
  }
}

// Execution::workspace of exactly workspace_size() bytes suffices; of one less is refused by name.
TEST_P(EachPass, NeedsExactlyItsWorkspace) {
  for (const char* backend : {static_cast<const char*>(nullptr), "cpu", "reference"})
    for (Via via : {Via::cpp, Via::c})
      for (int threads : {1, 2, 5}) {
        Call own(GetParam()), given(GetParam());
        own.execution.backend = given.execution.backend = backend;
        own.execution.threads = given.execution.threads = threads;
        std::size_t bytes = 0;
        ASSERT_EQ(given.workspace_size(via, bytes).message, "");
        // One line more than is said to be there.
        std::vector<Call::Line> room((bytes + 63) / 64 + 1);
        given.execution.workspace = bytes ? room.data() : nullptr;
        given.execution.workspace_bytes = bytes;
        const auto canary = room.back();
        EXPECT_EQ(own.run(via).message, "");
        EXPECT_EQ(given.run(via).message, "");
        EXPECT_TRUE(own.arena == given.arena);
        EXPECT_TRUE(room.back() == canary) << "wrote behind its " << bytes << " bytes";
        if (!bytes) continue;
        Call less(GetParam());
        less.execution = given.execution;
        less.execution.workspace_bytes = bytes - 1;
        EXPECT_EQ(less.run(via).message, "execution.workspace must have " + std::to_string(bytes) +
                                             " bytes but has " + std::to_string(bytes - 1));
      }
}

// The same tensors in another dtype and layout: rows and images are packed and converted on the way.
void make_packed(Call& call, DType dtype) {
  for (Tensor* t : call.tensors()) {
    const Ints s = t->shape;
    t->dtype = dtype;
    t->shape = {s[0], s[3], s[1], s[2]};
  }
  call.attributes.data_format = "NCHW";
  call.attributes.strides = call.attributes.dilations = {1, 1, 1, 2};
}

// What a call carves out of its workspace is what it asked for. Lines of poison lie behind it.
TEST_P(EachPass, NeedsExactlyItsWorkspaceWhenItPacks) {
  for (DType dtype : {DType::float16, DType::bfloat16, DType::float32, DType::float64})
    for (int threads : {1, 2, 5}) {
      Call call(GetParam());
      make_packed(call, dtype);
      call.execution.threads = threads;
      std::size_t bytes = 0;
      ASSERT_EQ(call.workspace_size(Via::cpp, bytes).message, "");
      std::vector<Call::Line> room((bytes + 63) / 64 + 64);
      for (Call::Line& line : room) std::memset(line.bytes, Call::kPoison, sizeof line.bytes);
      call.execution.workspace = room.data(), call.execution.workspace_bytes = bytes;
      EXPECT_EQ(call.run(Via::cpp).message, "");
      for (std::size_t i = (bytes + 63) / 64; i < room.size(); ++i)
        for (unsigned char byte : room[i].bytes)
          ASSERT_EQ(byte, Call::kPoison)
              << "wrote behind its " << bytes << " bytes, dtype " << static_cast<int>(dtype);
    }
}

// workspace_size reads no pointer: not where it points, not whether it is there.
TEST_P(EachPass, MeasuresWithoutMemory) {
  for (DType dtype : {DType::float16, DType::float32}) {
    Call there(GetParam()), nowhere(GetParam());
    make_packed(there, dtype), make_packed(nowhere, dtype);
    for (Tensor* t : nowhere.tensors()) t->data = nullptr, t->read_only = true;
    std::size_t a = 1, b = 2;
    EXPECT_EQ(there.workspace_size(Via::cpp, a).message, "");
    EXPECT_EQ(nowhere.workspace_size(Via::cpp, b).message, "");
    EXPECT_EQ(a, b);
  }
}

// The table of dtypes, for every combination of a pass's tensors: docs/operators.md, "Tensors".
TEST_P(EachPass, TakesTheDtypesOfTheTableAndNoOthers) {
  Call call(GetParam());
  const auto tensors = call.tensors();
  const auto wide = [](DType t) { return t == DType::float16 || t == DType::bfloat16 ? DType::float32 : t; };
  const auto like = [&](const Tensor& t, const Tensor& other) {
    return t.dtype == other.dtype || t.dtype == wide(other.dtype);
  };
  int accepted = 0;
  for (int code = 0; code < 1 << (2 * tensors.size()); ++code) {
    for (std::size_t i = 0; i < tensors.size(); ++i)
      tensors[i]->dtype = static_cast<DType>(code >> (2 * i) & 3);
    bool valid = like(call.offsets, call.x);
    if (call.pass == TAPFIELD_FORWARD) {
      valid = valid && call.y.dtype == call.x.dtype;
    } else {
      valid = valid && call.grad.dtype == call.x.dtype && like(call.grad_x, call.x) &&
              like(call.grad_offsets, call.offsets);
      if (call.pass == TAPFIELD_GRAD_GRAD)
        valid = valid && call.grad_grad.dtype == call.x.dtype && like(call.gg_x, call.x) &&
                like(call.gg_offsets, call.offsets);
    }
    std::size_t bytes = 0;
    const Outcome outcome = call.workspace_size(Via::cpp, bytes);
    ASSERT_EQ(outcome.status, valid ? TAPFIELD_OK : TAPFIELD_INVALID_DTYPE) << outcome.message;
    accepted += valid;
  }
  // x of one of 2 wide types: everything is it. Of one of 2 narrow ones: offsets narrow or not, and each
  // tensor that may be wider has 2 choices (1 for offsets' own if those are float32 already).
  const int expected = call.pass == TAPFIELD_FORWARD ? 2 + 2 * 2
                       : call.pass == TAPFIELD_GRAD  ? 2 + 2 * (2 * 2 + 2)
                                                     : 2 + 2 * (4 * 4 + 4);
  EXPECT_EQ(accepted, expected);
}

std::string pass_name(const testing::TestParamInfo<tapfield_pass>& info) { return name_of_pass(info.param); }
INSTANTIATE_TEST_SUITE_P(Accepted, EachPass, testing::ValuesIn(kPasses), pass_name);

TEST(OutputSize, FollowsItsFormula) {
  // Against the definition, by brute force: Ho is the number of places where the kernel's extent fits.
  for (std::int64_t size = 1; size <= 7; ++size)
    for (std::int64_t pads = 0; pads < 9; ++pads)
      for (std::int64_t kernel = 1; kernel <= 4; ++kernel)
        for (std::int64_t dilation = 1; dilation <= 3; ++dilation)
          for (std::int64_t stride = 1; stride <= 3; ++stride)
            for (const char* data_format : {"NHWC", "NCHW"}) {
              const bool nchw = data_format[1] == 'C';
              Attributes a;
              a.ksize = {1, kernel}, a.pads = {0, 0, pads / 3, pads % 3}, a.data_format = data_format;
              a.strides = nchw ? Ints{1, 1, 1, stride} : Ints{1, 1, stride, 1};
              a.dilations = nchw ? Ints{1, 1, 1, dilation} : Ints{1, 1, dilation, 1};
              std::int64_t want = 0;
              for (std::int64_t at = -(pads / 3); at + dilation * (kernel - 1) < size + pads % 3;
                   at += stride)
                ++want;
              if (want)
                ASSERT_EQ(output_size({9, size}, a), (std::array<std::int64_t, 2>{9, want}));
              else
                ASSERT_THROW(output_size({9, size}, a), std::invalid_argument);
            }
}

TEST(OutputSize, RefusesByName) {
  const Attributes a = Call(TAPFIELD_FORWARD).attributes;
  const auto message = [&](Ints size) -> std::string {
    try {
      output_size(size, a);
      return "";
    } catch (const std::invalid_argument& e) { return e.what(); }
  };
  EXPECT_EQ(message({4, 5}), "");
  EXPECT_EQ(message({4}), "size must have 2 entries (H, W) but is [4]");
  EXPECT_EQ(message({0, 5}), "size must have entries of at least 1 (H, W) but is [0, 5]");
  EXPECT_EQ(message({4, std::numeric_limits<std::int64_t>::max()}),
            "size must have entries of at least 1 and below 2^62 (H, W) but is [4, 9223372036854775807]");
  EXPECT_EQ(message({4, (std::int64_t{1} << 62) - 1}), "pads is too large: its size overflows 64 bits");
}

TEST(Backends, SayWhatIsHere) {
  bool cpu = false;
  for (const BackendInfo& b : backends()) {
    EXPECT_FALSE(b.reason.empty()) << b.name;
    if (b.name == "cpu") cpu = b.available;
    if (!b.available || b.device != "cpu") continue;
    Call call(TAPFIELD_FORWARD);
    call.execution.backend = b.name.c_str();
    EXPECT_EQ(call.run(Via::cpp).message, "") << b.name;
  }
  EXPECT_TRUE(cpu);
}

// CUDA's library is asked for, and the answer is in the refusal.
TEST(Backends, RefuseTensorsOfADeviceThatNoneRuns) {
  std::string why_not_cuda;
  for (const BackendInfo& b : backends()) {
    if (b.name != "cuda") continue;
    if (b.available) GTEST_SKIP() << "this machine has " << b.reason;
    why_not_cuda = "cuda.tiles: " + b.reason;
  }
  Call call(TAPFIELD_FORWARD);
  for (Tensor* t : call.tensors()) t->device = {DeviceType::cuda, 0};
  const auto before = call.arena;
  for (Via via : {Via::cpp, Via::c}) {
    const Outcome outcome = call.run(via);
    EXPECT_EQ(outcome.status, TAPFIELD_INVALID_ARGUMENT);
    EXPECT_NE(outcome.message.find("no backend can run this call"), std::string::npos) << outcome.message;
    EXPECT_NE(outcome.message.find(why_not_cuda), std::string::npos) << outcome.message;
    EXPECT_NE(outcome.message.find("the tensors are on another device"), std::string::npos)
        << outcome.message;
  }
  EXPECT_TRUE(call.arena == before);
}

}  // namespace
}  // namespace tapfield::test
