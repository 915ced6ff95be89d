// SPDX-License-Identifier: Apache-2.0
// The JAX door: the three operators as calls of XLA's foreign function interface, whose C ABI is stable: the
// functions tapfield_jax_cpu_forward, _grad, _grad_grad and the same with cuda, by which Python registers
// them (tapfield/jax/primitives.py). Needs no Python itself. Operands and results are the operator's tensors
// in the order of tapfield.hpp, dense, gg_x and gg_offsets only where the attribute of that name is true.
// Where `columns` is, y, grad and grad_grad are [N, Ho, Wo, Kh*Kw*C] in either data_format: the rows that a
// matrix product takes.
//
// On the CPU a call runs on XLA's threads; scratch is what the library keeps. On a GPU it is queued on XLA's
// stream, with scratch of XLA's. XLA allocates the results.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "backends.h"
#include "huge_pages.h"
#include "xla/ffi/api/ffi.h"

namespace tapfield::jax_door {
namespace {

namespace ffi = xla::ffi;
using std::int64_t;

// The value, or what XLA says is wrong.
template <class T>
T value(ffi::ErrorOr<T> found) {
  if (!found.has_value()) throw std::invalid_argument(found.error().message());
  return *found;
}

// ------ A call's tensors and attributes

DType dtype_of(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F16: return DType::float16;
    case ffi::DataType::BF16: return DType::bfloat16;
    case ffi::DataType::F32: return DType::float32;
    case ffi::DataType::F64: return DType::float64;
    default: throw dtype_error("a tensor must be float16, bfloat16, float32 or float64");
  }
}

// The operands and results of a pass, checked.
class Call {
 public:
  Call(Pass pass, Device device, ffi::RemainingArgs operands, ffi::RemainingRets results,
       ffi::Dictionary given)
      : operands_(operands),
        results_(results),
        given_(given),
        device_(device),
        data_format_(value(given.get<std::string_view>("data_format"))),
        border_(value(given.get<std::string_view>("border"))),
        attributes_{.ksize = ints("ksize"),
                    .strides = ints("strides"),
                    .pads = ints("pads"),
                    .dilations = ints("dilations"),
                    .data_format = data_format_.c_str(),
                    .deformable_groups = value(given.get<int64_t>("deformable_groups")),
                    .modulated = flag("modulated"),
                    .border = border_.c_str()},
        columns_(flag("columns")) {
    const bool forward = pass == Pass::forward, second = pass == Pass::grad_grad;
    Arguments a;
    if (!forward) a.grad = operand(columns_);
    a.x = operand(), a.offsets = operand();
    if (second)
      a.gg_x = flag("gg_x") ? operand() : &absent_, a.gg_offsets = flag("gg_offsets") ? operand() : &absent_;
    if (forward) a.y = result(columns_);
    if (second) a.grad_grad = result(columns_);
    if (!forward) a.grad_x = result(), a.grad_offsets = result();
    problem_ = make_problem(pass, a, attributes_, true);
    problem_.device = device.index, problem_.deterministic = flag("deterministic");
    if (columns_)
      for (View* v : {&problem_.grad, &problem_.y, &problem_.grad_grad}) put_in_columns(*v);
  }

  Problem& problem() { return problem_; }

 private:
  bool flag(const char* name) const { return value(given_.get<bool>(name)); }
  Ints ints(const char* name) const {
    const auto list = value(given_.get<ffi::Span<const int64_t>>(name));
    return Ints(list.begin(), static_cast<int64_t>(list.size()));
  }

  const Tensor* operand(bool columns = false) {
    const Tensor* t = tensor(value(operands_.get<ffi::AnyBuffer>(next_operand_++)), columns);
    tensors_[used_ - 1].read_only = true;
    return t;
  }
  const Tensor* result(bool columns = false) {
    const ffi::AnyBuffer buffer = *value(results_.get<ffi::AnyBuffer>(next_result_++));
    if (device_.type == DeviceType::cpu) ask_for_huge_pages(buffer.untyped_data(), buffer.size_bytes());
    return tensor(buffer, columns);
  }
  const Tensor* tensor(const ffi::AnyBuffer& buffer, bool columns) {
    const auto size = buffer.dimensions();
    Ints shape(size.begin(), static_cast<int64_t>(size.size()));
    if (columns) shape = shape_of_samples(shape);
    tensors_[used_] = Tensor(buffer.untyped_data(), dtype_of(buffer.element_type()), shape);
    tensors_[used_].device = device_;
    return &tensors_[used_++];
  }

  // Columns [N, Ho, Wo, Kh*Kw*C] hold what y [N, Ho*Kh, Wo*Kw, C], or y in NCHW, holds.
  Ints shape_of_samples(const Ints& columns) const {
    const int64_t kh = attributes_.ksize[0], kw = attributes_.ksize[1];
    if (columns.size() != 4 || kh < 1 || kw < 1) return columns;  // refused by make_problem
    const int64_t h = columns[1] * kh, w = columns[2] * kw, c = columns[3] / (kh * kw);
    return data_format_ == "NCHW" ? Ints{columns[0], c, h, w} : Ints{columns[0], h, w, c};
  }
  void put_in_columns(View& v) const {
    const Problem& p = problem_;
    v.c = 1, v.w = p.c, v.h = p.kw * p.c;
    v.wo = p.taps() * p.c, v.ho = p.wo * v.wo, v.n = p.ho * v.ho;
  }

