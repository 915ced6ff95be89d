// SPDX-License-Identifier: Apache-2.0
// The stand-in itself: what it must find is found. Each kernel is right, or wrong in one way.
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "kernel_operator.h"

namespace {

using namespace AscendC;
using ascend_on_cpu::Order;

constexpr int kCount = 64;  // elements

struct Machine : testing::Test {
  Machine() { ascend_on_cpu::declare_memory(memory.data(), memory.size() * sizeof(float)); }
  ~Machine() override { ascend_on_cpu::forget_memory(), ascend_on_cpu::options() = {}; }

  std::string found(const std::function<void()>& kernel, int cores = 1) {
    try {
      ascend_on_cpu::run_cores(cores, kernel);
    } catch (const ascend_on_cpu::Failure& e) { return e.what(); }
    return "";
  }
  GlobalTensor<float> device() {
    GlobalTensor<float> t;
    t.SetGlobalBuffer(memory.data(), memory.size());
    return t;
  }
  std::vector<float> memory = std::vector<float>(4 * kCount, 1);
};

DataCopyExtParams row(std::uint32_t bytes = kCount * 4) { return {1, bytes, 0, 0, 0}; }
const DataCopyPadExtParams<float> kNoPad(false, 0, 0, 0);

template <HardEvent e>
void flag() {
  const int id = GetTPipePtr()->FetchEventID(e);
  SetFlag<e>(id), WaitFlag<e>(id);
}

// Two buffers and one way through them: in, doubled, out.
struct Buffers {
  TPipe pipe;
  TBuf<TPosition::VECIN> a;
  TBuf<TPosition::VECOUT> b;
  Buffers() { pipe.InitBuffer(a, kCount * 4), pipe.InitBuffer(b, kCount * 4); }
  LocalTensor<float> in() { return a.Get<float>(); }
  LocalTensor<float> out() { return b.Get<float>(); }
};

TEST_F(Machine, RunsWhatIsRight) {
  EXPECT_EQ(found([&] {
              Buffers u;
              DataCopyPad(u.in(), device(), row(), kNoPad);
              flag<HardEvent::MTE2_V>();
              Muls(u.out(), u.in(), 2, kCount);
              flag<HardEvent::V_MTE3>();
              DataCopyPad(device(), u.out(), row());
            }),
            "");
  EXPECT_EQ(memory[0], 2);
  EXPECT_EQ(memory[kCount], 1);
}

TEST_F(Machine, FindsUseBeforeArrival) {
  EXPECT_NE(found([&] {
              Buffers u;
              DataCopyPad(u.in(), device(), row(), kNoPad);
              Muls(u.out(), u.in(), 2, kCount);
            }).find("V reads what is written by MTE2 without waiting for it"),
            std::string::npos);
  EXPECT_NE(found([&] {
              Buffers u;
              Duplicate(u.out(), 1.0f, kCount);
              DataCopyPad(device(), u.out(), row());
            }).find("MTE3 reads what is written by V without waiting"),
            std::string::npos);
  EXPECT_NE(found([&] {
              Buffers u;
              Duplicate(u.out(), 1.0f, kCount);
              u.out().GetValue(0);
            }).find("S reads what is written by V without waiting"),
            std::string::npos);
}

TEST_F(Machine, FindsOverwritingBeforeUse) {
  EXPECT_NE(found([&] {
              Buffers u;
              Duplicate(u.out(), 1.0f, kCount);
              flag<HardEvent::V_MTE3>();
              DataCopyPad(device(), u.out(), row());
              PipeBarrier<PIPE_V>();
              Duplicate(u.out(), 2.0f, kCount);
            }).find("V overwrites what is read by MTE3 without waiting"),
            std::string::npos);
}

TEST_F(Machine, FindsAMissingBarrier) {
  const auto twice = [&](bool barrier) {
    return found([=] {
      Buffers u;
      Duplicate(u.out(), 1.0f, kCount);
      if (barrier) PipeBarrier<PIPE_V>();
      Muls(u.out(), u.out(), 2, kCount);
    });
  };
  EXPECT_EQ(twice(true), "");
  EXPECT_NE(twice(false).find("V reads what is written by V without a barrier"), std::string::npos);
}

TEST_F(Machine, WaitingIsPassedOn) {
  // MTE3 waits for V, which waited for MTE2: so MTE3 may read what MTE2 wrote.
  EXPECT_EQ(found([&] {
              Buffers u;
              DataCopyPad(u.in(), device(), row(), kNoPad);
              flag<HardEvent::MTE2_V>();
              flag<HardEvent::V_MTE3>();
              DataCopyPad(device(), u.in(), row());
            }),
            "");
}

TEST_F(Machine, FindsWrongFlags) {
  EXPECT_NE(found([] { SetFlag<HardEvent::V_S>(0), SetFlag<HardEvent::V_S>(0); }).find("is set twice"),
            std::string::npos);
  EXPECT_NE(found([] { WaitFlag<HardEvent::V_S>(0); }).find("is waited for, but not set"), std::string::npos);
  EXPECT_NE(found([] { SetFlag<HardEvent::V_S>(0); }).find("is set and never waited for"), std::string::npos);
}

TEST_F(Machine, FindsWhatCopiesMayNot) {
  const auto copy = [&](std::int64_t from, std::uint32_t to, DataCopyExtParams p) {
    return found([=, this] {
      Buffers u;
      DataCopyPad(u.in()[to], device()[static_cast<std::uint64_t>(from)], p, kNoPad);
    });
  };
  EXPECT_EQ(copy(1, 8, row(4)), "") << "memory of the device need not be aligned";
  EXPECT_NE(copy(0, 1, row(4)).find("not aligned to 32 bytes"), std::string::npos);
  EXPECT_NE(copy(0, 8, row()).find("leaves its buffer"), std::string::npos);
  EXPECT_NE(copy(4 * kCount - 1, 0, row(8)).find("leaves its tensor"), std::string::npos);
  EXPECT_NE(copy(0, 0, row(6)).find("blocks of 6 bytes"), std::string::npos);
  EXPECT_NE(copy(0, 0, {4096, 4, 0, 0, 0}).find("4096 blocks"), std::string::npos);
  EXPECT_NE(found([&] {
              TPipe pipe;
              TBuf<TPosition::VECCALC> b;
              pipe.InitBuffer(b, 32);
              DataCopyPad(b.Get<float>(), device(), row(32), kNoPad);
            }).find("neither VECIN nor VECOUT"),
            std::string::npos);
  std::vector<float> elsewhere(8);
  EXPECT_NE(found([&] {
              Buffers u;
              GlobalTensor<float> t;
              t.SetGlobalBuffer(elsewhere.data(), 8);
              DataCopyPad(u.in(), t, row(32), kNoPad);
            }).find("leaves the tensors"),
            std::string::npos);
}

TEST_F(Machine, FindsMoreThanUnifiedBufferHas) {
  EXPECT_NE(found([] {
              TPipe pipe;
              TBuf<TPosition::VECIN> b;
              pipe.InitBuffer(b, 192 * 1024 + 32);
            }).find("bytes of 196608 that UB has"),
            std::string::npos);
}

TEST_F(Machine, FindsWrongQueues) {
  using Queue = TQue<TPosition::VECIN, 1>;
  const auto with = [&](const std::function<void(Queue&)>& kernel) {
    return found([&] {
      TPipe pipe;
      Queue q;
      pipe.InitBuffer(q, 1, 256);
      kernel(q);
    });
  };
  EXPECT_EQ(with([&](Queue& q) {
              LocalTensor<float> t = q.AllocTensor<float>();
              DataCopyPad(t, device(), row(), kNoPad);
              q.EnQue(t);
              t = q.DeQue<float>();
              Muls(t, t, 2, kCount);
              q.FreeTensor(t);
            }),
            "");
  EXPECT_NE(with([&](Queue& q) {
              LocalTensor<float> t = q.AllocTensor<float>();
              DataCopyPad(t, device(), row(), kNoPad);
              Muls(t, t, 2, kCount);
            }).find("V reads what is written by MTE2"),
            std::string::npos)
      << "used before it is dequeued";
  EXPECT_NE(with([](Queue& q) { q.DeQue<float>(); }).find("empty queue"), std::string::npos);
  EXPECT_NE(with([](Queue& q) { q.AllocTensor<float>(), q.AllocTensor<float>(); }).find("all in use"),
            std::string::npos);
  EXPECT_NE(with([](Queue& q) { q.AllocTensor<float>(); }).find("not freed"), std::string::npos);
}

TEST_F(Machine, FindsCoresThatDoNotMeet) {
  const auto both = [&](bool meets, bool atomically) {
    return found(
        [=, this] {
          Buffers u;
          Duplicate(u.out(), 1.0f, kCount);
          flag<HardEvent::V_MTE3>();
          if (atomically) SetAtomicAdd<float>();
          if (GetBlockIdx() == 0 || atomically) DataCopyPad(device(), u.out(), row());
          PipeBarrier<PIPE_ALL>();
          if (meets) SyncAll();
          if (GetBlockIdx() == 1) DataCopyPad(u.in(), device(), row(), kNoPad);
        },
        2);
  };
  for (Order order : {Order::one_after_another, Order::interleaved}) {
    ascend_on_cpu::options().order = order;
    EXPECT_EQ(both(true, false), "");
    EXPECT_EQ(both(true, true), "");
    EXPECT_NE(both(false, false).find("two cores that have not met"), std::string::npos);
    EXPECT_NE(both(false, true).find("two cores that have not met"), std::string::npos);
  }
  for (Order order : {Order::one_after_another, Order::parallel}) {
    ascend_on_cpu::options().order = order;
    EXPECT_NE(found(
                  [] {
                    if (GetBlockIdx()) SyncAll();
                  },
                  2)
                  .find("returned while others wait"),
              std::string::npos);
  }
  ascend_on_cpu::options() = {};
  EXPECT_NE(found([] {
              Buffers u;
              Duplicate(u.out(), 1.0f, kCount);
              SyncAll();
            }).find("while its pipes are at work"),
            std::string::npos);
}

TEST_F(Machine, Computes) {
  EXPECT_EQ(found([&] {
              Buffers u;
              for (int i = 0; i < kCount; ++i)
                u.in().SetValue(static_cast<std::uint32_t>(i), static_cast<float>(i));
              flag<HardEvent::S_V>();
              ReduceRepeat<ReduceType::SUM>(u.out(), u.in(), 3, 8, 1, 1, 1);
              flag<HardEvent::V_S>();
              if (u.out().GetValue(0) != 0 + 1 + 2 || u.out().GetValue(7) != 56 + 57 + 58) fail("sum");
              flag<HardEvent::S_V>();
              Duplicate(u.out(), 1.0f, kCount);
              PipeBarrier<PIPE_V>();
              Axpy(u.out(), u.in(), 2, kCount);
              flag<HardEvent::V_S>();
              if (u.out().GetValue(5) != 11) fail("axpy");
            }),
            "");
  EXPECT_EQ(static_cast<float>(half(1 + 0x1p-11f)), 1) << "half way, to even";
  EXPECT_EQ(static_cast<float>(half(1 + 0x3p-11f)), 1 + 0x2p-10f);
  EXPECT_EQ(static_cast<float>(bfloat16_t(1 + 0x1p-8f)), 1);
}

}  // namespace
