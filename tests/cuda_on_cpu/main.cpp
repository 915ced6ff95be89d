// SPDX-License-Identifier: Apache-2.0
// The tests' main: the CUDA library that is loaded is the one that runs on the CPU.
#include <gtest/gtest.h>

#include <cstdlib>

int main(int argc, char** argv) {
  setenv("TAPFIELD_CUDA_LIBRARY", TAPFIELD_CUDA_ON_CPU, 1);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