  ffi::RemainingArgs operands_;
  ffi::RemainingRets results_;
  ffi::Dictionary given_;
  Device device_;
  std::string data_format_, border_;
  Attributes attributes_;  // points into the strings
  bool columns_;
  Tensor tensors_[8], absent_;
  std::size_t used_ = 0, next_operand_ = 0, next_result_ = 0;
  Problem problem_;
};

// ------ How to run

// XLA's threads and the caller's take items until there are none. The caller waits for items that others have
// begun, never for a thread to come: XLA may have none to spare.
void parallel_for(void* pool, int64_t n, tapfield_parallel_body body, void* context) {
  struct Items {
    int64_t n;
    tapfield_parallel_body body;
    void* context;  // alive while an item is left, not longer
    std::atomic<int64_t> next{0}, done{0};

    void work() {
      for (int64_t i = next++; i < n; i = next++) {
        body(context, i, i + 1);
        if (++done == n) done.notify_all();
      }
    }
  };
  const auto items = std::make_shared<Items>(n, body, context);
  try {
    for (int64_t i = 1; i < n; ++i) static_cast<ffi::ThreadPool*>(pool)->Schedule([items] { items->work(); });
  } catch (...) {}  // the caller does what nobody else comes for
  items->work();
  for (int64_t done = items->done; done < n; done = items->done) items->done.wait(done);
}

void run_on_cpu(ffi::ThreadPool pool, const Problem& p) {
  Execution e;
  const int64_t threads = pool.num_threads();
  e.threads = p.y_elements() < Workers::kShared || threads < 1 ? 1 : static_cast<int>(threads);
  e.parallel_for = &parallel_for, e.pool = &pool;
  run(p, DeviceType::cpu, e);
}

void run_on_cuda(void* stream, ffi::ScratchAllocator& scratch, Problem& p) {
  p.stream = stream;
  Execution e;
  e.stream = stream;
  e.workspace_bytes =
      p.n ? choose(p, DeviceType::cuda, nullptr).workspace(p, Workers(e, p.y_elements()).slots()) : 0;
  if (e.workspace_bytes) {
    const auto block = scratch.Allocate(e.workspace_bytes, 256);
    if (!block) throw std::bad_alloc();
    e.workspace = *block;
  }
  run(p, DeviceType::cuda, e);
}

// f(); its errors as XLA's.
template <class F>
ffi::Error guarded(const F& f) {
  try {
    f();
    return ffi::Error::Success();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "tapfield: not enough memory for scratch");
  } catch (const std::invalid_argument& e) {
    return ffi::Error::InvalidArgument(e.what());
  } catch (const std::exception& e) { return ffi::Error::Internal(e.what()); }
}

template <Pass pass>
ffi::Error on_cpu(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::RemainingRets results,
                  ffi::Dictionary attributes) {
  return guarded([&] { run_on_cpu(pool, Call(pass, {}, operands, results, attributes).problem()); });
}

template <Pass pass>
ffi::Error on_cuda(void* stream, ffi::ScratchAllocator scratch, std::int32_t device,
                   ffi::RemainingArgs operands, ffi::RemainingRets results, ffi::Dictionary attributes) {
  return guarded([&] {
    Call call(pass, {DeviceType::cuda, device}, operands, results, attributes);
    run_on_cuda(stream, scratch, call.problem());
  });
}

auto cpu_call() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs(); }

auto cuda_call() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::PlatformStream<void*>>()
      .Ctx<ffi::ScratchAllocator>()
      .Ctx<ffi::DeviceOrdinal>()
      .RemainingArgs()
      .RemainingRets()
      .Attrs();
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))
#define HANDLER(name, run, binding)                                   \
  EXPORT XLA_FFI_Error* tapfield_jax_##name(XLA_FFI_CallFrame* call); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(tapfield_jax_##name, run, binding)

HANDLER(cpu_forward, on_cpu<Pass::forward>, cpu_call());
HANDLER(cpu_grad, on_cpu<Pass::grad>, cpu_call());
HANDLER(cpu_grad_grad, on_cpu<Pass::grad_grad>, cpu_call());
HANDLER(cuda_forward, on_cuda<Pass::forward>, cuda_call());
HANDLER(cuda_grad, on_cuda<Pass::grad>, cuda_call());
HANDLER(cuda_grad_grad, on_cuda<Pass::grad_grad>, cuda_call());

EXPORT void tapfield_jax_release_scratch() { release_scratch(); }

// The jaxlib whose interface this was built for: an older one refuses it, with its whole CPU.
EXPORT const char* tapfield_jax_built_for() { return TAPFIELD_JAXLIB; }

}  // namespace tapfield::jax_door
