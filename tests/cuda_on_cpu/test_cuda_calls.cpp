// SPDX-License-Identifier: Apache-2.0
// Around the kernels: which schedule is chosen, what is refused and how it is said, devices, streams, memory.
#include <gtest/gtest.h>

#include <functional>

#include "agreement.h"
#include "cuda_runtime.h"

namespace tapfield::testing {
namespace {

Case case_named(const char* name) {
  for (const Case& c : read_cases())
    if (c.name == name) return c;
  throw std::runtime_error(name);
}

class CudaCall : public ::testing::Test {
 protected:
  CudaCall() : c(case_named("c16_g2")), call(c, Pass::grad, Dtypes(DType::float16), false) {
    call.device = {DeviceType::cuda, 0};
    machine = {};
  }
  ~CudaCall() override { machine = {}; }

  std::string refusal(const Execution& e = {}) {
    const auto launches = machine.launches;
    try {
      call.run(e);
    } catch (const std::exception& error) {
      EXPECT_EQ(machine.launches, launches) << "something was launched";
      EXPECT_EQ(machine.allocated, 0);
      return error.what();
    }
    return "";
  }

  Case c;
  Call call;
  cuda_on_cpu::Device& machine = cuda_on_cpu::device();
};

TEST_F(CudaCall, ChoosesByDeterminism) {
  Execution e;
  call.run(e);
  EXPECT_STREQ(last_row()->name, "cuda.tiles");
  e.deterministic = true;
  call.run(e);
  EXPECT_STREQ(last_row()->name, "cuda.sweep");
  e.backend = "cuda";
  call.run(e);
  EXPECT_STREQ(last_row()->name, "cuda.sweep");
  e.backend = "cuda.tiles";
  EXPECT_EQ(refusal(e), "no backend can run this call: cuda.tiles: execution.deterministic is set");
}

TEST_F(CudaCall, RefusesMemoryThatIsNotTheDevices) {
  machine.host_memory = call.view(call.offsets).data;
  EXPECT_EQ(refusal(), "offsets must be in memory of cuda:0 but its pointer is the host's");
  machine.host_memory = nullptr, machine.other_device = call.view(*call.outputs[1]).data;
  EXPECT_EQ(refusal(), "grad_offsets must be in memory of cuda:0 but its pointer is of cuda:1");
  machine.other_device = nullptr;
  EXPECT_EQ(refusal(), "");
}

TEST_F(CudaCall, RefusesTensorsOfTwoDevicesAndTheCpusBackends) {
  Tensor x = call.view(call.x), offsets = call.view(call.offsets);
  Call forward(c, Pass::forward, Dtypes(DType::float16), false);
  forward.device = call.device;
  const auto run = [&](Execution e) {
    deformable_offsets(x, offsets, call.attributes, forward.view(*forward.outputs[0]), e);
  };
  offsets.device.index = 1;
  try {
    run({});
    ADD_FAILURE();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "offsets must be on x's device cuda:0 but is on cuda:1");
  }
  Execution cpu;
  cpu.backend = "reference";
  EXPECT_NE(refusal(cpu).find("the tensors are on another device"), std::string::npos);
}

TEST_F(CudaCall, RefusesADeviceThatIsNotThere) {
  call.device.index = 2;
  EXPECT_NE(refusal().find("cuda.tiles: there is no such CUDA device"), std::string::npos);
}

TEST_F(CudaCall, RefusesASmallOrForeignWorkspace) {
  Execution e;
  const std::size_t bytes = call.workspace(e);
  ASSERT_GT(bytes, 64);
  alignas(64) static char memory[1 << 20];
  ASSERT_LT(bytes, sizeof memory);
  e.workspace = memory, e.workspace_bytes = bytes - 1;
  EXPECT_EQ(refusal(e), "execution.workspace must have " + std::to_string(bytes) + " bytes but has " +
                            std::to_string(bytes - 1));
  e.workspace_bytes = bytes, machine.host_memory = memory;
  EXPECT_EQ(refusal(e), "execution.workspace must be in memory of cuda:0 but its pointer is the host's");
  machine.host_memory = nullptr;
  EXPECT_EQ(refusal(e), "");
}

TEST_F(CudaCall, SaysWhichKernelCouldNotBeLaunched) {
  machine.launch = cudaErrorInvalidConfiguration;
  Execution e;
  e.deterministic = true;
  try {
    call.run(e);
    ADD_FAILURE();
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(),
                 "CUDA: sweep_keys_kernel failed: an error of the stand-in (cudaErrorInvalidConfiguration)");
  }
  EXPECT_EQ(machine.allocated, 0) << "scratch is given back after an error";
}

TEST_F(CudaCall, ReportsMemoryThatCannotBeHad) {
  machine.out_of_memory = true;
  EXPECT_THROW(call.run({}), std::bad_alloc);
  EXPECT_EQ(machine.launches, 0);
}

TEST_F(CudaCall, RunsOnTheTensorsDeviceAndTheCallersStream) {
  call.device.index = 1, machine.of_all_devices = true;
  Execution e;
  e.stream = reinterpret_cast<void*>(0x1234);
  call.run(e);
  EXPECT_EQ(machine.last_device, 1);
  EXPECT_EQ(machine.last_stream, e.stream);
  EXPECT_EQ(machine.current, 0) << "the current device is restored";
  machine.launch = cudaErrorInvalidConfiguration;
  EXPECT_THROW(call.run(e), std::runtime_error);
  EXPECT_EQ(machine.current, 0) << "also after an error";
}

