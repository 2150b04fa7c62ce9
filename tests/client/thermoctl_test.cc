// thermoctl as a script sees it: exit codes, and JSON on every verb.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "tests/client/blocks.h"
#include "tests/client/tls_daemon.h"

namespace thermocline {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

struct Result {
  int code = -1;
  std::string output, errors;
  Json json() const { return Json::parse(output, nullptr, false); }
};

std::string Drain(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t count;
  while ((count = ::read(fd, buffer, sizeof buffer)) > 0) text.append(buffer, count);
  ::close(fd);
  return text;
}

Result RunProgram(const std::vector<std::string>& arguments, const std::string& input = {}) {
  int in[2], out[2], err[2];
  TC_CHECK(::pipe2(in, O_CLOEXEC) == 0 && ::pipe2(out, O_CLOEXEC) == 0);
  TC_CHECK(::pipe2(err, O_CLOEXEC) == 0);
  const pid_t pid = Spawn(arguments, in[0], out[1], err[1]);
  for (const int fd : {in[0], out[1], err[1]}) ::close(fd);
  TC_CHECK(::write(in[1], input.data(), input.size()) == ssize_t(input.size()));
  ::close(in[1]);
  Result result;
  result.output = Drain(out[0]);
  result.errors = Drain(err[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

Result Thermoctl(std::vector<std::string> arguments, const std::string& input = {}) {
  arguments.insert(arguments.begin(), kThermoctlBinary);
  return RunProgram(arguments, input);
}

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

TEST(ThermoctlTest, WrongUseIsTwo) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"frobnicate"},
                                             {"match"},
                                             {"match", "--space", "ab", "--tokens", "1,x"},
                                             {"match", "--space", "ab", "--tokens", "1,,2"},
                                             {"match", "--space", "ab", "--name", "f"},
                                             {"match", "--tokens", "1"},
                                             {"pin", "--name", "f", "--ttl", "3x"},
                                             {"pin", "--name", "f", "--tier", "hot"},
                                             {"flush"},
                                             {"flush", "--tier", "hot"},
                                             {"put", "file"},
                                             {"unpin", "one"},
                                             {"arena"},
                                             {"status", "--timeout", "soon"}}) {
    EXPECT_EQ(Thermoctl(arguments).code, 2) << ::testing::PrintToString(arguments);
  }
  EXPECT_EQ(Thermoctl({"--help"}).code, 0);
  EXPECT_EQ(Thermoctl({"--version"}).code, 0);
}

TEST(ThermoctlTest, NoDaemonIsThreeOnEveryVerb) {
  for (std::vector<std::string> arguments :
       std::vector<std::vector<std::string>>{{"status"},
                                             {"spaces"},
                                             {"match", "--name", "f"},
                                             {"put", "--name", "f", "/etc/hostname"},
                                             {"get", "--name", "f", "/tmp/tc-never-written"},
                                             {"pin", "--name", "f"},
                                             {"unpin", "1"},
                                             {"pins"},
                                             {"prefetch", "--name", "f"},
                                             {"delete", "--name", "f"},
                                             {"flush", "--tier", "warm"},
                                             {"arena", "drop"},
                                             {"watch", "--count", "1"}}) {
    arguments.insert(arguments.end(), {"--json", "--socket", "/tmp/tc-no-such.sock"});
    const Result result = Thermoctl(arguments);
    EXPECT_EQ(result.code, 3) << arguments[0];
    EXPECT_EQ(result.json()["error"]["code"], "UNAVAILABLE") << result.output;
    EXPECT_THAT(result.errors, HasSubstr("thermoclined --socket /tmp/tc-no-such.sock"));
  }
}

/// Makes a file of seeded bytes, and returns those.
std::string WriteSeeded(const std::string& path, size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::string content(bytes, '\0');
  for (char& c : content) c = static_cast<char>(random());
  std::ofstream(path, std::ios::binary) << content;
  return content;
}

