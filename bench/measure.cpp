// SPDX-License-Identifier: Apache-2.0
#include "measure.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>

namespace tapfield::bench {
namespace {

bool failed = false;

double seconds(int batch, const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < batch; ++i) call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / batch;
}

// Calls in a batch: some milliseconds, so that waking threads does not count as memory traffic.
int batch_of(const std::function<void()>& call) {
  constexpr double kBatch = 3e-3;
  const double first = seconds(1, call);  // the first may also fault pages in
  return first > 3 * kBatch ? 1 : std::clamp(static_cast<int>(kBatch / seconds(1, call)), 1, 1000);
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// Rows of one call stand together: its tensors are made once.
Operator& operator_of(const Spec& spec) {
  static std::string name;
  static std::unique_ptr<Operator> last;
  if (name != spec.name()) last.reset(), last = std::make_unique<Operator>(spec), name = spec.name();
  return *last;
}

std::size_t sum(const std::vector<Span>& spans) {
  std::size_t bytes = 0;
  for (const Span& s : spans) bytes += s.bytes;
  return bytes;
}

// What the C library makes of as many bytes: memcpy, and memset for what is written and has nothing to read.
class Memcpy {
 public:
  Memcpy(std::size_t read, std::size_t written)
      : to_bytes_(std::max(written, (read + written) / 2)), from_bytes_(read + written - to_bytes_) {
    if (from_.size() < from_bytes_) from_.assign(from_bytes_, 1);
    if (to_.size() < to_bytes_) to_.assign(to_bytes_, 1);
  }
  void run(const Workers& workers) const {
    copy(workers, {from_.data(), from_bytes_}, {to_.data(), to_bytes_});
  }

 private:
  static inline std::vector<char> from_, to_;
  std::size_t to_bytes_, from_bytes_;
};

}  // namespace

bool any_failed() { return failed; }

void measure(benchmark::State& state, const Spec& spec, int threads, int pairs) {
  Operator& op = operator_of(spec);
  Execution execution;
  execution.threads = threads;
  const Workers workers(execution, 1);
  const Kernel kernel(op, execution);
  const auto read = op.read(), written = op.written();
  const std::size_t bytes = sum(read) + sum(written);
  const Memcpy memcpy(sum(read), sum(written));

  const auto call = [&] { op.run(execution); };
  const auto plain = [&] { move(workers, read, written, /*streaming=*/false); };
  const auto streaming = [&] { move(workers, read, written, /*streaming=*/true); };
  const int batch = batch_of(call), floor_batch = batch_of(plain);
  const bool small = batch > 30;

  for (auto _ : state) {
    std::vector<double> times, floors, ratios, copies, outside;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    for (int i = 0; i < pairs && (i == 0 || std::chrono::steady_clock::now() < end); ++i) {
      times.push_back(seconds(batch, call));
      floors.push_back(std::min(seconds(floor_batch, plain), seconds(floor_batch, streaming)));
      ratios.push_back(times.back() / floors.back());
      copies.push_back(seconds(floor_batch, [&] { memcpy.run(workers); }));
      if (small) outside.push_back(seconds(batch, call) - seconds(batch, [&] { kernel.run(); }));
    }
    std::sort(ratios.begin(), ratios.end());
    state.SetIterationTime(median(times));
    auto& c = state.counters;
    constexpr double mib = 1 << 20;
    const std::size_t bound = op.workspace_bound(threads), ends = ratios.size() < 6 ? 0 : 1;
    c["x"] = median(ratios);
    c["x_low"] = ratios[ends], c["x_high"] = ratios[ratios.size() - 1 - ends];
    c["floor_ms"] = median(floors) * 1e3;
    c["GB/s"] = static_cast<double>(bytes) / median(floors) / 1e9;
    const double of_memcpy = c["of_memcpy"] = median(copies) / median(floors);
    c["MiB"] = static_cast<double>(kernel.workspace()) / mib,
    c["MiB_bound"] = static_cast<double>(bound) / mib;
    if (small) c["outside_us"] = median(outside) * 1e6;
    if (of_memcpy < 0.8 && bytes > (1 << 20))
      failed = true, state.SkipWithError("the floor's bandwidth is below 80% of memcpy's");
    else if (kernel.workspace() > bound)
      failed = true, state.SkipWithError("scratch is above its bound");
  }
}

}  // namespace tapfield::bench
