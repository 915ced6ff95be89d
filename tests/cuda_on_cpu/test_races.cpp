// SPDX-License-Identifier: Apache-2.0
// Every schedule of the CUDA backend with every load and store checked for races, on cases with several
// tiles, groups, pieces of channels and dead taps. Mutants of the kernels run the same and must fail here.
#include <gtest/gtest.h>

#include "agreement.h"
#include "cuda/tuning.h"
#include "cuda_runtime.h"

namespace tapfield::testing {
namespace {

const char* const kCases[] = {"c129_g1",        "c16_g4",  "tiles",    "one_cell",
                              "nonfinite_open", "batch_5", "v1_closed"};

TEST(Races, NoneInAnySchedule) {
  cuda::Tuning& tuning = cuda::tuning();
  tuning.threads = 64, tuning.tile_taps = 96, tuning.strip = 3;
  int ran = 0;
  for (const Case& c : small_cases())
    for (const Row* row : kernels(DeviceType::cuda))
      for (DType t : {DType::float32, DType::bfloat16})
        for (bool nchw : {false, true}) {
          if (std::find(std::begin(kCases), std::end(kCases), c.name) == std::end(kCases)) continue;
          SCOPED_TRACE(std::string(row->name) + " " + name_of(row->pass) + " " + c.name + " " +
                       tapfield::name_of(t) + (nchw ? " NCHW" : " NHWC"));
          Call call(c, row->pass, Dtypes(t), nchw);
          call.device = {DeviceType::cuda, 0};
          Execution e;
          e.backend = row->name;
          ASSERT_NO_THROW(call.run(e));
          ++ran;
        }
  EXPECT_EQ(ran, std::size(kCases) * 5 * 4);
  EXPECT_GT(cuda_on_cpu::accesses_checked(), 1'000'000);
}

}  // namespace
}  // namespace tapfield::testing
