// SPDX-License-Identifier: Apache-2.0
// Which row of the table runs a call: no case of the table falls back to the reference, every row is of use,
// and what a row cannot take goes elsewhere.
#include <gtest/gtest.h>

#include "calls.h"

namespace tapfield::testing {
namespace {

constexpr DType kDtypes[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};

TEST(Choice, NeverFallsBackToTheReference) {
  for (const Case& c : read_cases())
    for (DType t : kDtypes)
      for (bool nchw : {false, true})
        for (Pass pass : {Pass::forward, Pass::grad, Pass::grad_grad}) {
          if (c.bench && elements(c.y_shape()) > 1'000'000) continue;
          Call call(c, pass, Dtypes(t), nchw);
          call.run({});
          EXPECT_STREQ(last_row()->backend, "cpu") << c.name;
        }
}

TEST(Choice, EveryKernelIsTheCheapestForSomeCase) {
  for (const Row* row : kernels()) {
    bool chosen = false;
    for (const Case& c : small_cases()) {
      Call call(c, row->pass, Dtypes(DType::float32), false);
      call.run({});
      chosen |= last_row() == row;
    }
    EXPECT_TRUE(chosen) << row->name << " " << name_of(row->pass);
  }
}

// The stride along one channel means nothing: such a view needs no packing, whatever its layout.
TEST(Choice, OneChannelIsAdjacentInAnyLayout) {
  Case c{};
  c.name = "one_channel", c.kind = "normal", c.border = "open", c.modulated = true;
  c.x = {1, 4, 5, 1}, c.kh = c.kw = c.stride_h = c.stride_w = c.dil_h = c.dil_w = c.groups = 1;
  const Call call(c, Pass::grad, Dtypes(DType::float32), true);
  const Tensor x = call.view(call.x), grad = call.view(call.grad), offsets = call.view(call.offsets),
               grad_x = call.view(*call.outputs[0]), grad_offsets = call.view(*call.outputs[1]);
  Arguments arguments;
  arguments.x = &x, arguments.grad = &grad, arguments.offsets = &offsets, arguments.grad_x = &grad_x,
  arguments.grad_offsets = &grad_offsets;
  const Problem p = make_problem(Pass::grad, arguments, call.attributes, true);
  for (const View* v : {&p.x, &p.grad, &p.grad_x}) EXPECT_TRUE(v->adjacent());
  for (const View* v : {&p.offsets, &p.grad_offsets}) EXPECT_FALSE(v->adjacent());
}

Problem one_pixel(Pass pass) {
  Problem p;
  p.pass = pass;
  p.n = p.h = p.w = p.c = p.ho = p.wo = 1;
  p.x.c = p.grad.c = 1;
  return p;
}

void expect_refused(const Row& row, const Problem& p) {
  EXPECT_NE(row.why_not(p), nullptr);
  EXPECT_STREQ(choose(p, DeviceType::cpu, nullptr).backend, "reference");
}

// Cells are 32-bit: every way for one to overflow is refused, and one pixel less is not.
TEST(Choice, MapsTooWideFor32BitsGoToTheReference) {
  constexpr std::int64_t limit = std::int64_t{1} << 29;
  for (const Row* row : kernels()) {
    SCOPED_TRACE(std::string(row->name) + " " + name_of(row->pass));
    const Problem small = one_pixel(row->pass);
    ASSERT_EQ(row->why_not(small), nullptr);
    for (auto size : {&Problem::h, &Problem::w, &Problem::top, &Problem::left}) {
      Problem p = small;
      p.*size = limit;
      expect_refused(*row, p);
      p.*size = limit - 1;
      EXPECT_EQ(row->why_not(p), nullptr);
    }
    for (auto [outputs, step] : {std::pair{&Problem::ho, &Problem::stride_h},
                                 {&Problem::wo, &Problem::stride_w},
                                 {&Problem::kh, &Problem::dil_h},
                                 {&Problem::kw, &Problem::dil_w}}) {
      Problem p = small;
      p.*outputs = 2, p.*step = limit;
      expect_refused(*row, p);
      p.*step = limit - 1;
      EXPECT_EQ(row->why_not(p), nullptr);
    }
  }
}

}  // namespace
}  // namespace tapfield::testing
