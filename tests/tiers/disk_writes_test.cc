// A segment's file as it is written, by a thread of its own and where there can be none: its bytes
// and length are those that were appended, and a write that fails is told, and stays so.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>

#include "base/units.h"
#include "tests/tiers/faulty_file_system.h"
#include "tests/tiers/scratch_directory.h"
#include "tiers/disk_writes.h"

namespace thermocline {
namespace {

using rocksdb::IOOptions;
using rocksdb::IOStatus;

enum class Threads { kOne, kNone };

size_t CountThreads() {
  const auto tasks = std::filesystem::directory_iterator("/proc/self/task");
  return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

class DiskWritesTest : public ::testing::TestWithParam<Threads> {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    if (GetParam() == Threads::kNone) GTEST_SKIP() << "a sanitizer's memory cannot be bounded";
#endif
    rocksdb::FileOptions direct;
    direct.use_direct_writes = true;
    std::unique_ptr<rocksdb::FSWritableFile> file;
    const IOStatus status = below_->NewWritableFile(path_, direct, &file, nullptr);
    if (!status.ok()) GTEST_SKIP() << "no direct writes here: " << status.ToString();
  }

  /// Runs it in a process of its own, in which no thread can be made where there is to be none.
  void Run(const std::function<void()>& body) {
    const pid_t child = ::fork();
    if (child == 0) {
      Limit();
      body();
      EXPECT_EQ(CountThreads(), 1u) << "it has ended with the file";
      std::fflush(stdout);
      ::_exit(HasFailure() ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  std::unique_ptr<rocksdb::FSWritableFile> Open() {
    std::unique_ptr<rocksdb::FSWritableFile> file;
    const IOStatus status = files_->NewWritableFile(path_, {}, &file, nullptr);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return file;
  }
  void ExpectThreads() { EXPECT_EQ(CountThreads(), GetParam() == Threads::kOne ? 2u : 1u); }

  static constexpr size_t kBytes = 9 * MiB + 12'345;  // some buffers, and no whole sector
  ScratchDirectory directory_;
  const std::string path_ = directory_.path() + "/file";
  std::shared_ptr<FaultyFileSystem> below_ = std::make_shared<FaultyFileSystem>();
  std::shared_ptr<rocksdb::FileSystem> files_ = WithWritesBehind(below_);

 private:
  // Room for the other buffer, but not for a stack.
  void Limit() {
    if (GetParam() == Threads::kOne) return;
    size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = pages * static_cast<size_t>(::getpagesize()) + 7 * MiB;
    ASSERT_EQ(::setrlimit(RLIMIT_AS, &limit), 0);
  }
};

TEST_P(DiskWritesTest, TheFileIsWhatWasAppended) {
  const uint64_t seed = TestSeed(std::random_device()());
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::string bytes(kBytes, '\0');
  std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<char>(random()); });
  std::string read(kBytes + 1, '\0');
  Run([&] {
    const auto file = Open();
    for (size_t at = 0; at < kBytes;) {
      const size_t count = std::min<size_t>(kBytes - at, 1 + random() % (600 * KiB));
      EXPECT_TRUE(file->Append({bytes.data() + at, count}, IOOptions(), nullptr).ok());
      at += count;
      EXPECT_EQ(file->GetFileSize(IOOptions(), nullptr), at);
    }
    ExpectThreads();
    EXPECT_TRUE(file->Sync(IOOptions(), nullptr).ok());
    EXPECT_TRUE(file->Close(IOOptions(), nullptr).ok());
    std::ifstream in(path_, std::ios::binary);
    in.read(read.data(), static_cast<std::streamsize>(read.size()));
    EXPECT_EQ(static_cast<size_t>(in.gcount()), kBytes);
    EXPECT_EQ(read.compare(0, kBytes, bytes), 0);
  });
}

TEST_P(DiskWritesTest, AWriteThatFailsIsToldByWhatFollowsAndAtTheEnd) {
  Run([&] {
    const auto file = Open();
    below_->FailAfter(1, 1);  // the second of the buffers
    const std::string piece(1 * MiB, 'x');
    size_t refused = 0;
    for (size_t at = 0; at < kBytes; at += piece.size()) {
      refused += file->Append(piece, IOOptions(), nullptr).ok() ? 0 : 1;
    }
    ExpectThreads();
    EXPECT_TRUE(below_->hit());
    EXPECT_GT(refused, 0u);
    EXPECT_FALSE(file->Sync(IOOptions(), nullptr).ok());
    EXPECT_FALSE(file->Close(IOOptions(), nullptr).ok()) << "though the disk is well again";
  });
}

INSTANTIATE_TEST_SUITE_P(, DiskWritesTest, ::testing::Values(Threads::kOne, Threads::kNone),
                         [](const auto& threads) {
                           return threads.param == Threads::kOne ? "ByAThread" : "WithoutOne";
                         });

}  // namespace
}  // namespace thermocline
