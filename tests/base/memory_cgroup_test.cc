// What control groups leave a process, from files as both of their versions have them.
#include "base/memory_cgroup.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/units.h"

namespace thermocline {
namespace {

class MemoryCgroupTest : public ::testing::Test {
 protected:
  MemoryCgroupTest() {
    std::string path = ::testing::TempDir() + "tc-cgroup-XXXXXX";
    EXPECT_NE(mkdtemp(path.data()), nullptr);
    root_ = path;
  }
  ~MemoryCgroupTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  std::optional<MemoryCgroupRoom> Room() {
    return RoomInMemoryCgroup((root_ / "membership").string(), root_.string());
  }
  std::filesystem::path root_;
};

TEST_F(MemoryCgroupTest, TheTightestGroupOfTheSecondVersionCounts) {
  Write("membership", "0::/outer/inner\n");
  Write("outer/inner/memory.max", "max\n");
  Write("outer/inner/memory.current", "1000\n");
  EXPECT_FALSE(Room().has_value()) << "nobody has a limit";
  Write("outer/memory.max", "104857600\n");
  Write("outer/memory.current", "94371840\n");
  Write("outer/memory.stat", "anon 5\ninactive_file 10485760\nactive_file 5242880\nshmem 7\n");
  const auto room = Room();
  ASSERT_TRUE(room.has_value());
  EXPECT_EQ(room->limit_bytes, 100 * MiB);
  EXPECT_EQ(room->bytes, 25 * MiB) << "caches give way";
  EXPECT_EQ(room->directory, (root_ / "outer").string());
}

TEST_F(MemoryCgroupTest, TheFirstVersionIsKnownToo) {
  Write("membership", "5:cpuset:/a\n4:memory,hugetlb:/job\n0::/a\n");
  Write("memory/job/memory.limit_in_bytes", "1048576\n");
  Write("memory/job/memory.usage_in_bytes", "2097152\n");
  Write("memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("memory/memory.usage_in_bytes", "4096\n");
  const auto room = Room();
  ASSERT_TRUE(room.has_value());
  EXPECT_EQ(room->bytes, 0u) << "over its limit already";
  EXPECT_EQ(room->limit_bytes, MiB);
}

TEST_F(MemoryCgroupTest, InAContainerTheTopCounts) {
  Write("membership", "0::/kubepods/burstable/pod1\n");
  Write("memory.max", "8192\n");
  Write("memory.current", "4096\n");
  ASSERT_TRUE(Room().has_value());
  EXPECT_EQ(Room()->bytes, 4096u);
}

TEST_F(MemoryCgroupTest, NothingIsKnownWithoutFiles) {
  EXPECT_FALSE(Room().has_value());
  Write("membership", "garbage\n::\n");
  EXPECT_FALSE(Room().has_value());
}

}  // namespace
}  // namespace thermocline
