#include "client/mapped_slabs.h"

#include <gtest/gtest.h>

namespace thermocline {
namespace {

using Time = MappedSlabs::Time;

class MappedSlabsTest : public ::testing::Test {
 protected:
  std::shared_ptr<const std::byte> Find(uint64_t slab, uint64_t end_bytes = 4096) {
    return slabs_.Find(slab, end_bytes, [this]() -> absl::StatusOr<MappedSlabs::Slab> {
      ++maps_;
      if (!answer_.ok()) return answer_;
      return MappedSlabs::Slab{std::make_shared<std::byte>(), 4096};
    });
  }
  static Time After(std::chrono::seconds time) { return std::chrono::steady_clock::now() + time; }

  MappedSlabs slabs_;
  absl::Status answer_;
  int maps_ = 0;
};

TEST_F(MappedSlabsTest, ASlabIsMappedOnceForAllWhoReadThere) {
  const auto first = Find(1);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(Find(1), first);
  EXPECT_NE(Find(2), first);
  EXPECT_EQ(maps_, 2);
  EXPECT_EQ(Find(1, 4097), nullptr) << "beyond its end";
}

TEST_F(MappedSlabsTest, ItIsLetGoOfWhenNobodyHasReadThereForAWhile) {
  auto held = Find(1);
  const std::weak_ptr<const std::byte> other = Find(2);
  slabs_.DropIdle(After(std::chrono::seconds(0)));
  EXPECT_FALSE(other.expired()) << "a next lease may need it";
  slabs_.DropIdle(After(2 * MappedSlabs::kIdle));
  EXPECT_TRUE(other.expired());
  EXPECT_EQ(Find(1), held);
  const std::weak_ptr<const std::byte> first = std::exchange(held, nullptr);
  slabs_.DropIdle(After(2 * MappedSlabs::kIdle));
  EXPECT_TRUE(first.expired());
  EXPECT_NE(Find(1), nullptr);
  EXPECT_EQ(maps_, 3);
}

TEST_F(MappedSlabsTest, WhatCannotBeHadIsNotAskedForAtOnceAgain) {
  answer_ = absl::UnavailableError("no");
  EXPECT_EQ(Find(1), nullptr);
  EXPECT_EQ(Find(1), nullptr);
  EXPECT_EQ(maps_, 1);
  slabs_.DropIdle(After(2 * MappedSlabs::kIdle));
  answer_ = absl::OkStatus();
  EXPECT_NE(Find(1), nullptr);
}

}  // namespace
}  // namespace thermocline
