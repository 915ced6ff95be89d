// SPDX-License-Identifier: Apache-2.0
// The CUDA backend's schedules on the whole case table, in every dtype and layout, run on the CPU (machine.h)
// in changing orders of threads and blocks, against the reference backend.
#include <gtest/gtest.h>

#include <algorithm>

#include "agreement.h"
#include "cuda/tuning.h"
#include "cuda_runtime.h"

namespace tapfield::testing {
namespace {

using cuda_on_cpu::Order;

constexpr DType kDtypes[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};
constexpr Order kOrders[] = {Order::forward, Order::backward, Order::shuffled};

// Shapes that make small cases many blocks, strips and slices of images.
cuda::Tuning small_tuning() {
  cuda::Tuning t;
  t.threads = 64, t.tile_taps = 40, t.least_tile_taps = t.least_forward_taps = 16, t.buckets = 64,
  t.strip = 3, t.least_strip = 2, t.scratch_bytes = 1;
  return t;
}

bool deterministic(const Row& row) {
  return row.pass == Pass::forward || std::string(row.name) == "cuda.sweep";
}

struct Param {
  const Row* row;
  Case c;
};

std::string row_name(const Row& row) {
  std::string s = std::string(row.name) + "_" + name_of(row.pass);
  std::replace(s.begin(), s.end(), '.', '_');
  return s;
}

std::vector<Param> params() {
  std::vector<Param> r;
  for (const Row* row : kernels(DeviceType::cuda))
    for (const Case& c : small_cases()) r.push_back({row, c});
  return r;
}

class CudaKernel : public ::testing::TestWithParam<Param> {
 protected:
  void SetUp() override { cuda::tuning() = small_tuning(); }
  void TearDown() override { cuda::tuning() = {}, cuda_on_cpu::options() = {}; }

  // One layout: the row in the next order.
  void agree(const Truth& truth, bool nchw, Place place) {
    const auto& [row, c] = GetParam();
    SCOPED_TRACE(std::string(tapfield::name_of(truth.dtypes.x)) + (nchw ? " NCHW" : " NHWC"));
    Call call(c, row->pass, truth.dtypes, nchw, place);
    call.device = {DeviceType::cuda, 0};
    cuda_on_cpu::options() = {kOrders[runs % 3], static_cast<unsigned>(runs)};
    Execution e;
    e.backend = row->name;
    call.run(e);
    ++runs;
    EXPECT_EQ(last_row(), row);
    expect_close(call, truth);
    for (const auto& o : call.outputs) EXPECT_EQ(o->changed_gaps(), 0);
    EXPECT_EQ(cuda_on_cpu::device().allocated, 0);
  }

  int runs = 0;
};

INSTANTIATE_TEST_SUITE_P(Rows, CudaKernel, ::testing::ValuesIn(params()), [](const auto& info) {
  std::string s = row_name(*info.param.row) + "_" + info.param.c.name;
  for (char& ch : s)
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  return s;
});

TEST_P(CudaKernel, AgreesWithTheReference) {
  for (DType t : kDtypes) {
    const Truth truth(GetParam().c, GetParam().row->pass, Dtypes(t));
    for (bool nchw : {false, true}) {
      agree(truth, nchw, nchw ? Place::at_beginning : Place::at_end);
      if (HasFailure()) return;
    }
  }
}

TEST_P(CudaKernel, TakesFloat32Beside16Bits) {
  for_mixed_dtypes(GetParam().c, GetParam().row->pass, [this](const auto&... with) { agree(with...); });
}

TEST_P(CudaKernel, TakesViews) {
  for_views(GetParam().c, GetParam().row->pass, [this](const auto&... with) { agree(with...); });
}

// ------ A row on some cases

const char* const kCases[] = {"tiles",          "strips_c64", "wide",      "flow_g16",
                              "c64_g8",         "c129_g1",    "c258_g2",   "one_cell_g8",
                              "nonfinite_open", "batch_5",    "scattered", "all_attributes_open"};

class CudaRow : public ::testing::TestWithParam<const Row*> {
 protected:
  void TearDown() override { cuda::tuning() = {}, cuda_on_cpu::options() = {}; }

