#include "catalog/arena.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "catalog/arena_places.h"
#include "catalog/slabs.h"
#include "catalog/slot_headers.h"
#include "tests/catalog/arena_fixture.h"
#include "tests/catalog/catalog_testing.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kChunk = kTestChunkBytes;

class ArenaTest : public ArenaFixture {
 protected:
  // Overwrites bytes of the file, with nobody having it open.
  void Overwrite(uint64_t offset, const void* bytes, size_t size, const std::string& suffix = "") {
    UniqueFd fd(open((Options().path + suffix).c_str(), O_RDWR));
    ASSERT_TRUE(fd);
    ASSERT_EQ(pwrite(fd.get(), bytes, size, static_cast<off_t>(offset)),
              static_cast<ssize_t>(size));
  }
};

TEST_F(ArenaTest, BytesAndIdentityOutliveTheDaemon) {
  std::array<uint8_t, 16> uuid;
  uint64_t epoch = 0;
  {
    Arena arena = Arena::Open(Options()).value();
    EXPECT_TRUE(arena.created());
    EXPECT_EQ(arena.chunk_count(), 4u);
    ASSERT_TRUE(arena.PopulateChunk(2).ok());
    std::memcpy(arena.data(kFirstPage + 2 * 256), "warm", 4);
    uuid = arena.header().uuid;
    epoch = arena.epoch();
    struct stat file;
    ASSERT_EQ(fstat(arena.fd(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, 0600u);
  }
  Arena arena = Arena::Open(Options()).value();
  EXPECT_FALSE(arena.created());
  EXPECT_EQ(arena.header().uuid, uuid);
  EXPECT_GT(arena.epoch(), epoch);
  EXPECT_EQ(std::memcmp(arena.data(kFirstPage + 2 * 256), "warm", 4), 0);
  ASSERT_TRUE(arena.PunchChunk(2).ok());
  EXPECT_EQ(arena.data(kFirstPage + 2 * 256)[0], std::byte{0});
}

TEST_F(ArenaTest, EpochsDoNotComeBackWithANewFile) {
  uint64_t epoch = Arena::Open(Options())->epoch();
  ArenaOptions options = Options();
  options.least_epoch = epoch + 1000;
  EXPECT_EQ(Arena::Open(options)->epoch(), epoch + 1000);
  ASSERT_TRUE(Arena::Remove(options.path).ok());
  ASSERT_TRUE(Arena::Remove(options.path).ok()) << "absent is fine";
  EXPECT_GE(Arena::Open(Options())->epoch(), epoch);
}

TEST_F(ArenaTest, ASecondDaemonIsTurnedAwayByName) {
  const Arena first = Arena::Open(Options()).value();
  const absl::Status second = Arena::Open(Options()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.message()), HasSubstr(Options().path));
  EXPECT_THAT(std::string(second.message()), HasSubstr("process " + std::to_string(getpid())));
}

TEST_F(ArenaTest, AnotherLayoutVersionSaysSo) {
  { (void)Arena::Open(Options()).value(); }
  const uint32_t version = 99;
  Overwrite(offsetof(ArenaHeader, layout_version), &version, sizeof version);
  const absl::Status status = Arena::Open(Options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layout version 99"));
  ASSERT_TRUE(Arena::Remove(Options().path).ok());
  EXPECT_TRUE(Arena::Open(Options())->created());
}

TEST_F(ArenaTest, ForeignFilesAreNotTouched) {
  { (void)Arena::Open(Options()).value(); }
  Overwrite(0, "not an arena", 12);
  EXPECT_EQ(Arena::Open(Options()).status().code(), absl::StatusCode::kDataLoss);
  ASSERT_EQ(chmod(Options().path.c_str(), 0644), 0);
  EXPECT_THAT(std::string(Arena::Open(Options()).status().message()), HasSubstr("0600"));
  ASSERT_EQ(unlink(Options().path.c_str()), 0);
  ASSERT_EQ(symlink("/etc/passwd", Options().path.c_str()), 0);
  EXPECT_FALSE(Arena::Open(Options()).ok());
  ArenaOptions lost = Options();
  lost.path = directory_.path() + "/no/such/arena";
  EXPECT_EQ(Arena::Open(lost).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ArenaTest, AKilledCreatorLeavesNoHalfArena) {
  { (void)Arena::Open(Options()).value(); }
  const uint64_t no_magic = 0;
  Overwrite(0, &no_magic, sizeof no_magic);
  EXPECT_TRUE(Arena::Open(Options())->created());
}

TEST_F(ArenaTest, OptionsOutOfRangeNameTheOption) {
  EXPECT_THAT(std::string(Arena::Open(Options(100)).status().message()),
              HasSubstr("warm.capacity"));
  EXPECT_FALSE(Arena::Open(Options(kMaxChunks * kChunk + kChunk)).ok());
  ArenaOptions odd = Options();
  odd.chunk_bytes = 1000;
  EXPECT_FALSE(Arena::Open(odd).ok());
  { (void)Arena::Open(Options()).value(); }
  ArenaOptions other = Options();
  other.chunk_bytes = 2 * kChunk;
  EXPECT_EQ(Arena::Open(other).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ArenaTest, ATmpfsTooSmallSaysHowMuchThereIs) {
  struct statfs system;
  ASSERT_EQ(statfs(directory_.path().c_str(), &system), 0);
  const uint64_t available = uint64_t{system.f_bavail} * static_cast<uint64_t>(system.f_bsize);
  ArenaOptions options = Options(available + GiB);
  options.chunk_bytes = kDefaultChunkBytes;
  const absl::Status status = Arena::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has room for"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("lower warm.capacity"));
}

TEST_F(ArenaTest, ATinyTmpfsThatFillsUpRefusesChunks) {
  const std::string mount_point = directory_.path() + "/tiny";
  ASSERT_EQ(mkdir(mount_point.c_str(), 0700), 0);
  if (mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=6m") != 0) {
    GTEST_SKIP() << "mounting a tmpfs takes root: " << std::strerror(errno);
  }
  {
    ArenaOptions options = Options();
    options.path = mount_point + "/arena";
    Arena arena = Arena::Open(options).value();
    SlotHeaders headers = SlotHeaders::Open(arena).value();
    // Somebody else takes the room that was there when we looked.
    UniqueFd other(open((mount_point + "/other").c_str(), O_RDWR | O_CREAT, 0600));
    ASSERT_EQ(fallocate(other.get(), 0, 0, 3 * MiB), 0);
    SlabAllocator slabs({.capacity_bytes = arena.capacity_bytes(),
                         .chunk_bytes = arena.chunk_bytes(),
                         .first_page = kFirstPage,
                         .lend = [&](uint32_t chunk, uint64_t slot_bytes) {
                           TC_RETURN_IF_ERROR(arena.PopulateChunk(chunk));
                           return headers.LendChunk(chunk, slot_bytes);
                         }});
    int slots = 0;
    for (;;) {
      auto slot = slabs.Reserve(kChunk);
      ASSERT_TRUE(slot.ok()) << slot.status();
      if (!slot->has_value()) break;
      std::memset(arena.data((*slot)->page()), 1, kChunk);  // no SIGBUS
      (void)std::move(**slot).Commit();
      ++slots;
    }
    const absl::Status status = slabs.lend_status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("file system is full"));
    EXPECT_EQ(slots, 2);
    other.Reset();
    ASSERT_EQ(unlink((mount_point + "/other").c_str()), 0);
    slabs.RetryLending();
    EXPECT_TRUE(slabs.Reserve(kChunk)->has_value());
  }
  EXPECT_EQ(umount(mount_point.c_str()), 0);
}

// The kernel would kill who asks for more than its group has.
TEST_F(ArenaTest, AFullMemoryControlGroupRefusesChunks) {
  const std::string first = "/sys/fs/cgroup/memory", second = "/sys/fs/cgroup";
  const bool is_first = std::filesystem::exists(first + "/memory.limit_in_bytes");
  const std::string group =
      (is_first ? first : second) + "/tc-arena-test-" + std::to_string(getpid());
  if (mkdir(group.c_str(), 0755) != 0) {
    GTEST_SKIP() << "no control group can be made here: " << std::strerror(errno);
  }
  constexpr uint64_t kLimit = 48 * MiB;
  std::ofstream limit(group + (is_first ? "/memory.limit_in_bytes" : "/memory.max"));
  limit << kLimit << std::flush;
  if (!limit) {
    rmdir(group.c_str());
    GTEST_SKIP() << "this control group takes no memory limit";
  }
  ArenaOptions options = Options(128 * MiB);
  options.chunk_bytes = 8 * MiB;
  const pid_t child = fork();
  if (child == 0) {  // answers by how many chunks it got
    std::ofstream(group + "/cgroup.procs") << getpid() << std::flush;
    auto arena = Arena::Open(options);
    if (!arena.ok()) _exit(100);
    for (uint32_t chunk = 0; chunk < arena->chunk_count(); ++chunk) {
      const absl::Status status = arena->PopulateChunk(chunk);
      if (status.ok()) continue;
      const bool says_why = absl::IsResourceExhausted(status) &&
                            std::string(status.message()).find(group) != std::string::npos;
      // What was there before may be touched again.
      _exit(says_why && arena->PopulateChunk(0).ok() ? static_cast<int>(chunk) : 101);
    }
    _exit(102);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_GE(WEXITSTATUS(status), 1);
  EXPECT_LE(WEXITSTATUS(status), 4) << "of 48 MiB, 16 are kept for other things";
  ASSERT_TRUE(Arena::Remove(options.path).ok());
  for (int i = 0; i < 100 && rmdir(group.c_str()) != 0; ++i) usleep(20000);
}

TEST_F(ArenaTest, HugePagesAreThoseOfTheFileSystemOrRefused) {
  const std::string mount_point = directory_.path() + "/huge";
  ASSERT_EQ(mkdir(mount_point.c_str(), 0700), 0);
  if (mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=32m,huge=never") != 0) {
    GTEST_SKIP() << "mounting a tmpfs takes root: " << std::strerror(errno);
  }
  ArenaOptions options = Options(16 * MiB);
  options.path = mount_point + "/arena";
  options.chunk_bytes = 8 * MiB;
  options.huge_pages = HugePages::kTransparent;
  const absl::Status refused = Arena::Open(options).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("mount it with huge=advise"));
  if (mount("tmpfs", mount_point.c_str(), "tmpfs", MS_REMOUNT, "size=32m,huge=advise") == 0) {
    auto arena = Arena::Open(options);
    ASSERT_TRUE(arena.ok()) << arena.status();
    ASSERT_TRUE(arena->PopulateChunk(0).ok());
    std::memset(arena->data(kFirstPage), 1, options.chunk_bytes);
    // How many huge pages there are is the kernel's business; the lent memory is whole anyway.
    struct stat file;
    ASSERT_EQ(fstat(arena->fd(), &file), 0);
    EXPECT_GE(static_cast<uint64_t>(file.st_blocks) * 512, options.chunk_bytes);
    ASSERT_TRUE(arena->PunchChunk(0).ok());
    EXPECT_EQ(*arena->data(kFirstPage), std::byte{0});
  }
  EXPECT_EQ(umount(mount_point.c_str()), 0);
}

TEST_F(ArenaTest, CapacityMayChangeBetweenDaemons) {
  const uint64_t small = kChunk + 5 * kPageBytes;
  {
    Arena arena = Arena::Open(Options(small)).value();
    EXPECT_EQ(arena.chunk_count(), 2u);
    ASSERT_TRUE(arena.PopulateChunk(1).ok());
    std::memcpy(arena.data(kFirstPage + 256), "kept", 4);
  }
  {
    Arena arena = Arena::Open(Options(3 * kChunk)).value();
    EXPECT_EQ(arena.capacity_bytes(), 3 * kChunk);
    EXPECT_EQ(std::memcmp(arena.data(kFirstPage + 256), "kept", 4), 0);
    arena.data(kFirstPage + 256 + 255)[0] = std::byte{1};
  }
  {
    Arena arena = Arena::Open(Options(kChunk)).value();
    EXPECT_EQ(arena.chunk_count(), 1u);
    EXPECT_EQ(arena.mapped_bytes(), kArenaDataOffset + 3 * kChunk) << "old clients may read there";
    EXPECT_EQ(arena.data(kFirstPage + 256)[0], std::byte{'k'});
    ASSERT_TRUE(arena.PunchBeyondCapacity().ok());
    EXPECT_EQ(arena.data(kFirstPage + 256)[0], std::byte{0});
  }
}

TEST_F(ArenaTest, DirectoryIsTheOptionOrATmpfsOrOurOwn) {
  const std::string run = directory_.path() + "/run";
  const std::string shm = directory_.path() + "/shm";
  const auto choose = [&](const std::string& option) {
    return ChooseArenaDirectory(
        {.option = option, .file = "arena", .run_directory = run, .shm_directory = shm});
  };
  EXPECT_EQ(choose("/given").value(), "/given");
  const std::string own = shm + "-" + std::to_string(geteuid());
  EXPECT_EQ(choose("").value(), own);
  EXPECT_EQ(choose("").value(), own) << "there already";
  struct stat found;
  ASSERT_EQ(stat(own.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0700u);
  ASSERT_EQ(chmod(own.c_str(), 0755), 0);
  const absl::Status open_to_others = choose("").status();
  EXPECT_EQ(open_to_others.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(open_to_others.message()), HasSubstr("--arena-dir"));
  ASSERT_EQ(rmdir(own.c_str()), 0);
  ASSERT_EQ(symlink("/tmp", own.c_str()), 0);
  EXPECT_EQ(choose("").status().code(), absl::StatusCode::kFailedPrecondition);
}

// /run is a tenth of the memory on most machines.
TEST_F(ArenaTest, TheRunDirectoryIsTakenIfItHasRoomAndKeptWhereTheArenaIs) {
  const std::string run = directory_.path() + "/run";
  const std::string own = directory_.path() + "/shm-" + std::to_string(geteuid());
  ASSERT_EQ(mkdir(run.c_str(), 0700), 0);
  struct statfs system;
  ASSERT_EQ(statfs(run.c_str(), &system), 0);
  if (system.f_type != TMPFS_MAGIC) GTEST_SKIP() << "/dev/shm is no tmpfs";
  const auto choose = [&](uint64_t capacity_bytes) {
    return ChooseArenaDirectory({.file = "arena",
                                 .capacity_bytes = capacity_bytes,
                                 .run_directory = run,
                                 .shm_directory = directory_.path() + "/shm"})
        .value();
  };
  constexpr uint64_t kTooMuch = uint64_t{1} << 60;
  EXPECT_EQ(choose(kPageBytes), run);
  EXPECT_EQ(choose(kTooMuch), own);
  std::ofstream(own + "/arena") << "an arena";
  EXPECT_EQ(choose(kPageBytes), own) << "what is there is not left behind";
  std::ofstream(run + "/arena") << "an arena";
  EXPECT_EQ(choose(kTooMuch), run) << "to be refused with what is wrong";
}

// ---- slot headers ------------------------------------------------------------------------------

BlockHeader Block(uint64_t id) {
  BlockHeader block;
  block.id = id;
  block.parent_id = id + 1;
  block.depth = 1;
  block.payload_bytes = 4096;
  block.payload_checksum = id * 7;
  block.name = NameOf(id);
  block.Seal();
  return block;
}

class SlotHeadersTest : public ArenaTest {
 protected:
  static std::map<uint32_t, SlotState> Visit(SlotHeaders& headers) {
    std::map<uint32_t, SlotState> slots;
    for (const uint32_t chunk : headers.TakeOver()) {
      headers.VisitSlots(
          chunk, [&](uint32_t page, const SlotRecord&) { slots[page] = headers.State(page); });
    }
    return slots;
  }
};

TEST_F(SlotHeadersTest, CommittedBlocksAreFoundAgain) {
  {
    Arena arena = Arena::Open(Options()).value();
    SlotHeaders headers = SlotHeaders::Open(arena).value();
    EXPECT_FALSE(headers.adopted());
    ASSERT_TRUE(headers.LendChunk(0, 4 * kPageBytes).ok());
    ASSERT_TRUE(headers.LendChunk(3, kChunk).ok());
    headers.SetGranted(kFirstPage, 123, 456);
    headers.SetGranted(kFirstPage + 4, 123, 456);
    headers.SetCommitted(kFirstPage + 4, Block(5));
    headers.SetCommitted(kFirstPage + 3 * 256, Block(6));
    headers.SetCommitted(kFirstPage + 8, Block(7));
    headers.SetFree(kFirstPage + 8);
    EXPECT_FALSE(headers.Committed(kFirstPage + 8));
  }
  Arena arena = Arena::Open(Options()).value();
  SlotHeaders headers = SlotHeaders::Open(arena).value();
  EXPECT_TRUE(headers.adopted());
  EXPECT_EQ(headers.SlotBytesOfChunk(0), 4 * kPageBytes);
  const std::map<uint32_t, SlotState> expected = {{kFirstPage, SlotState::kGranted},
                                                  {kFirstPage + 4, SlotState::kCommitted},
                                                  {kFirstPage + 768, SlotState::kCommitted}};
  EXPECT_EQ(Visit(headers), expected);
  EXPECT_EQ(headers.record(kFirstPage).process_id, 123u);
  EXPECT_EQ(headers.record(kFirstPage).process_start_time, 456u);
  EXPECT_EQ(headers.Committed(kFirstPage + 4).value().id, 5u);
  EXPECT_EQ(headers.Committed(kFirstPage + 768).value().name, NameOf(6));
  headers.ForgetChunk(0);
  EXPECT_EQ(Visit(headers).size(), 1u);
  ASSERT_TRUE(headers.LendChunk(0, kPageBytes).ok());
  EXPECT_EQ(headers.State(kFirstPage + 4), SlotState::kFree);
}

TEST_F(SlotHeadersTest, InnerNamesAreFoundAgainAndDamagedOnesAreNone) {
  BlockRecord block(Block(5));
  block.depth = 31;
  for (uint64_t i = 0; i < 15; ++i) block.inner.push_back(NameOf(1000 + i));
  block.Seal();
  const uint32_t page = kFirstPage + 256 + 3;  // of the second chunk
  const auto open = [&](Arena& arena) { return SlotHeaders::Open(arena).value(); };
  {
    Arena arena = Arena::Open(Options()).value();
    SlotHeaders headers = open(arena);
    ASSERT_TRUE(headers.LendChunk(1, kPageBytes).ok());
    ASSERT_TRUE(headers.AllocateInner(page, 15).ok());
    headers.SetCommitted(page, block);
    headers.SetCommitted(page + 1, Block(6));
  }
  {
    Arena arena = Arena::Open(Options()).value();
    SlotHeaders headers = open(arena);
    ASSERT_TRUE(headers.Committed(page).has_value());
    EXPECT_EQ(headers.Committed(page)->inner, block.inner);
    EXPECT_TRUE(headers.Committed(page + 1)->inner.empty());
  }
  std::ifstream file(MetadataPath(Options().path), std::ios::binary);
  const std::string stored(std::istreambuf_iterator<char>(file), {});
  const Name last = NameOf(1014);
  const size_t at = stored.find(std::string(reinterpret_cast<const char*>(&last), sizeof last));
  ASSERT_NE(at, std::string::npos);
  Overwrite(at, "x", 1, ".meta");
  Arena arena = Arena::Open(Options()).value();
  SlotHeaders headers = open(arena);
  EXPECT_FALSE(headers.Committed(page).has_value());
  EXPECT_TRUE(headers.Committed(page + 1).has_value());
}

TEST_F(SlotHeadersTest, ADamagedHeaderIsNone) {
  Arena arena = Arena::Open(Options()).value();
  SlotHeaders headers = SlotHeaders::Open(arena).value();
  ASSERT_TRUE(headers.LendChunk(0, kPageBytes).ok());
  headers.SetCommitted(kFirstPage, Block(5));
  const_cast<SlotRecord&>(headers.record(kFirstPage)).block.parent_id ^= 1;
  EXPECT_FALSE(headers.Committed(kFirstPage));
}

TEST_F(SlotHeadersTest, AnotherArenasHeadersAreForgotten) {
  {
    Arena arena = Arena::Open(Options()).value();
    SlotHeaders headers = SlotHeaders::Open(arena).value();
    ASSERT_TRUE(headers.LendChunk(0, kPageBytes).ok());
    headers.SetCommitted(kFirstPage, Block(5));
  }
  ASSERT_EQ(unlink(Options().path.c_str()), 0);
  Arena arena = Arena::Open(Options()).value();
  SlotHeaders headers = SlotHeaders::Open(arena).value();
  EXPECT_FALSE(headers.adopted());
  EXPECT_TRUE(Visit(headers).empty());
}

TEST_F(SlotHeadersTest, AnotherLayoutVersionSaysSo) {
  {
    Arena arena = Arena::Open(Options()).value();
    (void)SlotHeaders::Open(arena).value();
  }
  const uint32_t version = 77;
  Overwrite(offsetof(MetaHeader, layout_version), &version, sizeof version, ".meta");
  Arena arena = Arena::Open(Options()).value();
  EXPECT_THAT(std::string(SlotHeaders::Open(arena).status().message()),
              HasSubstr("layout version 77"));
}

TEST_F(SlotHeadersTest, CapacityMayChangeBetweenDaemons) {
  const uint64_t small = kChunk + 8 * kPageBytes;
  {
    Arena arena = Arena::Open(Options(small)).value();
    SlotHeaders headers = SlotHeaders::Open(arena).value();
    ASSERT_TRUE(headers.LendChunk(0, 4 * kPageBytes).ok());
    ASSERT_TRUE(headers.LendChunk(1, 4 * kPageBytes).ok());
    headers.SetCommitted(kFirstPage + 4, Block(1));
    headers.SetCommitted(kFirstPage + 256 + 4, Block(2));
  }
  {
    Arena arena = Arena::Open(Options()).value();
    SlotHeaders headers = SlotHeaders::Open(arena).value();
    EXPECT_EQ(Visit(headers).size(), 2u);
    headers.SetCommitted(kFirstPage + 256 + 252, Block(3));
  }
  {
    Arena arena = Arena::Open(Options(kChunk)).value();
    SlotHeaders headers = SlotHeaders::Open(arena).value();
    EXPECT_EQ(Visit(headers).size(), 1u);
  }
  Arena arena = Arena::Open(Options()).value();
  SlotHeaders headers = SlotHeaders::Open(arena).value();
  EXPECT_EQ(Visit(headers).size(), 1u) << "what was cut off does not come back";
}

// A child writes headers as fast as it can and is killed at some instant. Each slot's payload names
// the block that was last committed there: what is found must be whole and be that block.
TEST_F(SlotHeadersTest, AKillAtAnyInstantLeavesWholeHeadersOrNone) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr uint32_t kSlots = 8;
  size_t committed = 0;  // blocks that a child left behind: on a busy machine it takes more rounds
  for (int round = 0; round < 40 || (committed == 0 && round < 400); ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Arena arena = Arena::Open(Options()).value();
      SlotHeaders headers = SlotHeaders::Open(arena).value();
      if (headers.SlotBytesOfChunk(0) == 0) {
        (void)arena.PopulateChunk(0);
        (void)headers.LendChunk(0, kPageBytes);
      }
      for (uint64_t id = 1;; ++id) {
        const uint32_t page = kFirstPage + id % kSlots;
        headers.SetFree(page);
        *reinterpret_cast<volatile uint64_t*>(arena.data(page)) = id;
        headers.SetGranted(page, static_cast<uint32_t>(getpid()), 1);
        headers.SetCommitted(page, Block(id));
      }
    }
    usleep(static_cast<useconds_t>(2000 + random() % 10000));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    Arena arena = Arena::Open(Options()).value();
    SlotHeaders headers = SlotHeaders::Open(arena).value();
    for (const auto& [page, state] : Visit(headers)) {
      if (state != SlotState::kCommitted) continue;
      const auto block = headers.Committed(page);
      ASSERT_TRUE(block.has_value());
      ASSERT_EQ(block->id, *reinterpret_cast<uint64_t*>(arena.data(page)));
      ++committed;
    }
  }
  EXPECT_GT(committed, 0u) << "no child came as far as a commit: this shows nothing";
}

// A daemon's slabs and headers together: what a restart finds is what was committed.
TEST_F(SlotHeadersTest, SlabsAreRestoredFromHeaders) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::map<uint32_t, uint64_t> committed;  // page to id
  uint64_t used_bytes = 0;
  for (int life = 0; life < 5; ++life) {
    Arena arena = Arena::Open(Options()).value();
    SlotHeaders headers = SlotHeaders::Open(arena).value();
    SlabAllocator slabs({.capacity_bytes = arena.capacity_bytes(),
                         .chunk_bytes = arena.chunk_bytes(),
                         .first_page = kFirstPage,
                         .lend = [&](uint32_t chunk, uint64_t slot_bytes) {
                           TC_RETURN_IF_ERROR(arena.PopulateChunk(chunk));
                           return headers.LendChunk(chunk, slot_bytes);
                         }});
    std::map<uint32_t, uint64_t> found;
    for (const uint32_t chunk : headers.TakeOver()) {
      ASSERT_TRUE(slabs.RestoreChunk(chunk, headers.SlotBytesOfChunk(chunk)).ok());
      headers.VisitSlots(chunk, [&](uint32_t page, const SlotRecord&) {
        if (const auto block = headers.Committed(page)) {
          ASSERT_TRUE(slabs.RestoreSlot(page).ok());
          found[page] = block->id;
        } else {
          headers.SetFree(page);
        }
      });
    }
    ASSERT_EQ(found, committed);
    ASSERT_EQ(slabs.used_bytes(), used_bytes);
    for (int step = 0; step < 2000; ++step) {
      if (random() % 2 || committed.empty()) {
        auto slot = slabs.Reserve((1 + random() % 4) * 16 * kPageBytes).value();
        if (!slot) continue;
        headers.SetGranted(slot->page(), 1, 1);
        if (random() % 4 == 0) {
          headers.SetFree(slot->page());
          continue;  // aborted
        }
        const uint32_t page = std::move(*slot).Commit();
        committed[page] = 1 + random() % 1000000;
        headers.SetCommitted(page, Block(committed[page]));
      } else {
        auto gone = committed.lower_bound(kFirstPage + random() % 1024);
        if (gone == committed.end()) gone = committed.begin();
        headers.SetFree(gone->first);
        slabs.Free(gone->first);
        committed.erase(gone);
      }
    }
    used_bytes = slabs.used_bytes();
    if (auto slot = slabs.Reserve(16 * kPageBytes).value()) {  // granted when the daemon dies
      headers.SetGranted(slot->page(), 1, 1);
    }
  }
}

}  // namespace
}  // namespace thermocline
