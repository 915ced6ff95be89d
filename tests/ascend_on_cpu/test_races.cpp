// SPDX-License-Identifier: Apache-2.0
// Cores as threads: in a build with -fsanitize=thread, what cores do to each other without meeting.
#include <gtest/gtest.h>

#include "agreement.h"
#include "ascend_call.h"

namespace tapfield::testing {
namespace {

const char* const kCases[] = {"c16_g2", "c129_g1",        "one_cell_g8", "batch_5",
                              "v1_g4",  "nonfinite_open", "scattered"};

TEST(Races, CoresMeetWhereTheyMust) {
  ascend_on_cpu::options().order = ascend_on_cpu::Order::parallel;
  int ran = 0;
  for (const Case& c : small_cases())
    for (const char* name : kCases) {
      if (c.name != name) continue;
      for (Product product : {Product::dav_3510, Product::dav_2201})
        for (Pass pass : {Pass::forward, Pass::grad})
          for (DType t : {DType::float32, DType::bfloat16})
            for (bool deterministic : {false, true}) {
              SCOPED_TRACE(c.name + " " + name_of(product) + " " + tapfield::name_of(t));
              if (deterministic && pass == Pass::forward) continue;
              const Truth truth(c, pass, Dtypes(t));
              Call call(c, pass, Dtypes(t), /*nchw=*/false);
              run_on(product, call, 4, deterministic);
              expect_close(call, truth);
              ++ran;
            }
    }
  EXPECT_EQ(ran, std::size(kCases) * 12);
}

}  // namespace
}  // namespace tapfield::testing
