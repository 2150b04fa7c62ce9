// The weights' digest: right, remembered, and never believed beyond what it was computed of.
#include "engine/content_digest.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <thread>

#include "engine/weights.h"
#include "hashing/sha256.h"
#include "tests/engine/temporary_directory.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr char kSha256OfAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

class ContentDigestTest : public ::testing::Test {
 protected:
  void SetUp() override { ::setenv("XDG_CACHE_HOME", directory_.path().c_str(), 1); }
  void TearDown() override { ::unsetenv("XDG_CACHE_HOME"); }

  static std::string Digest(const std::string& path) {
    std::vector<MappedFile> files;
    files.push_back(*MappedFile::Open(path));
    const auto digest = DigestOfFiles(files);
    return digest.ok() ? ToHex(*digest) : digest.status().ToString();
  }
  std::string Cache() const {
    std::ifstream file(directory_.path() / "thermocline" / "weights.sha256");
    return {std::istreambuf_iterator<char>(file), {}};
  }
  /// Writes a file and waits until it is old enough to be remembered.
  std::string WriteSettled(std::string_view name, std::string_view content) const {
    std::string path = directory_.Write(name, content);
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));
    return path;
  }
  /// The same cache with every digest replaced by zeros: whoever reads it answers zeros.
  void FalsifyCache() const {
    std::string text = Cache();
    ASSERT_GE(text.size(), 65u);
    text.replace(text.size() - 65, 64, std::string(64, '0'));
    std::ofstream(directory_.path() / "thermocline" / "weights.sha256") << text;
  }

  TemporaryDirectory directory_;
};

TEST_F(ContentDigestTest, IsWhatSha256SumPrints) {
  EXPECT_EQ(Digest(directory_.Write("a", "abc")), kSha256OfAbc);
}

TEST_F(ContentDigestTest, IsRememberedUntilTheFileChanges) {
  const std::string path = WriteSettled("a", "abc");
  EXPECT_EQ(Digest(path), kSha256OfAbc);
  EXPECT_THAT(Cache(), HasSubstr(kSha256OfAbc));
  FalsifyCache();
  EXPECT_EQ(Digest(path), std::string(64, '0'));  // read from the cache, not hashed

  // Same size, and its mtime set back: the change is seen all the same.
  struct stat before {};
  ASSERT_EQ(::stat(path.c_str(), &before), 0);
  std::ofstream(path) << "abd";
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  EXPECT_EQ(Digest(path), "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9");
}

TEST_F(ContentDigestTest, AFileJustChangedIsNotRemembered) {
  // On a busy machine the file may be old by the time it is hashed: then another one is written.
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const std::string before = Cache();
    Digest(directory_.Write("a" + std::to_string(i), "abc"));
    if (std::chrono::steady_clock::now() - start > std::chrono::milliseconds(900)) continue;
    EXPECT_EQ(Cache(), before);
    return;
  }
  ADD_FAILURE() << "20 times, writing and hashing three bytes took nearly a second";
}

TEST_F(ContentDigestTest, ADamagedOrUnwritableCacheCostsTimeOnly) {
  const std::string path = WriteSettled("a", "abc");
  std::filesystem::create_directories(directory_.path() / "thermocline");
  directory_.Write("thermocline/weights.sha256", "1 2 3\n\n\xff garbage\n");
  EXPECT_EQ(Digest(path), kSha256OfAbc);
  EXPECT_EQ(Digest(path), kSha256OfAbc);
  ::setenv("XDG_CACHE_HOME", "/proc/nowhere", 1);
  EXPECT_EQ(Digest(path), kSha256OfAbc);
}

TEST_F(ContentDigestTest, SeveralFilesAreHashedInOrder) {
  std::vector<MappedFile> files;
  files.push_back(*MappedFile::Open(directory_.Write("a", "abc")));
  files.push_back(*MappedFile::Open(directory_.Write("b", "")));
  const std::string forth = ToHex(*DigestOfFiles(files));
  std::swap(files[0], files[1]);
  EXPECT_NE(ToHex(*DigestOfFiles(files)), forth);
}

TEST_F(ContentDigestTest, SmolLM2HasThePublishedDigest) {
  const std::string path = TC_SOURCE_DIR "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::ifstream(path)) GTEST_SKIP() << path << " is absent; deploy/setup.sh fetches it";
  const auto model = ModelFile::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(ToHex(*(*model)->content_sha256()),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
}

}  // namespace
}  // namespace thermocline