/// Changes one byte amid the largest table of a store. False when it has none.
bool SpoilStore(const std::string& store) {
  std::filesystem::path largest;
  uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(store)) {
    std::error_code gone;  // a daemon may be at work
    const uintmax_t its = entry.path().extension() == ".sst" ? entry.file_size(gone) : 0;
    if (gone || its <= bytes) continue;
    largest = entry.path();
    bytes = its;
  }
  if (bytes == 0) return false;
  std::fstream file(largest, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(bytes / 2));
  const auto byte = static_cast<char>(file.get() ^ 1);
  file.seekp(static_cast<std::streamoff>(bytes / 2));
  file.put(byte);
  return file.good();
}

class ThermoctlDaemonTest : public ::testing::Test {
 protected:
  Result Run(std::vector<std::string> arguments, const std::string& input = {}) {
    arguments.insert(arguments.end(), {"--json", "--socket", daemon_.socket()});
    return Thermoctl(arguments, input);
  }
  std::string File(const std::string& name) const { return daemon_.directory() + "/" + name; }
  std::string Write(const std::string& name, size_t bytes, uint32_t seed) {
    return WriteSeeded(File(name), bytes, seed);
  }
  // Without a scrubber, who would find damage before whom a test asks.
  DaemonProcess daemon_{{.more = {"--scrub-rate=0"}}};
};

TEST_F(ThermoctlDaemonTest, FilesComeBackBitForBitFromEveryTier) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{64 * 1024}, size_t{1'000'003}}) {
    const std::string name = "f" + std::to_string(bytes);
    const std::string content = Write(name, bytes, static_cast<uint32_t>(bytes));
    const Json put = Run({"put", "--name", name, File(name)}).json();
    EXPECT_EQ(put["bytes"], bytes) << put;
    EXPECT_EQ(put["blocks_before"], 0);
    EXPECT_EQ(Run({"get", "--name", name, File("out")}).code, 0);
    EXPECT_EQ(ReadAll(File("out")), content);
  }
  const Json flushed = Run({"flush", "--tier", "warm"}).json();
  EXPECT_EQ(flushed["blocks"], 1 + 2 + 2 + 17) << flushed;
  const Json got = Run({"get", "--name", "f1000003", File("out")}).json();
  EXPECT_GE(got["blocks_cold"], 16) << got;
  EXPECT_EQ(ReadAll(File("out")), ReadAll(File("f1000003")));
  const Result piped = Thermoctl({"get", "--name", "f1", "-", "--socket", daemon_.socket()});
  EXPECT_EQ(piped.code, 0);
  EXPECT_EQ(piped.output, ReadAll(File("f1")));
  EXPECT_THAT(piped.errors, HasSubstr("sha256"));
}

