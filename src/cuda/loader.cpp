// SPDX-License-Identifier: Apache-2.0
// Finds and loads tapfield_cuda. Part of the CPU library; knows nothing of CUDA.
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "cuda/cuda.h"
#include "cuda/library.h"

namespace tapfield::cuda {
namespace {

struct Loaded {
  const Library* library = nullptr;
  std::string reason;  // why there is none
};

std::atomic<bool> is_loaded{false};

// Beside the library or program that this code is part of, then wherever the system looks;
// TAPFIELD_CUDA_LIBRARY names a file instead.
void* open_library(std::string* reason) {
  std::string name = "libtapfield_cuda.so", beside;
  if (const char* file = std::getenv("TAPFIELD_CUDA_LIBRARY")) {
    name = file;
  } else if (Dl_info self; dladdr(reinterpret_cast<void*>(&open_library), &self) && self.dli_fname) {
    beside = self.dli_fname;
    beside.replace(beside.rfind('/') + 1, std::string::npos, name);
    if (access(beside.c_str(), F_OK) == 0) name = beside;
  }
  if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
  const char* error = dlerror();
  *reason = "its library cannot be loaded: " + (error ? std::string(error) : name);
  return nullptr;
}

Loaded load() {
  Loaded l;
  void* handle = open_library(&l.reason);  // never closed: its threads and contexts outlive any good moment
  if (!handle) return l;
  auto* entry = reinterpret_cast<Entry*>(dlsym(handle, kEntry));
  if (!entry) {
    l.reason = std::string("its library has no ") + kEntry;
    return l;
  }
  const Library* library = entry();
  if (std::string(library->version) != version() || library->problem_bytes != sizeof(Problem)) {
    l.reason = "its library is of another build, of tapfield " + std::string(library->version);
    return l;
  }
  l.library = library;
  is_loaded = true;
  return l;
}

const Loaded& loaded() {
  static const Loaded l = load();
  return l;
}

const std::string& why_unavailable() {
  static const std::string why =
      loaded().library ? loaded().library->why_unavailable(nullptr) : loaded().reason;
  return why;
}

const Library& library() { return *loaded().library; }

}  // namespace

BackendInfo info() {
  std::string devices, why = loaded().reason;
  if (loaded().library) why = library().why_unavailable(&devices);
  return {"cuda", "cuda", why.empty(), why.empty() ? devices : why};
}

void release_scratch() {
  if (is_loaded) library().release_scratch();
}

const char* why_not(const Problem& p) {
  if (!why_unavailable().empty()) return why_unavailable().c_str();
  return library().why_not(p);
}

const char* tiles_why_not(const Problem& p) {
  return p.deterministic ? "execution.deterministic is set" : why_not(p);
}

double tiles_cost(const Problem&) { return 1; }
double sweep_cost(const Problem&) { return 2; }

std::size_t forward_workspace(const Problem& p, int) { return library().forward.workspace(p); }
void forward(const Problem& p, const Workers&, void* workspace) { library().forward.run(p, workspace); }

std::size_t grad_tiles_workspace(const Problem& p, int) { return library().grad_tiles.workspace(p); }
void grad_tiles(const Problem& p, const Workers&, void* workspace) { library().grad_tiles.run(p, workspace); }

std::size_t grad_sweep_workspace(const Problem& p, int) { return library().grad_sweep.workspace(p); }
void grad_sweep(const Problem& p, const Workers&, void* workspace) { library().grad_sweep.run(p, workspace); }

std::size_t grad_grad_tiles_workspace(const Problem& p, int) {
  return library().grad_grad_tiles.workspace(p);
}
void grad_grad_tiles(const Problem& p, const Workers&, void* workspace) {
  library().grad_grad_tiles.run(p, workspace);
}

std::size_t grad_grad_sweep_workspace(const Problem& p, int) {
  return library().grad_grad_sweep.workspace(p);
}
void grad_grad_sweep(const Problem& p, const Workers&, void* workspace) {
  library().grad_grad_sweep.run(p, workspace);
}

}  // namespace tapfield::cuda
