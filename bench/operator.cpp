// SPDX-License-Identifier: Apache-2.0
#include "operator.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tapfield::bench {
namespace {

// Normal values, fast: a table that is walked in a scrambled order.
class Normal {
 public:
  explicit Normal(unsigned seed) : state_(seed * 2654435761u + 1) {}
  double operator()() {
    static const std::vector<double> table = testing::normal_values(1 << 16, 5);
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return table[state_ >> 48];
  }

 private:
  std::uint64_t state_;
};

Block block(std::size_t bytes) {
  return Block(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
}

const char* pass_name(Pass p) {
  return p == Pass::forward ? "forward" : p == Pass::grad ? "grad" : "grad_grad";
}

}  // namespace

std::string Spec::name() const {
  const std::string prefix = "bench_";
  return std::string(pass_name(pass)) + '/' + c.name.substr(prefix.size()) + '/' + tapfield::name_of(dtype) +
         '/' + offsets + (nchw ? "/NCHW" : "");
}

Operator::Operator(const Spec& spec) : spec_(spec) {
  attributes_ = spec_.c.attributes(spec_.nchw);  // points into spec_
  const testing::Shape x = spec_.c.x, offsets = spec_.c.offsets_shape(), y = spec_.c.y_shape();
  x_ = make(x), offsets_ = make(offsets);
  fill(x_, 1), fill_offsets();
  if (spec_.pass != Pass::grad) y_ = make(y);  // grad_grad's first output has y's shape
  if (spec_.pass == Pass::forward) return;
  grad_ = make(y), grad_x_ = make(x), grad_offsets_ = make(offsets);
  fill(grad_, 2);
  if (spec_.pass == Pass::grad) return;
  gg_x_ = make(x), gg_offsets_ = make(offsets);
  fill(gg_x_, 3), fill(gg_offsets_, 4);
}

Operator::Buffer Operator::make(const testing::Shape& s) const {
  Buffer b;
  b.bytes = static_cast<std::size_t>(testing::elements(s) * size_of(spec_.dtype));
  b.data = block(b.bytes);
  std::memset(b.data.get(), 0, b.bytes);  // its pages are there before anything is timed
  if (spec_.nchw)
    b.tensor = Tensor(b.data.get(), spec_.dtype, {s[0], s[3], s[1], s[2]});
  else
    b.tensor = Tensor(b.data.get(), spec_.dtype, {s[0], s[1], s[2], s[3]});
  return b;
}

// Normal values that repeat after a prime number of elements, so that no two pixels are alike for long.
void Operator::fill(Buffer& b, unsigned seed) const {
  constexpr std::int64_t kPeriod = 65521;
  const std::vector<double> values = testing::normal_values(kPeriod, seed);
  const std::size_t size = static_cast<std::size_t>(size_of(spec_.dtype)), period = kPeriod * size;
  std::vector<char> encoded(period);
  for (std::size_t i = 0; i < values.size(); ++i)
    testing::encode(values[i], spec_.dtype, encoded.data() + i * size);
  for (std::size_t i = 0; i < b.bytes; i += period)
    std::memcpy(b.data.get() + i, encoded.data(), std::min(period, b.bytes - i));
}

void Operator::fill_offsets() {
  const testing::Case& c = spec_.c;
  const auto size = static_cast<std::size_t>(size_of(spec_.dtype));
  const std::int64_t lanes = c.lanes(), ho = c.ho(), wo = c.wo(), planes = c.modulated ? 3 : 2;
  std::string kind = spec_.offsets == "own" ? c.kind : spec_.offsets;
  double deviation = c.std_deviation;
  if (kind == "zero") kind = "normal", deviation = 0;
  if (kind.rfind("std", 0) == 0) deviation = std::stod(kind.substr(3)), kind = "normal";
  if (kind == "flow") deviation = 0.5;
  std::vector<double> table;  // of the kinds that are not drawn below
  if (kind != "normal" && kind != "flow") {
    testing::Case other = c;
    other.kind = kind;
    table = testing::offsets_values(other, spec_.dtype);
  }
  Normal normal(7);
  std::size_t i = 0;
  for (std::int64_t n = 0; n < c.x[0]; ++n)
    for (std::int64_t h = 0; h < ho; ++h)
      for (std::int64_t w = 0; w < wo; ++w)
        for (std::int64_t l = 0; l < planes * lanes; ++l, ++i) {
          double value = table.empty() ? normal() : table[i];
          if (table.empty() && l < 2 * lanes) value *= deviation;
          if (kind == "flow" && l < 2 * lanes)  // smooth, up to 10 pixels
            value += 10 * (l < lanes ? std::sin(6 * static_cast<double>(h) / static_cast<double>(ho))
                                     : std::cos(5 * static_cast<double>(w) / static_cast<double>(wo)));
          std::size_t at = i;
          if (spec_.nchw) at = static_cast<std::size_t>(((n * planes * lanes + l) * ho + h) * wo + w);
          testing::encode(value, spec_.dtype, offsets_.data.get() + at * size);
        }
}

void Operator::run(const Execution& e) {
  switch (spec_.pass) {
    case Pass::forward: return deformable_offsets(x_.tensor, offsets_.tensor, attributes_, y_.tensor, e);
    case Pass::grad:
      return deformable_offsets_grad(grad_.tensor, x_.tensor, offsets_.tensor, attributes_, grad_x_.tensor,
                                     grad_offsets_.tensor, e);
    case Pass::grad_grad:
      return deformable_offsets_grad_grad(grad_.tensor, x_.tensor, offsets_.tensor, gg_x_.tensor,
                                          gg_offsets_.tensor, attributes_, y_.tensor, grad_x_.tensor,
                                          grad_offsets_.tensor, e);
  }
}

Problem Operator::problem() const {
  const auto given = [](const Buffer& b) { return b.data ? &b.tensor : nullptr; };
  Arguments a{.x = &x_.tensor, .offsets = &offsets_.tensor, .grad = given(grad_), .gg_x = given(gg_x_)};
  a.gg_offsets = given(gg_offsets_), a.grad_x = given(grad_x_), a.grad_offsets = given(grad_offsets_);
  (spec_.pass == Pass::forward ? a.y : a.grad_grad) = given(y_);
  return make_problem(spec_.pass, a, attributes_, /*with_data=*/true);
}

std::size_t Operator::workspace_bound(int threads) const {
  const testing::Case& c = spec_.c;
  const std::int64_t taps = c.ho() * c.wo() * c.lanes(), x = c.x[1] * c.x[2] * c.x[3];
  std::int64_t bytes =
      (spec_.dtype == DType::float64 ? 96 : 64) * taps + 8 * x + threads * (std::int64_t{16} << 20);
  if (spec_.nchw) bytes += c.ho() * c.kh * c.wo() * c.kw * c.x[3] * size_of(spec_.dtype) * 35 / 100;
  return static_cast<std::size_t>(bytes);
}

std::vector<Span> Operator::read() const {
  std::vector<Span> all;
  for (const Buffer* b : {&x_, &offsets_, &grad_, &gg_x_, &gg_offsets_})
    if (b->data) all.push_back({b->data.get(), b->bytes});
  return all;
}

std::vector<Span> Operator::written() const {
  std::vector<Span> all;
  for (const Buffer* b : {&y_, &grad_x_, &grad_offsets_})
    if (b->data) all.push_back({b->data.get(), b->bytes});
  return all;
}

Kernel::Kernel(const Operator& op, const Execution& execution)
    : problem_(op.problem()),
      row_(choose(problem_, DeviceType::cpu, execution.backend)),
      workers_(execution, problem_.y_elements()),
      bytes_(row_.workspace(problem_, workers_.slots())),
      block_(block(bytes_)) {}

}  // namespace tapfield::bench