TEST_F(CudaCall, LaunchesNothingForAnEmptyBatch) {
  const Case empty = case_named("batch_0");
  for (Pass pass : {Pass::forward, Pass::grad, Pass::grad_grad}) {
    Call none(empty, pass, Dtypes(DType::float32), false);
    none.device = call.device;
    none.run({});
  }
  EXPECT_EQ(machine.launches, 0);
}

TEST_F(CudaCall, TakesAbsentCotangentsAsZero) {
  const auto outputs = [&](const char* backend, Device device, bool with_x, bool with_offsets) {
    Call second(c, Pass::grad_grad, Dtypes(DType::float64), false);
    second.device = device;
    Execution e;
    e.backend = backend;
    for (auto& o : second.outputs) o->poison();
    const auto v = [&](GuardedTensor& t) { return second.view(t); };
    deformable_offsets_grad_grad(v(second.grad), v(second.x), v(second.offsets),
                                 with_x ? v(second.gg_x) : Tensor{},
                                 with_offsets ? v(second.gg_offsets) : Tensor{}, second.attributes,
                                 v(*second.outputs[0]), v(*second.outputs[1]), v(*second.outputs[2]), e);
    return second.values();
  };
  const Call all(c, Pass::grad_grad, Dtypes(DType::float64), false);
  const std::int64_t touches = most_touches(c, all.offsets.values());
  const Tolerance tolerance(DType::float64, DType::float64);
  for (const char* row : {"cuda.tiles", "cuda.sweep"})
    for (int i = 0; i < 3; ++i) {
      const auto got = outputs(row, call.device, i & 1, i & 2), want = outputs("reference", {}, i & 1, i & 2),
                 magnitudes = outputs("reference.magnitudes", {}, i & 1, i & 2);
      for (std::size_t o = 0; o < want.size(); ++o)
        for (std::size_t k = 0; k < want[o].size(); ++k)
          ASSERT_LE(std::fabs(got[o][k] - want[o][k]),
                    tolerance(got[o][k], want[o][k], magnitudes[o][k],
                              longest_chain(all, all.output_name(o), touches)))
              << row << i;
    }
}

// ------ backends()

BackendInfo cuda_info() {
  for (const BackendInfo& b : backends())
    if (b.name == "cuda") return b;
  throw std::runtime_error("no cuda");
}

TEST_F(CudaCall, BackendsNamesTheDevicesOrWhyThereAreNone) {
  EXPECT_TRUE(cuda_info().available);
  EXPECT_EQ(cuda_info().reason, "CPU (sm_90), CPU (sm_90)");
  machine.start = cudaErrorNoDevice;
  EXPECT_FALSE(cuda_info().available);
  EXPECT_EQ(cuda_info().reason, "no NVIDIA GPU");
  machine.start = cudaErrorInsufficientDriver;
  EXPECT_EQ(cuda_info().reason, "no NVIDIA driver, or one older than CUDA 13");
  machine.start = cudaSuccess, machine.major = 7, machine.minor = 5;
  EXPECT_EQ(cuda_info().reason, "needs a GPU of sm_80 or later; here: CPU (sm_75), CPU (sm_75)");
  EXPECT_NE(refusal().find("the device is older than sm_80"), std::string::npos);
}

// ------ The machine itself: what it must find is found

std::string found(const std::function<void()>& kernel, unsigned threads = 64) {
  return cuda_on_cpu::run_grid(dim3(1), dim3(threads), 256, kernel);
}

TEST(Machine, FindsWhatIsWrong) {
  EXPECT_EQ(found([] { __syncthreads(); }), "");
  EXPECT_NE(found([] {
              if (threadIdx.x) __syncthreads();
            }).find("is not reached by 1 threads"),
            std::string::npos);
  EXPECT_NE(found([] {
              if (threadIdx.x % 2)
                __syncthreads();
              else
                __syncthreads();
              // clang-format off
            }), "") << "two barriers on two lines";
  // clang-format on
  EXPECT_EQ(found([] { __shfl_xor_sync(~0u, 1, 1); }), "");
  EXPECT_EQ(found([] {
              if (threadIdx.x != 3) __shfl_xor_sync(~0u, 1, 1);
            }),
            "a mask names a lane that has returned");
  EXPECT_EQ(found([] { __shfl_xor_sync(1u, 1, 1); }),
            "a shuffle reads from a lane that its mask does not name");
  EXPECT_EQ(found([] { __shfl_sync(2u, 1, 1); }), "a lane is not in the mask that it waits with");
  EXPECT_EQ(found([] { __syncwarp(); }, 48), "a mask names a lane that the block does not have");
  EXPECT_EQ(found([] {
              if (threadIdx.x % 2)
                __syncwarp();
              else
                __any_sync(~0u, 1);
            }),
            "lanes of one mask wait for different things");
  EXPECT_EQ(found([] { __syncthreads(); }), "") << "the machine goes on after an error";
}

TEST(Machine, ShufflesAndVotes) {
  EXPECT_EQ(found([] {
              const int lane = static_cast<int>(threadIdx.x) % 32;
              if (__shfl_xor_sync(~0u, lane, 5) != (lane ^ 5)) cuda_on_cpu::fail("xor");
              if (__shfl_sync(~0u, lane, 3, 8) != lane / 8 * 8 + 3) cuda_on_cpu::fail("width");
              if (__shfl_up_sync(~0u, lane, 2) != (lane < 2 ? lane : lane - 2)) cuda_on_cpu::fail("up");
              if (!__any_sync(~0u, lane == 7) || __any_sync(~0u, lane > 31)) cuda_on_cpu::fail("any");
            }),
            "");
}

}  // namespace
}  // namespace tapfield::testing
