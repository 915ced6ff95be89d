// SPDX-License-Identifier: Apache-2.0
// Any call is either refused, with nothing written, or computes what the reference does, writes nothing but
// its outputs' elements, and gives the same bits for another number of threads. Every tensor is a heap block
// of exactly its own extent, so that AddressSanitizer sees one byte too many.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>

#include "call.h"

namespace tapfield::test {
namespace {

using std::int64_t;

// A call whose tensors are larger than this is only measured: its memory is not there.
constexpr int64_t kMaxBytes = 1 << 18, kMaxElements = 1 << 14;

[[noreturn]] void found(const std::string& what) {
  std::fprintf(stderr, "FOUND: %s\n", what.c_str());
  std::abort();
}

// ------ A call from bytes: a valid one, then changed in up to three places

Ints random_strides(FuzzedDataProvider& in, const Ints& shape, bool output) {
  if (in.ConsumeBool()) return {};
  int order[4] = {3, 2, 1, 0};
  for (int i = 3; i > 0; --i)
    if (in.ConsumeBool()) std::swap(order[i], order[in.ConsumeIntegralInRange(0, i)]);
  Ints strides{1, 1, 1, 1};
  int64_t step = 1;
  for (int axis : order) {
    step += in.ConsumeBool() ? in.ConsumeIntegralInRange(0, 5) : 0;  // a gap
    strides[axis] = in.ConsumeBool() ? step : -step;
    if (!output && in.ConsumeIntegralInRange(0, 7) == 0) strides[axis] = 0;
    step *= std::max<int64_t>(shape[axis], 1);
  }
  return strides;
}

DType narrow_or_wide(FuzzedDataProvider& in, DType t) {
  return element_size(t) == 2 && in.ConsumeBool() ? DType::float32 : t;
}

// {} or the valid operation's shapes: of maps, of offsets, of samples.
Operation valid_operation(FuzzedDataProvider& in) {
  Operation op;
  op.pass = kPasses[in.ConsumeIntegralInRange(0, 2)];
  const auto small = [&](int64_t least, int64_t most) {
    return in.ConsumeIntegralInRange<int64_t>(least, most);
  };
  Attributes& a = op.attributes;
  const bool nchw = in.ConsumeBool();
  const auto layout = [&](int64_t n, int64_t h, int64_t w, int64_t c) {
    return nchw ? Ints{n, c, h, w} : Ints{n, h, w, c};
  };
  a.data_format = nchw ? "NCHW" : "NHWC";
  a.border = in.ConsumeBool() ? "open" : "closed";
  a.modulated = in.ConsumeBool();
  a.ksize = {small(1, 3), small(1, 3)};
  a.strides = layout(1, small(1, 3), small(1, 3), 1);
  a.dilations = layout(1, small(1, 3), small(1, 3), 1);
  a.deformable_groups = small(1, 4);
  const int64_t n = small(0, 2), h = small(1, 9), w = small(1, 9);
  const int64_t c = a.deformable_groups * (in.ConsumeBool() ? small(1, 5) : small(1, 40));
  a.pads = {0, 0, 0, 0};
  for (int i = 0; i < 4; ++i) a.pads[i] = small(0, 3);
  // As much more padding as the kernel needs.
  a.pads[0] += std::max<int64_t>(0, a.dilations[nchw ? 2 : 1] * (a.ksize[0] - 1) + 1 - h);
  a.pads[2] += std::max<int64_t>(0, a.dilations[nchw ? 3 : 2] * (a.ksize[1] - 1) + 1 - w);
  const auto [ho, wo] = output_size({h, w}, a);
  const Ints map = layout(n, h, w, c), samples = layout(n, ho * a.ksize[0], wo * a.ksize[1], c);
  const Ints taps = layout(n, ho, wo, (a.modulated ? 3 : 2) * a.deformable_groups * a.ksize[0] * a.ksize[1]);

  const auto x_type = static_cast<DType>(in.ConsumeIntegralInRange(0, 3));
  const DType offsets_type = narrow_or_wide(in, x_type);
  const auto make = [&](Tensor& t, const Ints& shape, DType dtype, bool output) {
    t.shape = shape, t.dtype = dtype, t.strides = random_strides(in, shape, output);
  };
  make(op.x, map, x_type, false), make(op.offsets, taps, offsets_type, false),
      make(op.grad, samples, x_type, false);
  make(op.gg_x, map, narrow_or_wide(in, x_type), false),
      make(op.gg_offsets, taps, narrow_or_wide(in, offsets_type), false);
  make(op.y, samples, x_type, true), make(op.grad_grad, samples, x_type, true);
  make(op.grad_x, map, narrow_or_wide(in, x_type), true),
      make(op.grad_offsets, taps, narrow_or_wide(in, offsets_type), true);
  op.execution.threads = in.ConsumeIntegralInRange(1, 5);
  return op;
}

int64_t any_integer(FuzzedDataProvider& in) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  switch (in.ConsumeIntegralInRange(0, 3)) {
    case 0: return in.ConsumeIntegralInRange<int64_t>(-2, 9);
    case 1: return (int64_t{1} << in.ConsumeIntegralInRange(0, 62)) + in.ConsumeIntegralInRange(-1, 1);
    case 2:
      return in.ConsumeBool() ? most - in.ConsumeIntegralInRange(0, 2)
                              : -most - in.ConsumeIntegralInRange(0, 1);
    default: return in.ConsumeIntegral<int64_t>();
  }
}

void change(FuzzedDataProvider& in, Operation& op, std::string& name) {
  const auto tensors = op.tensors();
  Tensor& t = *tensors[in.ConsumeIntegralInRange<std::size_t>(0, tensors.size() - 1)];
  Attributes& a = op.attributes;
  const int i = in.ConsumeIntegralInRange(0, 3);
  const auto list = [&](Ints& v) {
    in.ConsumeIntegralInRange(0, 7) ? void(v[i] = any_integer(in))
                                    : void(v = Ints(v.data(), in.ConsumeIntegralInRange(0, 9)));
  };
  switch (in.ConsumeIntegralInRange(0, 15)) {
    case 0:
    case 1: return list(t.shape);
    case 2:
      return t.strides.size() ? list(t.strides)
                              : void(t.strides = Ints{any_integer(in), any_integer(in), any_integer(in), 1});
    case 3: return void(t.dtype = static_cast<DType>(in.ConsumeIntegralInRange(-1, 4)));
    case 4:
      return void(t.device = {static_cast<DeviceType>(in.ConsumeIntegralInRange(0, 2)),
                              in.ConsumeIntegralInRange(-1, 1)});
    case 5: return void(t.read_only = true);
    case 6: return void(t = Tensor{});
    case 7: return list(a.ksize);
    case 8: return list(a.strides);
    case 9: return list(a.pads);
    case 10: return list(a.dilations);
    case 11: return void(a.deformable_groups = any_integer(in));
    case 12:
      name = in.ConsumeRandomLengthString(6);
      return void((in.ConsumeBool() ? a.border : a.data_format) = name.c_str());
    case 13: name = in.ConsumeRandomLengthString(10); return void(op.execution.backend = name.c_str());
    case 14: return void(op.execution.threads = in.ConsumeIntegralInRange(-5, 70));
    default: return void(a.modulated = !a.modulated);
  }
}

// ------ Memory

struct Block {
  std::vector<char> bytes;
  int64_t first = 0;             // of the element [0, 0, 0, 0]
  std::vector<char> is_element;  // per byte
};

// The tensor's extent, computed in 128 bits; false if it is none, or too large to be here.
bool measure(const Tensor& t, Block& block) {
  if (t.shape.size() != 4 || (t.strides.size() && t.strides.size() != 4)) return false;
  __int128 low = 0, high = 0, count = 1, dense = 1;
  const auto size = element_size(t.dtype);
  __int128 strides[4];
  for (int i = 3; i >= 0; --i) {
    if (t.shape[i] < 0 || t.shape[i] > kMaxElements) return false;
    strides[i] = t.strides.size() ? __int128{t.strides[i]} : dense;
    dense *= t.shape[i], count *= t.shape[i];
    if (t.shape[i] > 1) (strides[i] < 0 ? low : high) += strides[i] * (t.shape[i] - 1);
  }
  if (count > kMaxElements) return false;
  if (count == 0) return true;
  if ((high - low + 1) * size > kMaxBytes) return false;
  block.bytes.resize(static_cast<std::size_t>((high - low + 1) * size));
  block.is_element.assign(block.bytes.size(), 0);
  block.first = static_cast<int64_t>(-low * size);
  for (int64_t i = 0; i < count; ++i) {
    __int128 at = 0, rest = i;
    for (int k = 3; k >= 0; --k)
      at += t.shape[k] > 1 ? strides[k] * (rest % t.shape[k]) : 0, rest /= t.shape[k];
    std::fill_n(block.is_element.begin() + block.first + static_cast<int64_t>(at) * size, size, char{1});
  }
  return true;
}

double get(const char* at, DType t) {
  std::uint16_t half;
  float single;
  double value;
  switch (t) {
    case DType::float32: return std::memcpy(&single, at, 4), single;
    case DType::float64: return std::memcpy(&value, at, 8), value;
    default: std::memcpy(&half, at, 2);
  }
  const int digits = t == DType::float16 ? 10 : 7, bias = t == DType::float16 ? 15 : 127;
  const int exponent = (half & 0x7fff) >> digits, fraction = half & ((1 << digits) - 1);
  value = exponent == 2 * bias + 1 ? (fraction ? NAN : INFINITY)
          : exponent               ? std::ldexp(fraction + (1 << digits), exponent - bias - digits)
                                   : std::ldexp(fraction, 1 - bias - digits);
  return half & 0x8000 ? -value : value;
}

// Multiples of 1/8 up to 4, exact in every dtype; wild ones in some places, but none so large that a product
// of four overflows float32 in between, where the reference does not.
void fill(Block& block, DType t, std::mt19937& random, bool wild) {
  // NaN, infinities, -0, the smallest of either sign, 10^4 of either sign
  constexpr std::uint16_t kFloat16[] = {0x7e00, 0x7c00, 0xfc00, 0x8000, 0x0001, 0x8001, 0x70e2, 0xf0e2};
  constexpr std::uint16_t kBfloat16[] = {0x7fc0, 0x7f80, 0xff80, 0x8000, 0x0001, 0x8001, 0x461c, 0xc61c};
  const auto size = static_cast<std::size_t>(element_size(t));
  for (std::size_t i = static_cast<std::size_t>(block.first) % size; i + size <= block.bytes.size();
       i += size) {
    float single = 0.125f * static_cast<float>(static_cast<int>(random() % 65) - 32);
    std::uint32_t bits;
    std::memcpy(&bits, &single, 4);
    // In float16: the exponent rebiased by 127 - 15, the fraction cut.
    auto half = static_cast<std::uint16_t>(
        single == 0 ? 0 : (bits >> 16 & 0x8000) | ((bits & 0x7fffffff) - (112u << 23)) >> 13);
    if (wild && random() % 16 == 0) {
      const auto which = random() % 8;
      half = kFloat16[which], bits = static_cast<std::uint32_t>(kBfloat16[which]) << 16;
      std::memcpy(&single, &bits, 4);
    }
    if (t == DType::bfloat16) half = static_cast<std::uint16_t>(bits >> 16);
    const double value = single;
    const void* from = t == DType::float64   ? static_cast<const void*>(&value)
                       : t == DType::float32 ? static_cast<const void*>(&single)
                                             : &half;
    std::memcpy(&block.bytes[i], from, size);
  }
}

// ------ The properties

// |a - b| within the bound of docs/operators.md, "Numerics": sums in float32 of at most `terms` terms of
// total size `magnitude`, rounded once to the output's dtype. Both sides may round, and so may the magnitude.
bool close(double a, double b, double magnitude, double terms, DType computed, DType stored) {
  const double largest = stored == DType::float16 ? 6e4 : stored == DType::float64 ? 1e300 : 1e38;
  if (!(std::fabs(b) < largest && magnitude < largest))
    return true;  // which non-finite value is not specified
  const double eps = computed == DType::float64 ? 0x1p-52 : 0x1p-23;
  const double ulp = stored == DType::float16 ? 0x1p-10 : stored == DType::bfloat16 ? 0x1p-7 : eps;
  const double least = stored == DType::float16 ? 0x1p-24 : computed == DType::float64 ? 1e-300 : 1e-36;
  return std::fabs(a - b) <=
         2 * eps * terms * magnitude + 2 * ulp * std::max(std::fabs(a), std::fabs(b)) + least;
}

// To read a finding: TAPFIELD_FUZZ_PRINT=1 fuzz_api crash-...
void print(Operation& op) {
  const auto list = [](const char* name, const Ints& v) {
    std::printf(" %s [", name);
    for (int64_t i = 0; i < std::min(v.size(), Ints::capacity); ++i)
      std::printf("%s%lld", i ? ", " : "", static_cast<long long>(v[i]));
    std::printf("]");
  };
  const Attributes& a = op.attributes;
  std::printf("%s: %s %s, %lld groups, %s;", name_of_pass(op.pass).c_str(), a.data_format, a.border,
              static_cast<long long>(a.deformable_groups), a.modulated ? "modulated" : "unmodulated");
  list("ksize", a.ksize), list("strides", a.strides), list("pads", a.pads), list("dilations", a.dilations);
  std::printf("; %d threads, backend %s\n", op.execution.threads,
              op.execution.backend ? op.execution.backend : "any");
  for (std::size_t i = 0; i < op.tensors().size(); ++i) {
    const Tensor& t = *op.tensors()[i];
    std::printf("  %s: dtype %d,", Operation::names(op.pass)[i].c_str(), static_cast<int>(t.dtype));
    list("shape", t.shape), list("strides", t.strides);
    std::printf(" at %p\n", t.data);
  }
  std::fflush(stdout);
}

void check(FuzzedDataProvider& in) {
  Operation op = valid_operation(in);
  std::string name;
  const int changes = in.ConsumeIntegralInRange(0, 5) % 4;
  for (int i = 0; i < changes; ++i) change(in, op, name);
  const Via via = in.ConsumeBool() && op.attributes.ksize.size() == 2 && op.attributes.strides.size() == 4 &&
                          op.attributes.pads.size() == 4 && op.attributes.dilations.size() == 4
                      ? Via::c
                      : Via::cpp;

  const auto tensors = op.tensors();
  std::vector<Block> blocks(tensors.size());
  std::size_t scratch = 0;
  bool here = true;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i]->shape.size()) here = measure(*tensors[i], blocks[i]) && here;
  // A device's memory is not here either.
  const Outcome measured = op.workspace_size(via, scratch);
  if (changes == 0 && measured.status != TAPFIELD_OK) found("a valid call is refused: " + measured.message);
  if (measured.status == TAPFIELD_OK && !measured.message.empty())
    found("success with a message: " + measured.message);
  if (measured.status != TAPFIELD_OK && measured.message.empty()) found("refused without a word");
  if (!here) return;

  std::mt19937 random(in.ConsumeIntegral<std::uint32_t>());
  const bool wild = in.ConsumeBool();
  bool must_fail = false;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    fill(blocks[i], tensors[i]->dtype, random, wild);
    if (blocks[i].bytes.size()) tensors[i]->data = blocks[i].bytes.data() + blocks[i].first;
  }
  const auto inputs = static_cast<std::size_t>(Operation::inputs(op.pass));
  const std::size_t victim = in.ConsumeIntegralInRange<std::size_t>(0, tensors.size() - 1);
  const std::size_t other = in.ConsumeIntegralInRange<std::size_t>(inputs, tensors.size() - 1);
  const int trick = in.ConsumeIntegralInRange(0, 15);
  if (blocks[victim].bytes.size() && blocks[other].bytes.size()) {
    if (trick == 1) tensors[victim]->data = nullptr, must_fail = true;
    if (trick == 2) tensors[victim]->data = static_cast<char*>(tensors[victim]->data) + 1, must_fail = true;
    if (trick == 3 && victim != other) {  // an output that starts in another tensor
      const auto size = static_cast<int64_t>(blocks[victim].bytes.size());
      tensors[other]->data =
          blocks[victim].bytes.data() + in.ConsumeIntegralInRange<int64_t>(0, size - 1) / 8 * 8;
      must_fail = true;
    }
  }

  std::vector<Call::Line> room(scratch < (1 << 24) ? (scratch + 63) / 64 : 0);
  if (in.ConsumeBool() && scratch && room.size()) {
    op.execution.workspace = room.data(), op.execution.workspace_bytes = scratch;
    if (in.ConsumeIntegralInRange(0, 7) == 0) --op.execution.workspace_bytes, must_fail = true;
  }
  if (in.ConsumeBool())
    op.execution.parallel_for = [](void*, int64_t n, tapfield_parallel_body body, void* context) {
      for (int64_t i = n; i-- > 0;) body(context, i, i + 1);
    };

  static const bool printing = std::getenv("TAPFIELD_FUZZ_PRINT");
  if (printing) print(op);
  const auto before = blocks;
  const auto restore = [&] {
    for (std::size_t i = 0; i < blocks.size(); ++i)
      std::copy(before[i].bytes.begin(), before[i].bytes.end(), blocks[i].bytes.begin());
  };
  const Outcome outcome = op.run(via);
  if (outcome.status != TAPFIELD_OK) {
    if (outcome.status == TAPFIELD_INTERNAL_ERROR || outcome.message.empty())
      found("odd refusal: " + outcome.message);
    if (changes == 0 && !must_fail) found("a valid call is refused: " + outcome.message);
    for (std::size_t i = 0; i < blocks.size(); ++i)
      if (blocks[i].bytes != before[i].bytes) found("refused (" + outcome.message + ") but wrote");
    return;
  }
  if (must_fail) found("accepted, with a bad pointer or workspace");
  for (std::size_t i = 0; i < blocks.size(); ++i)
    for (std::size_t k = 0; k < blocks[i].bytes.size(); ++k)
      if (blocks[i].bytes[k] != before[i].bytes[k] && (i < inputs || !blocks[i].is_element[k]))
        found(Operation::names(op.pass)[i] + ": byte " + std::to_string(k) + " is not the call's to write");

  // Against other runs of the same call, each from the same memory.
  const auto rerun = [&](const char* backend, int threads) {
    restore();
    op.execution.backend = backend, op.execution.threads = threads, op.execution.workspace = nullptr;
    const Outcome again = op.run(via);
    if (again.status != TAPFIELD_OK) found(std::string(backend ? backend : "again") + ": " + again.message);
    return blocks;
  };
  const char* backend = op.execution.backend;
  const auto first = blocks, again = rerun(backend, 3);
  for (std::size_t i = 0; i < blocks.size(); ++i)
    if (first[i].bytes != again[i].bytes)
      found(Operation::names(op.pass)[i] + " depends on the number of threads");
  if (backend && std::string(backend).find("magnitudes") != std::string::npos) return;
  const auto want = rerun("reference", 1), sizes = rerun("reference.magnitudes", 1);
  const double terms =
      16.0 + static_cast<double>(element_count(op.offsets.shape) + op.x.shape[1] + op.x.shape[3]);
  for (std::size_t i = inputs; i < blocks.size(); ++i) {
    const DType t = tensors[i]->dtype;
    for (std::size_t k = static_cast<std::size_t>(blocks[i].first % element_size(t));
         k < first[i].bytes.size(); k += static_cast<std::size_t>(element_size(t))) {
      if (!first[i].is_element[k]) continue;
      const double a = get(&first[i].bytes[k], t), b = get(&want[i].bytes[k], t),
                   m = get(&sizes[i].bytes[k], t);
      if (!close(a, b, m, terms, op.x.dtype, t))
        found(Operation::names(op.pass)[i] + " at byte " + std::to_string(k) + ": " + std::to_string(a) +
              " instead of " + std::to_string(b) + ", sum of |terms| " + std::to_string(m));
    }
  }
}

}  // namespace
}  // namespace tapfield::test

// A finding of any sanitizer ends the run, and fuzzing finds its input.
extern "C" const char* __ubsan_default_options() { return "halt_on_error=1:print_stacktrace=1"; }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider in(data, size);
  tapfield::test::check(in);
  return 0;
}