  template <class Visit>
  void for_each_call(const Visit& visit) {
    int ran = 0;
    for (const Case& c : small_cases())
      for (DType t : {DType::float32, DType::bfloat16, DType::float64}) {
        if (std::find(std::begin(kCases), std::end(kCases), c.name) == std::end(kCases)) continue;
        SCOPED_TRACE(c.name + " " + tapfield::name_of(t));
        Call call(c, GetParam()->pass, Dtypes(t), false);
        call.device = {DeviceType::cuda, 0};
        Execution e;
        e.backend = GetParam()->name;
        visit(call, e);
        ++ran;
        if (::testing::Test::HasFailure()) return;
      }
    EXPECT_EQ(ran, 3 * std::size(kCases));
  }
};

INSTANTIATE_TEST_SUITE_P(Rows, CudaRow, ::testing::ValuesIn(kernels(DeviceType::cuda)),
                         [](const auto& info) { return row_name(*info.param); });

// The deterministic ones; and the others do not, or this would say nothing.
TEST_P(CudaRow, GivesTheSameBitsInAnyOrderIfDeterministic) {
  bool differ = false;
  for_each_call([&](Call& call, const Execution& e) {
    call.run(e);
    const auto want = call.bytes();
    for (unsigned seed = 0; seed < 6; ++seed) {
      cuda_on_cpu::options() = {kOrders[seed % 3], seed};
      call.run(e);
      const bool same = call.bytes() == want;
      EXPECT_TRUE(same || !deterministic(*GetParam()));
      differ |= !same;
    }
  });
  EXPECT_EQ(differ, !deterministic(*GetParam()));
}

// As on a GPU: the shapes that are released; a device that has room for all blocks, and one with the shared
// memory of sm_86.
TEST_P(CudaRow, AgreesWithTheReferenceInItsOwnShapes) {
  for_each_call([&](Call& call, const Execution& e) {
    const Truth truth(call.c, call.pass, Dtypes(call.x.dtype()));
    cuda_on_cpu::Device& device = cuda_on_cpu::device();
    for (auto [multiprocessors, shared_kib] : {std::pair{1, 228}, {132, 228}, {1, 100}}) {
      device.multiprocessors = multiprocessors, device.shared_bytes = shared_kib << 10;
      call.run(e);
      expect_close(call, truth);
    }
    device.multiprocessors = 1, device.shared_bytes = 228 << 10;
  });
}

// One image at a time, all at once: the same sums where their order is fixed, else as near the reference's.
TEST_P(CudaRow, TakesImagesInSlices) {
  Case c;
  for (const Case& one : small_cases())
    if (one.name == "batch_5") c = one;
  const Truth truth(c, GetParam()->pass, Dtypes(DType::float16));
  for (bool nchw : {false, true}) {
    Call call(c, GetParam()->pass, Dtypes(DType::float16), nchw);
    call.device = {DeviceType::cuda, 0};
    Execution e;
    e.backend = GetParam()->name;
    cuda::tuning() = {};
    call.run(e);
    const auto want = call.bytes();
    const std::size_t all = call.workspace(e);
    cuda::tuning().scratch_bytes = 1;
    call.run(e);
    if (deterministic(*GetParam())) { EXPECT_EQ(call.bytes(), want); }
    expect_close(call, truth);
    if (all) { EXPECT_LT(call.workspace(e), all); }
  }
}

TEST_P(CudaRow, StaysInsideItsWorkspace) {
  cuda::tuning() = small_tuning();
  for_each_call([](Call& call, Execution e) {
    const std::size_t bytes = call.workspace(e), guard = 256;
    std::vector<char> memory(bytes + 2 * guard + 64);
    char* at = memory.data() + guard;
    at += 64 - reinterpret_cast<std::uintptr_t>(at) % 64;
    for (char garbage : {'\xff', '\x7b'}) {  // NaN, large numbers
      std::fill(memory.begin(), memory.end(), garbage);
      e.workspace = at, e.workspace_bytes = bytes;
      call.run(e);
      const auto untouched = [&](const char* from, const char* to) {
        return std::all_of(from, to, [&](char b) { return b == garbage; });
      };
      EXPECT_TRUE(untouched(memory.data(), at) && untouched(at + bytes, memory.data() + memory.size()));
    }
  });
}

// Tensors past 2^31 elements, each in turn: rows 2^25 elements apart in sparse mappings.
TEST_P(CudaRow, TakesTensorsPast2To31Elements) {
  Case c{};
  c.name = "tall", c.kind = "normal", c.border = "open", c.modulated = true;
  c.x = {1, 72, 3, 4}, c.kh = 3, c.kw = 1, c.groups = 1, c.pads = {1, 1, 0, 0};
  c.stride_h = c.stride_w = c.dil_h = c.dil_w = 1;
  constexpr std::int64_t kFar = (std::int64_t{1} << 25) + 64;
  const Truth truth(c, GetParam()->pass, Dtypes(DType::float32));
  for (bool nchw : {false, true})
    for (const RowStrides& far :
         {RowStrides{.x = kFar}, RowStrides{.offsets = kFar}, RowStrides{.grad = kFar},
          RowStrides{.grad_x = kFar}, RowStrides{.grad_offsets = kFar}}) {
      Call call(c, GetParam()->pass, Dtypes(DType::float32), nchw, Place::at_end, far);
      call.device = {DeviceType::cuda, 0};
      Execution e;
      e.backend = GetParam()->name;
      call.run(e);
      expect_close(call, truth);
      if (HasFailure()) return;
    }
}

}  // namespace
}  // namespace tapfield::testing
