// What a client with the arena's descriptor can do to its file, short of writing to blocks: none of
// it ends the daemon, and all of it is undone.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "catalog/arena.h"
#include "tests/catalog/arena_fixture.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kChunk = kTestChunkBytes;

class ArenaMendTest : public ArenaFixture {};

TEST_F(ArenaMendTest, WhatIsWrittenOverTheHeaderChangesNothing) {
  Arena arena = Arena::Open(Options()).value();
  const ArenaHeader before = arena.header();
  std::memset(arena.data(0), 0xff, sizeof(ArenaHeader));
  EXPECT_EQ(std::memcmp(&before, &arena.header(), sizeof before), 0);
  EXPECT_EQ(arena.chunk_bytes(), kChunk);
}

TEST_F(ArenaMendTest, AnEpochThatNoDaemonGaveIsNotGoneOnFrom) {
  const uint64_t epoch = Arena::Open(Options())->epoch();
  const uint64_t made_up = UINT64_MAX - 1;
  const UniqueFd file(open(Options().path.c_str(), O_RDWR));
  ASSERT_EQ(pwrite(file.get(), &made_up, sizeof made_up, offsetof(ArenaHeader, epoch)), 8);
  EXPECT_LT(Arena::Open(Options())->epoch(), epoch + 1000);
}

TEST_F(ArenaMendTest, AFileThatWasCutReadsAsZerosAndGetsItsLengthBack) {
  Arena arena = Arena::Open(Options()).value();
  ASSERT_TRUE(arena.PopulateChunk(1).ok());
  const auto is_used = [](uint32_t chunk) { return chunk == 1; };
  EXPECT_EQ(arena.Mend(kChunk, is_used), "");
  std::byte* const byte = arena.data(kFirstPage + 256);
  *byte = std::byte{7};
  ASSERT_EQ(ftruncate(arena.fd(), 0), 0);
  EXPECT_EQ(*byte, std::byte{0}) << "and no SIGBUS";
  ASSERT_EQ(ftruncate(arena.fd(), static_cast<off_t>(2 * arena.mapped_bytes())), 0);
  EXPECT_THAT(arena.Mend(kChunk, is_used), HasSubstr("another length"));
  struct stat file;
  ASSERT_EQ(fstat(arena.fd(), &file), 0);
  EXPECT_EQ(static_cast<uint64_t>(file.st_size), arena.mapped_bytes());
  EXPECT_EQ(arena.Mend(kChunk, is_used), "");
  *byte = std::byte{8};
  std::byte written{};
  ASSERT_EQ(pread(arena.fd(), &written, 1, byte - arena.data(0)), 1);
  EXPECT_EQ(written, std::byte{8}) << "it is the file's memory again";
}

TEST_F(ArenaMendTest, MemoryWhereNothingIsLentIsTakenBack) {
  Arena arena = Arena::Open(Options()).value();
  ASSERT_TRUE(arena.PopulateChunk(0).ok());
  *arena.data(kFirstPage) = std::byte{7};
  const auto bytes = [&] {
    struct stat file;
    EXPECT_EQ(fstat(arena.fd(), &file), 0);
    return static_cast<uint64_t>(file.st_blocks) * 512;
  };
  const uint64_t before = bytes();
  ASSERT_EQ(fallocate(arena.fd(), 0, 0, static_cast<off_t>(arena.mapped_bytes())), 0);
  ASSERT_GT(bytes(), before + kChunk);
  EXPECT_THAT(arena.Mend(kChunk, [](uint32_t chunk) { return chunk == 0; }),
              HasSubstr("nothing is lent"));
  EXPECT_EQ(bytes(), before);
  EXPECT_EQ(*arena.data(kFirstPage), std::byte{7});
}

}  // namespace
}  // namespace thermocline
