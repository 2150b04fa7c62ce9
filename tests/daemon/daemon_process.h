// The real thermoclined as a child process, on temporary directories, with small capacities; and
// the calls of a client by hand, with their deadline and token.
#pragma once
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/clean_environment.h"
#include "tests/daemon/raw_session.h"
#include "thermocline/v1/admin.grpc.pb.h"
#include "thermocline/v1/control.grpc.pb.h"
#include "thermocline/v1/data.grpc.pb.h"

namespace thermocline::testing {

inline bool Eventually(const std::function<bool()>& condition,
                       std::chrono::milliseconds patience = std::chrono::milliseconds(60'000)) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

/// Directories of one daemon; removed at the end, the arena on its tmpfs too.
struct DaemonPlace {
  DaemonPlace() {
    char name[] = "/tmp/tc-daemon-XXXXXX";
    root = ::mkdtemp(name);
    char arena_name[] = "/dev/shm/tc-daemon-XXXXXX";
    arena_dir = ::mkdtemp(arena_name);
    socket = root + "/run/t.sock";
    data_dir = root + "/data";
  }
  ~DaemonPlace() {
    std::error_code ignored;
    std::filesystem::remove_all(root, ignored);
    std::filesystem::remove_all(arena_dir, ignored);
  }
  DaemonPlace(const DaemonPlace&) = delete;
  DaemonPlace& operator=(const DaemonPlace&) = delete;

  std::string root, socket, data_dir, arena_dir;
  std::string warm_capacity = "16MiB", cold_capacity = "64MiB";
};

class DaemonProcess {
 public:
  explicit DaemonProcess(const DaemonPlace& place, const std::vector<std::string>& more = {},
                         const std::function<void()>& in_child = {})
      : log_path_(place.root + "/log") {
    std::vector<std::string> words = {TC_BUILD_DIR "/bin/thermoclined",
                                      "--socket=" + place.socket,
                                      "--data-dir=" + place.data_dir,
                                      "--arena-dir=" + place.arena_dir,
                                      "--warm-capacity=" + place.warm_capacity,
                                      "--cold-capacity=" + place.cold_capacity,
                                      "--http=127.0.0.1:0"};
    words.insert(words.end(), more.begin(), more.end());
    { std::ofstream empty(log_path_); }  // not the words of a daemon before
    pid_ = ::fork();
    if (pid_ == 0) {
      const int log = ::open(log_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(log, 1);
      ::dup2(log, 2);
      if (in_child) in_child();
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
  }
  ~DaemonProcess() {
    if (running()) {
      ::kill(pid_, SIGKILL);
      Wait();
    }
  }

  /// Whether it serves; its log is in the failure's text.
  ::testing::AssertionResult Ready() {
    const bool ready =
        Eventually([&] { return log().find(" ready ") != std::string::npos || !running(); });
    if (ready && running()) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "thermoclined does not serve:\n" << log();
  }
  void Signal(int signal) { ::kill(pid_, signal); }
  bool running() {
    if (exited_) return false;
    exited_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
    return !exited_;
  }
  /// The exit code, 128 + N after signal N.
  int Wait() {
    if (!exited_) ::waitpid(pid_, &status_, 0);
    exited_ = true;
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  }
  int Stop(int signal = SIGTERM) {
    Signal(signal);
    return Wait();
  }
  std::string log() const {
    std::ifstream file(log_path_);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  pid_t pid() const { return pid_; }

 private:
  const std::string log_path_;
  pid_t pid_ = -1;
  bool exited_ = false;
  int status_ = 0;
};

/// One session with its stubs. Beats its heart only where a test says so.
class RawClient {
 public:
  explicit RawClient(const DaemonPlace& place, bool admin = false)
      : session(SayHello(place.socket, {.admin = admin})),
        token(session.token()),
        open(Channel(place.socket + ".grpc")),
        admin_channel(Channel(place.socket + ".admin")),
        control(v1::Control::NewStub(open)),
        data(v1::Data::NewStub(open)),
        admin_stub(v1::Admin::NewStub(admin_channel)) {
    if (session.welcomed()) {
      arena_bytes = session.welcome.arena_bytes();
      void* memory =
          ::mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, session.arena.get(), 0);
      if (memory != MAP_FAILED) arena = static_cast<char*>(memory);
    }
  }
  /// Without a session of the socket: every service by one channel, `token` is the caller's.
  explicit RawClient(std::shared_ptr<grpc::Channel> channel)
      : open(channel),
        admin_channel(channel),
        control(v1::Control::NewStub(open)),
        data(v1::Data::NewStub(open)),
        admin_stub(v1::Admin::NewStub(admin_channel)) {}
  ~RawClient() {
    if (arena != nullptr) ::munmap(arena, arena_bytes);
  }

  static std::shared_ptr<grpc::Channel> Channel(const std::string& socket) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(64 << 20);
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);
    return grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(),
                                     arguments);
  }
  void Prepare(grpc::ClientContext& context) const {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    if (!token.empty()) context.AddMetadata("thermocline-session", token);
  }
  /// client.Call(*client.data, &v1::Data::Stub::Match, request, &response)
  template <typename Stub, typename Request, typename Response>
  grpc::Status Call(Stub& stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) const {
    grpc::ClientContext context;
    Prepare(context);
    return (stub.*method)(&context, request, response);
  }

  RawSession session;
  std::string token;
  std::shared_ptr<grpc::Channel> open, admin_channel;
  std::unique_ptr<v1::Control::Stub> control;
  std::unique_ptr<v1::Data::Stub> data;
  std::unique_ptr<v1::Admin::Stub> admin_stub;
  char* arena = nullptr;
  uint64_t arena_bytes = 0;
};

inline v1::SpaceSpec TestSpace(uint64_t block_bytes, const std::string& model = "test") {
  v1::SpaceSpec spec;
  spec.set_model(model);
  spec.set_kv_dtype("f16");
  spec.set_layers(2);
  spec.set_kv_heads(2);
  spec.set_head_dim(16);
  spec.set_block_tokens(16);
  spec.set_layout("lkht.v1");
  v1::PartSpec* part = spec.add_parts();
  part->set_name("all");
  part->set_block_bytes(block_bytes);
  return spec;
}

/// Token ids of `places` places; those of another seed differ from the first place on.
inline std::string TokensOf(uint32_t places, int32_t seed) {
  std::string bytes;
  for (int32_t i = 0; i < static_cast<int32_t>(places) * 16; ++i) {
    const int32_t id = i * 7 + seed * 1000003;
    bytes.append(reinterpret_cast<const char*>(&id), sizeof id);
  }
  return bytes;
}

/// Every byte of a block tells its seed and depth.
inline char FillOf(int32_t seed, uint32_t depth) {
  return static_cast<char>(1 + (seed * 31 + static_cast<int32_t>(depth) * 7) % 250);
}

inline uint32_t OpenTestSpace(const RawClient& client, const v1::SpaceSpec& spec) {
  v1::OpenSpaceRequest request;
  *request.mutable_spec() = spec;
  v1::OpenSpaceResponse response;
  const auto status =
      client.Call(*client.control, &v1::Control::Stub::OpenSpace, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.space();
}

inline v1::MatchResponse MatchTokens(const RawClient& client, uint32_t space, uint32_t places,
                                     int32_t seed) {
  v1::MatchRequest request;
  request.set_space(space);
  request.mutable_names()->set_tokens(TokensOf(places, seed));
  v1::MatchResponse response;
  const auto status = client.Call(*client.data, &v1::Data::Stub::Match, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

/// Matches, fills what is missing and commits it. Returns the lease, which it keeps.
inline uint64_t PutTokens(const RawClient& client, uint32_t space, uint32_t places, int32_t seed,
                          uint64_t block_bytes) {
  const v1::MatchResponse match = MatchTokens(client, space, places, seed);
  const uint32_t missing = places - match.depth();
  if (missing == 0) return match.lease();
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(missing);
  reserve.set_wait_ms(30'000);
  v1::ReserveResponse slots;
  auto status = client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &slots);
  EXPECT_TRUE(status.ok()) << status.error_message();
  v1::CommitRequest commit;
  commit.set_lease(match.lease());
  commit.mutable_names()->set_tokens(TokensOf(places, seed).substr(match.depth() * 64));
  for (int i = 0; i < slots.offsets_size(); ++i) {
    const uint32_t depth = match.depth() + static_cast<uint32_t>(i);
    std::memset(client.arena + slots.offsets(i), FillOf(seed, depth), block_bytes);
    v1::CommitItem* item = commit.add_items();
    item->set_offset(slots.offsets(i));
    item->set_depth(depth);
  }
  v1::CommitResponse committed;
  status = client.Call(*client.data, &v1::Data::Stub::Commit, commit, &committed);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(committed.depth(), places);
  return match.lease();
}

inline void ReleaseLease(const RawClient& client, uint64_t lease) {
  v1::ReleaseRequest request;
  request.add_leases(lease);
  v1::ReleaseResponse response;
  const auto status = client.Call(*client.data, &v1::Data::Stub::Release, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

/// Loads a lease; the blocks that came.
inline std::vector<v1::Block> LoadLease(const RawClient& client, uint64_t lease) {
  grpc::ClientContext context;
  client.Prepare(context);
  v1::LoadRequest request;
  request.set_lease(lease);
  const auto reader = client.data->Load(&context, request);
  std::vector<v1::Block> blocks;
  for (v1::LoadResponse response; reader->Read(&response);) {
    blocks.insert(blocks.end(), response.blocks().begin(), response.blocks().end());
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  return blocks;
}

inline v1::StatsResponse StatsOf(const RawClient& client) {
  v1::StatsResponse response;
  const auto status =
      client.Call(*client.control, &v1::Control::Stub::Stats, v1::StatsRequest(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

/// Whether every byte of a warm block is what PutTokens wrote.
inline bool HoldsFill(const RawClient& client, const v1::Block& block, int32_t seed) {
  if (block.tier() != v1::TIER_WARM) return false;
  const char fill = FillOf(seed, block.depth());
  for (uint64_t i = 0; i < block.bytes(); ++i) {
    if (client.arena[block.offset() + i] != fill) return false;
  }
  return true;
}

/// With a daemon of its own, which must have ended well.
class DaemonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    daemon_ = std::make_unique<DaemonProcess>(place_);
    ASSERT_TRUE(daemon_->Ready());
  }
  void TearDown() override {
    if (daemon_->running()) {
      EXPECT_EQ(daemon_->Stop(), 0) << daemon_->log();
    }
  }
  DaemonPlace place_;
  std::unique_ptr<DaemonProcess> daemon_;
};

}  // namespace thermocline::testing
