// SPDX-License-Identifier: Apache-2.0
// Runs a package of AOTInductor that uses tapfield's operators, without Python:
//   torch_run libtapfield_torch.so net.pt2 x.bin N C H W >y.bin
// x.bin and y.bin hold float32. Link with libtorch, after -Wl,--no-as-needed: the package asks for
// libtorch.so, which must be loaded by then. The operators register themselves when their library is loaded.
#include <ATen/ops/empty.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <fstream>

int main(int argc, char** argv) {
  if (argc != 8) return std::fprintf(stderr, "usage: torch_run LIBRARY PACKAGE X N C H W\n"), 2;
  if (!dlopen(argv[1], RTLD_NOW)) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  at::Tensor x = at::empty({std::stol(argv[4]), std::stol(argv[5]), std::stol(argv[6]), std::stol(argv[7])});
  std::ifstream(argv[3], std::ios::binary)
      .read(static_cast<char*>(x.data_ptr()), static_cast<std::streamsize>(x.nbytes()));

  torch::inductor::AOTIModelPackageLoader model(argv[2]);
  const at::Tensor y = model.run({x})[0].contiguous();
  std::fwrite(y.const_data_ptr(), 1, y.nbytes(), stdout);
}
