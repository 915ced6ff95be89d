// SPDX-License-Identifier: Apache-2.0
// Some cases, to the first thing that is wrong, which is printed: what a mutant must fail with.
#include <gtest/gtest-spi.h>

#include <cstdio>

#include "agreement.h"
#include "ascend_call.h"

using namespace tapfield::testing;

namespace {

const char* const kCases[] = {"c16_g2",  "c129_g1",        "c258_g2", "one_cell_g8",
                              "batch_5", "nonfinite_open", "tiles"};

// An empty text, or what is wrong.
std::string fault(Product product, const Case& c, tapfield::Pass pass, tapfield::DType t,
                  bool deterministic) {
  Call call(c, pass, Dtypes(t), /*nchw=*/false);
  try {
    run_on(product, call, 3, deterministic);
  } catch (const ascend_on_cpu::Failure& e) { return e.what(); }
  const Truth truth(c, pass, Dtypes(t));
  ::testing::TestPartResultArray results;
  {
    ::testing::ScopedFakeTestPartResultReporter reporter(&results);
    expect_close(call, truth);
  }
  return results.size() ? std::string("a wrong result: ") + results.GetTestPartResult(0).message() : "";
}

}  // namespace

int main() {
  for (const Case& c : small_cases())
    for (const char* name : kCases)
      if (c.name == name)
        for (Product product : {Product::dav_3510, Product::dav_2201})
          for (tapfield::Pass pass : {tapfield::Pass::forward, tapfield::Pass::grad})
            for (tapfield::DType t : {tapfield::DType::float32, tapfield::DType::bfloat16})
              for (bool deterministic : {false, true})
                if (const std::string text = fault(product, c, pass, t, deterministic); !text.empty()) {
                  std::printf("FAULT %s %s: %s\n", name_of(product), name, text.c_str());
                  return 1;
                }
  std::puts("no fault");
  return 0;
}