TEST_F(ThermoctlDaemonTest, ANameIsBoundToItsContentUntilItIsDeleted) {
  Write("a", 200'000, 1);
  Write("b", 200'000, 2);
  EXPECT_EQ(Run({"put", "--name", "n", File("a")}).code, 0);
  EXPECT_EQ(Run({"put", "--name", "n", File("a")}).json()["blocks_before"], 5);
  const Result refused = Run({"put", "--name", "n", File("b")});
  EXPECT_EQ(refused.code, 1);
  EXPECT_EQ(refused.json()["error"]["code"], "ALREADY_EXISTS") << refused.output;
  EXPECT_EQ(Run({"delete", "--name", "n"}).json()["deleted_places"], 5);
  EXPECT_EQ(Run({"get", "--name", "n", File("out")}).code, 1);
  EXPECT_FALSE(std::filesystem::exists(File("out")));
  EXPECT_EQ(Run({"put", "--name", "n", File("b")}).code, 0);
  EXPECT_EQ(Run({"get", "--name", "n", File("out")}).code, 0);
  EXPECT_EQ(ReadAll(File("out")), ReadAll(File("b")));
}

TEST_F(ThermoctlDaemonTest, FsckCountsWhatIsDamagedUnderARunningDaemon) {
  Write("f", 1'000'000, 5);
  ASSERT_EQ(Run({"put", "--name", "f", File("f")}).code, 0);
  EXPECT_TRUE(Eventually([&] { return Run({"flush", "--tier", "warm"}).json()["kept"] == 0; }));
  const Result good = Run({"fsck"});
  EXPECT_EQ(good.code, 0) << good.errors;
  EXPECT_GT(good.json()["checked_blocks"], 0) << good.output;
  EXPECT_EQ(good.json()["damaged_blocks"], 0) << good.output;
  ASSERT_TRUE(SpoilStore(daemon_.directory() + "/data/store"));
  const Json damaged = Run({"fsck"}).json();
  EXPECT_EQ(damaged["checked_blocks"], good.json()["checked_blocks"]) << damaged;
  EXPECT_EQ(damaged["damaged_blocks"], 1) << damaged;
  EXPECT_EQ(Run({"status"}).json()["corrupt_blocks"], 1);
}

TEST_F(ThermoctlDaemonTest, OfflineFsckNamesTheBlockThatIsDamagedInTheStoreOfItsTenant) {
  Write("f", 1'000'000, 6);
  ASSERT_EQ(Run({"put", "--name", "f", File("f")}).code, 0);
  EXPECT_TRUE(Eventually([&] { return Run({"flush", "--tier", "warm"}).json()["kept"] == 0; }));
  const std::string data = daemon_.directory() + "/data", other = data + "/tenants/other";
  const auto fsck = [&] { return RunProgram({kDaemonBinary, "--fsck", data}); };
  const Result busy = fsck();
  EXPECT_EQ(busy.code, 1) << "a daemon has it open: " << busy.output;
  EXPECT_EQ(daemon_.Stop(), 0);
  std::filesystem::create_directories(other);
  std::filesystem::copy(data + "/store", other + "/store",
                        std::filesystem::copy_options::recursive);
  const Result good = fsck();
  EXPECT_EQ(good.code, 0) << good.output << good.errors;
  EXPECT_THAT(good.output, HasSubstr(data + "/store\n"));
  EXPECT_THAT(good.output, HasSubstr(other + "/store\n"));
  EXPECT_THAT(good.output, ::testing::Not(HasSubstr("problem:")));
  ASSERT_TRUE(SpoilStore(other + "/store"));
  const Result spoiled = fsck();
  EXPECT_EQ(spoiled.code, 1) << spoiled.output;
  const size_t theirs = spoiled.output.find(other + "/store\n");
  const size_t problem = spoiled.output.find("problem: ");
  ASSERT_NE(problem, std::string::npos) << spoiled.output;
  EXPECT_EQ(problem > theirs, spoiled.output.find(data + "/store\n") < theirs) << spoiled.output;
  EXPECT_THAT(spoiled.output.substr(problem), HasSubstr("block "));
}

TEST_F(ThermoctlDaemonTest, EveryOtherVerbAnswersInJson) {
  const auto client = daemon_.Connect();
  const Space space = *client->OpenSpace(TestSpace());
  const auto tokens = Prompt(1, 4);
  {
    auto lease = space.Match(tokens);
    ASSERT_TRUE(Extend(space, *lease, tokens, 3).ok());
  }
  std::string list;
  for (const int32_t token : tokens) list += std::to_string(token) + ",";
  list.pop_back();

  const Json status = Run({"status"}).json();
  EXPECT_EQ(status["socket"], daemon_.socket());
  EXPECT_EQ(status["tiers"][0]["tier"], "warm");
  const Json spaces = Run({"spaces"}).json()["spaces"];
  ASSERT_EQ(spaces.size(), 1u) << spaces;
  EXPECT_EQ(spaces[0]["model"], "test");
  EXPECT_EQ(spaces[0]["places"], 3);
  const std::string fingerprint = spaces[0]["space"];
  EXPECT_EQ(fingerprint, space.fingerprint().Hex());

  const Json match = Run({"match", "--space", fingerprint.substr(0, 8), "--tokens", list}).json();
  EXPECT_EQ(match["places"], 3) << match;
  EXPECT_EQ(match["tokens"], 48);
  EXPECT_EQ(match["blocks"][2]["tier"], "warm");
  const Json piped =
      Run({"match", "--space", fingerprint, "--tokens-file", "-"}, list + "\n").json();
  EXPECT_EQ(piped["places"], 3) << piped;
  EXPECT_EQ(Run({"match", "--space", "ffffffffffff", "--tokens", "1"}).code, 1);

  const Json pin =
      Run({"pin", "--space", fingerprint, "--tokens", list, "--ttl", "1h", "--tier", "warm"})
          .json();
  EXPECT_EQ(pin["places"], 3) << pin;
  EXPECT_EQ(Run({"pins"}).json()["pins"][0]["pin"], pin["pin"]);
  const auto pinned_bytes = [&] { return Run({"status"}).json()["tiers"][0]["ttl_pinned_bytes"]; };
  const uint64_t block_bytes = space.spec().parts[0].block_bytes;
  EXPECT_EQ(pinned_bytes(), 3 * block_bytes);
  EXPECT_EQ(Run({"tenants"}).json()["tenants"][0]["warm_ttl_pinned_bytes"], 3 * block_bytes);
  EXPECT_EQ(Run({"unpin", std::to_string(pin["pin"].get<uint64_t>())}).code, 0);
  EXPECT_EQ(pinned_bytes(), 0);
  EXPECT_EQ(Run({"unpin", std::to_string(pin["pin"].get<uint64_t>())}).code, 1);
  EXPECT_TRUE(Run({"pins"}).json()["pins"].empty());

  EXPECT_EQ(Run({"flush", "--tier", "warm"}).json()["blocks"], 3);
  const Json prefetch = Run({"prefetch", "--space", fingerprint, "--tokens", list}).json();
  EXPECT_EQ(prefetch["places"], 3) << prefetch;
  EXPECT_EQ(prefetch["promoting_blocks"], 3);
  const Result watch = Run({"watch", "--count", "2"});
  EXPECT_EQ(watch.code, 0);
  EXPECT_EQ(std::count(watch.output.begin(), watch.output.end(), '\n'), 2);
  EXPECT_EQ(Run({"delete", "--space", fingerprint}).json()["deleted_places"], 3);
  EXPECT_EQ(Run({"arena", "drop"}).json()["dropped_blocks"], 0);
  EXPECT_EQ(Run({"flush", "--tier", "cold"}).code, 0);
}

TEST_F(ThermoctlDaemonTest, DeleteDeletesNoMoreThanWasNamed) {
  const auto client = daemon_.Connect();
  const Space space = *client->OpenSpace(TestSpace());
  const auto tokens = Prompt(1, 4);
  {
    auto lease = space.Match(tokens);
    ASSERT_TRUE(Extend(space, *lease, tokens, 4).ok());
  }
  const std::string fingerprint = space.fingerprint().Hex();
  std::ofstream(File("empty")).flush();
  std::string twenty;
  for (int i = 0; i < 20; ++i) twenty += (i > 0 ? "," : "") + std::to_string(tokens[i]);
  for (const std::vector<std::string>& path : std::vector<std::vector<std::string>>{
           {"--space", fingerprint, "--tokens", "1,2,3"},
           {"--space", fingerprint, "--tokens", twenty},
           {"--space", fingerprint, "--tokens", ""},
           {"--space", fingerprint, "--tokens-file", File("empty")},
           {"--space", fingerprint, "--tokens-file", "-"},
           {"--space", ""},
           {"--name", ""}}) {
    std::vector<std::string> arguments = {"delete"};
    arguments.insert(arguments.end(), path.begin(), path.end());
    const Result result = Run(arguments);
    EXPECT_EQ(result.code, 2) << ::testing::PrintToString(path);
    EXPECT_EQ(result.json()["error"]["code"], "INVALID_ARGUMENT") << result.output;
  }
  EXPECT_NE(Run({"delete", "--space", fingerprint, "--tokens-file", ""}).code, 0);
  EXPECT_EQ(Run({"status"}).json()["places"], 4);
  auto admin = AdminClient::Connect({.socket_path = daemon_.socket()});
  EXPECT_EQ((*admin)->Delete(space.fingerprint(), std::vector<int32_t>{1, 2, 3}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*admin)->Delete(space.fingerprint(), std::vector<std::string>{"key"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(space.Match(tokens)->depth(), 4u);
}

TEST_F(ThermoctlDaemonTest, ASaltedSpaceIsNotTakenForAnotherOne) {
  const auto client = daemon_.Connect();
  SpaceSpec spec = TestSpace();
  spec.salt = "secret";
  const Space space = *client->OpenSpace(spec);
  const auto tokens = Prompt(1, 1);
  {
    auto lease = space.Match(tokens);
    ASSERT_TRUE(Extend(space, *lease, tokens, 1).ok());
  }
  const std::string digits = space.fingerprint().Hex();
  for (const std::string verb : {"match", "pin", "prefetch"}) {
    const Result refused = Run({verb, "--space", digits, "--tokens", "1"});
    EXPECT_EQ(refused.code, 1) << verb;
    EXPECT_THAT(refused.errors, HasSubstr("has a salt")) << verb;
  }
  EXPECT_EQ(Run({"delete", "--space", digits}).json()["deleted_places"], 1);
}

TEST_F(ThermoctlDaemonTest, GetWritesThroughALink) {
  const std::string content = Write("a", 1000, 1);
  EXPECT_EQ(Run({"put", "--name", "n", File("a")}).code, 0);
  std::ofstream(File("target")) << std::string(5000, 'x');
  std::filesystem::create_symlink(File("target"), File("link"));
  EXPECT_EQ(Run({"get", "--name", "n", File("link")}).code, 0);
  EXPECT_TRUE(std::filesystem::is_symlink(File("link")));
  EXPECT_EQ(ReadAll(File("target")), content);
}

class ThermoctlTlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    tls_ = TlsDaemon::Start();
    if (tls_ == nullptr) GTEST_SKIP() << "needs the program openssl";
  }
  /// How `remote` is given on the command line.
  static std::vector<std::string> Options(const RemoteOptions& remote) {
    return {"--json",        "--address",     remote.address,          "--ca",
            remote.ca_file,  "--certificate", remote.certificate_file, "--key",
            remote.key_file, "--token-file",  remote.token_file};
  }
  Result Run(std::vector<std::string> arguments, const RemoteOptions& remote) {
    const std::vector<std::string> options = Options(remote);
    arguments.insert(arguments.end(), options.begin(), options.end());
    return Thermoctl(arguments);
  }
  Result Run(std::vector<std::string> arguments) {
    return Run(std::move(arguments), tls_->remote());
  }
  std::unique_ptr<TlsDaemon> tls_;
};

TEST_F(ThermoctlTlsTest, WhatNeedsNoAdministratorGoesOverTls) {
  const std::string content = WriteSeeded(tls_->File("in"), 1'000'003, 7);
  const Result put = Run({"put", "--name", "far", tls_->File("in")});
  EXPECT_EQ(put.code, 0) << put.errors;
  EXPECT_EQ(put.json()["bytes"], content.size()) << put.output;
  EXPECT_EQ(Run({"get", "--name", "far", tls_->File("out")}).code, 0);
  EXPECT_EQ(ReadAll(tls_->File("out")), content);
  const std::string near = tls_->daemon().directory() + "/near";
  EXPECT_EQ(Thermoctl({"get", "--name", "far", near, "--socket", tls_->daemon().socket()}).code, 0);
  EXPECT_EQ(ReadAll(near), content);

  EXPECT_EQ(Run({"status"}).json()["tiers"][0]["tier"], "warm");
  EXPECT_EQ(Run({"spaces"}).json()["spaces"].size(), 1u);
  EXPECT_EQ(Run({"match", "--name", "far"}).json()["places"], 17);
  const Json pin = Run({"pin", "--name", "far"}).json();
  EXPECT_EQ(pin["places"], 17) << pin;
  EXPECT_EQ(Run({"pins"}).json()["pins"][0]["pin"], pin["pin"]);
  EXPECT_EQ(Run({"unpin", std::to_string(pin["pin"].get<uint64_t>())}).code, 0);
  EXPECT_EQ(Run({"prefetch", "--name", "far"}).json()["places"], 17);
  for (const std::vector<std::string>& verb : std::vector<std::vector<std::string>>{
           {"delete", "--name", "far"}, {"flush", "--tier", "warm"}, {"arena", "drop"}}) {
    const Result refused = Run(verb);
    EXPECT_EQ(refused.code, 1) << verb[0];
    EXPECT_EQ(refused.json()["error"]["code"], "PERMISSION_DENIED") << refused.output;
  }
  EXPECT_EQ(Run({"match", "--name", "far"}).json()["places"], 17);
}

TEST_F(ThermoctlTlsTest, WhoIsNotLetInIsToldWhy) {
  RemoteOptions wrong = tls_->remote();
  wrong.token_file = tls_->File("forged");
  std::ofstream(wrong.token_file) << std::string(32, 'f');
  const Result forged = Run({"status"}, wrong);
  EXPECT_EQ(forged.code, 1);
  EXPECT_EQ(forged.json()["error"]["code"], "UNAUTHENTICATED") << forged.output;
  EXPECT_THAT(forged.errors, HasSubstr("token"));
  wrong = tls_->remote();
  wrong.ca_file = wrong.certificate_file;  // of no authority
  EXPECT_EQ(Run({"status"}, wrong).code, 3);
  wrong = tls_->remote();
  wrong.key_file = "/nonexistent/key";
  EXPECT_THAT(Run({"status"}, wrong).errors, HasSubstr("/nonexistent/key"));
  wrong = tls_->remote();
  wrong.address = wrong.address.substr(6);  // no scheme
  EXPECT_EQ(Run({"status"}, wrong).code, 2);
}

TEST_F(ThermoctlTlsTest, AnotherUserIsServedWhoCannotHaveTheMap) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  constexpr uid_t kNobody = 65534;
  const std::vector<std::string> as_nobody = {"/usr/bin/setpriv", "--reuid=65534", "--regid=65534",
                                              "--clear-groups"};
  const auto run = [&](std::vector<std::string> command) {
    command.insert(command.begin(), as_nobody.begin(), as_nobody.end());
    return RunProgram(command);
  };
  if (::access(as_nobody[0].c_str(), X_OK) != 0 ||
      run({"/usr/bin/test", "-x", kThermoctlBinary}).code != 0) {
    GTEST_SKIP() << "needs setpriv, and a build that user 65534 may run";
  }
  char name[] = "/tmp/tc-nobody-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string home = name;
  RemoteOptions remote = tls_->remote();
  for (std::string* file :
       {&remote.ca_file, &remote.certificate_file, &remote.key_file, &remote.token_file}) {
    const std::string own = home + file->substr(file->rfind('/'));
    std::filesystem::copy_file(*file, own);
    ASSERT_EQ(::chown(own.c_str(), kNobody, kNobody), 0);
    *file = own;
  }
  const std::string content = WriteSeeded(home + "/in", 300'000, 8);
  std::filesystem::permissions(home + "/in", std::filesystem::perms::all);
  ASSERT_EQ(::chown(home.c_str(), kNobody, kNobody), 0);
  // The daemon of this machine is root's, and its files are.
  const std::string socket = tls_->daemon().socket();
  const Result local = run({kThermoctlBinary, "status", "--json", "--socket", socket});
  EXPECT_NE(local.code, 0) << local.output;

  std::vector<std::string> put = {kThermoctlBinary, "put", "--name", "n", home + "/in"};
  for (const std::string& option : Options(remote)) put.push_back(option);
  const Result done = run(put);
  EXPECT_EQ(done.code, 0) << done.output << done.errors;
  // By the environment: what is refused here is looked for there.
  const Result got = run(
      {"/usr/bin/env", "THERMOCLINE_ADDRESS=" + remote.address, "THERMOCLINE_CA=" + remote.ca_file,
       "THERMOCLINE_CERTIFICATE=" + remote.certificate_file, "THERMOCLINE_KEY=" + remote.key_file,
       "THERMOCLINE_CLIENT_TOKEN_FILE=" + remote.token_file, kThermoctlBinary, "get", "--name", "n",
       home + "/out", "--socket", socket});
  EXPECT_EQ(got.code, 0) << got.output << got.errors;
  EXPECT_EQ(ReadAll(home + "/out"), content);
  std::filesystem::remove_all(home);
}

TEST_F(ThermoctlDaemonTest, TextIsForPeople) {
  const Result result = Thermoctl({"status", "--socket", daemon_.socket()});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.output, HasSubstr("128 MiB"));
  EXPECT_THAT(result.output, HasSubstr("tiers:"));
}

}  // namespace
}  // namespace thermocline
