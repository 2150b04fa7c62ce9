// The daemon's services in this process, on a strand that a test keeps busy: what is given back
// meanwhile is not lost, whether its caller waits or not. And what can be counted in here only.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <sstream>

#include "base/executor.h"
#include "client/client.h"
#include "daemon/grpc_server.h"
#include "daemon/session_server.h"
#include "tests/client/blocks.h"
#include "tests/daemon/remote_client.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using testing::DaemonPlace;
using testing::Eventually;
using ::testing::HasSubstr;
using testing::OpenTestSpace;
using testing::RawClient;
using testing::StatsOf;

constexpr uint64_t kBlockBytes = 64 * 1024;
constexpr uint32_t kLeasesASession = 63;
constexpr uint32_t kMaxSpaces = 8;

class BusyStrandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto claim = ClaimSocketPath(place_.socket);
    ASSERT_TRUE(claim.ok()) << claim.status();
    std::filesystem::create_directories(place_.data_dir);
    Tenant::Options options{.name = "default"};
    options.stack.arena_path = place_.arena_dir + "/default.arena";
    options.stack.data_dir = place_.data_dir;
    options.stack.warm_capacity_bytes = 16 << 20;
    options.stack.max_spaces = kMaxSpaces;
    options.stack.write_deadline = milliseconds(3000);
    auto tenant = Tenant::Open(std::move(options), {strands_, disk_, reads_, workers_, metrics_},
                               TierStack::Open);
    ASSERT_TRUE(tenant.ok()) << tenant.status();
    tenant_ = *std::move(tenant);
    const std::string grpc_socket = place_.socket + ".grpc",
                      admin_socket = place_.socket + ".admin";
    auto grpc = GrpcServer::Start({.socket = grpc_socket, .admin_socket = admin_socket}, registry_,
                                  {tenant_.get()}, workers_, metrics_);
    ASSERT_TRUE(grpc.ok()) << grpc.status();
    grpc_ = *std::move(grpc);
    SessionServerOptions sessions{.homes = {{.host = tenant_.get(),
                                             .tenant = tenant_.get(),
                                             .epoch = tenant_->epoch(),
                                             .arena_fd = tenant_->arena_fd(),
                                             .arena_bytes = tenant_->arena_bytes(),
                                             .catalog_fd = tenant_->catalog_fd()}},
                                  .home_of = [](const PeerUser&) { return size_t{0}; },
                                  .grpc_socket = grpc_socket,
                                  .admin_socket = admin_socket};
    auto server = SessionServer::Start(sessions, *std::move(claim), registry_);
    ASSERT_TRUE(server.ok()) << server.status();
    sessions_ = *std::move(server);
  }
  void TearDown() override {
    GoOn();
    sessions_->Stop("the test is over", false);
    grpc_->BeginStop();
    std::promise<absl::Status> down;
    tenant_->Shutdown(false, [&](absl::Status status) { down.set_value(std::move(status)); });
    EXPECT_TRUE(down.get_future().get().ok());
    workers_.Stop();
    EXPECT_TRUE(tenant_->Close(milliseconds(10'000)));
    grpc_.reset();
  }

  /// From now on the strand does nothing, until GoOn().
  void KeepBusy() {
    go_on_.emplace();
    std::promise<void> busy;
    tenant_->PostCompletion([&busy, go_on = go_on_->get_future().share()](TenantView&) {
      busy.set_value();
      go_on.wait();
    });
    busy.get_future().wait();
  }
  /// Nor is more work taken.
  void FillQueue() {
    while (tenant_->Post([](TenantView&) {})) continue;
  }
  void GoOn() {
    if (go_on_) go_on_->set_value();
    go_on_.reset();
  }
  /// From now on what is posted to the workers waits, until `go_on` is set.
  void KeepWorkersBusy(std::promise<void>& go_on) {
    ASSERT_TRUE(workers_.Post([done = go_on.get_future().share()] { done.wait(); }));
  }
  /// Whether a task of a call comes to wait behind it.
  bool WaitsForWorkers() {
    return Eventually([&] { return workers_.queued() == 2; });
  }
  double Metric(const std::string& series) {
    if (const auto stats = tenant_->Stats(milliseconds(60'000))) metrics_.Update(*stats, {});
    std::istringstream lines(metrics_.registry().Expose());
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind(series + " ", 0) == 0) return std::stod(line.substr(series.size() + 1));
    }
    return -1;
  }
  std::unique_ptr<Client> Connect() {
    auto client = Client::Connect({.socket_path = place_.socket, .timeout = milliseconds(20'000)});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  /// As many leases as a session may hold.
  /// As many as there are without a message, and then those that take one.
  std::vector<Lease> AllLeases(const Space& space) {
    std::vector<Lease> leases;
    for (uint32_t i = 0; i < kControlPins / 2 + kLeasesASession; ++i) {
      auto lease = space.Match(Prompt(1, 1));
      EXPECT_TRUE(lease.ok()) << lease.status();
      if (lease.ok()) leases.push_back(*std::move(lease));
    }
    return leases;
  }

  DaemonPlace place_;
  DaemonMetrics metrics_{"test"};
  SessionRegistry registry_;
  Executor strands_{{.name = "tc-strand", .queue_limit = 64}};
  Executor disk_{{.name = "tc-disk"}};
  Executor reads_{{.name = "tc-read"}};
  Executor workers_{{.name = "tc-worker"}};
  std::unique_ptr<Tenant> tenant_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<SessionServer> sessions_;
  std::optional<std::promise<void>> go_on_;
};

TEST_F(BusyStrandTest, ReleasesThatNobodyWaitsForAnyMoreAreDone) {
  const auto client = Connect();
  const Space space = *client->OpenSpace(TestSpace());
  std::vector<Lease> leases = AllLeases(space);
  KeepBusy();
  leases.clear();
  std::this_thread::sleep_for(milliseconds(1500));  // longer than the client waits for an answer
  GoOn();
  const RawClient other(place_);
  EXPECT_TRUE(Eventually([&] { return StatsOf(other).leases() == 0; }));
  EXPECT_TRUE(space.Match(Prompt(1, 1)).ok());
}

TEST_F(BusyStrandTest, ReleasesAndAbortsThatWereRefusedAreSentAgain) {
  const auto client = Connect();
  const Space space = *client->OpenSpace(TestSpace());
  std::vector<Lease> leases = AllLeases(space);
  std::vector<Reservation> slots = *space.Reserve(8);
  ASSERT_EQ(slots.size(), 8u);
  KeepBusy();
  FillQueue();
  leases.clear();
  slots.clear();
  std::this_thread::sleep_for(milliseconds(300));
  GoOn();
  EXPECT_TRUE(space.Match(Prompt(1, 1)).ok()) << "a match gives back first what is in its way";
  const RawClient other(place_);
  EXPECT_TRUE(Eventually(
      [&] { return StatsOf(other).leases() == 0 && StatsOf(other).reservations() == 0; }));
}

/// A space's tokens are those of its places; every block of a hit counts for all that it spans.
TEST_F(BusyStrandTest, AWholeHitCountsAsManyTokensAsWereAskedFor) {
  const auto client = Connect();
  SpaceSpec by_tokens = TestSpace();
  by_tokens.block_tokens = 64;
  SpaceSpec by_keys = TestSpace(kBlockBytes, "opaque");
  by_keys.block_tokens = 32;
  by_keys.opaque_names = true;
  by_keys.key_bytes = 4;
  const std::vector<int32_t> tokens = Prompt(1, 8);
  const std::vector<std::string> keys = {"aaaa", "bbbb", "cccc", "dddd"};
  double asked = 0;
  for (const auto& [spec, names] :
       {std::pair(by_tokens, NamesView(tokens)), std::pair(by_keys, NamesView(keys))}) {
    const Space space = *client->OpenSpace(spec);
    auto slots = space.Reserve(2);
    ASSERT_TRUE(slots.ok()) << slots.status();
    ASSERT_EQ(slots->size(), 2u);
    auto lease = space.Match({});
    ASSERT_TRUE(lease.ok()) << lease.status();
    const absl::Status put = lease->Commit(names, *std::move(slots));
    ASSERT_TRUE(put.ok()) << put;
    EXPECT_EQ(space.Match(names)->depth(), names.places());
    asked += names.places() * 16;
    EXPECT_EQ(Metric("thermocline_lookup_requested_tokens_total"), asked);
    EXPECT_EQ(Metric("thermocline_lookup_hit_tokens_total{tier=\"warm\"}"), asked);
  }
}

TEST_F(BusyStrandTest, ACommitWhoseCallerHasGoneGivesItsSlotsBack) {
  const RawClient client(place_);
  const RawClient stranger(client.open);  // is refused at once, and after all that came before
  const auto pass_by = [&] {
    v1::MatchResponse refused;
    EXPECT_EQ(stranger.Call(*stranger.data, &v1::Data::Stub::Match, v1::MatchRequest(), &refused)
                  .error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
  };
  const uint32_t space = OpenTestSpace(client, testing::TestSpace(kBlockBytes));
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(4);
  // The daemon may hear of it too late, on a busy machine; but not always.
  int32_t seed = 0;
  EXPECT_TRUE(Eventually([&] {
    const uint64_t places = StatsOf(client).places();
    v1::ReserveResponse slots;
    EXPECT_TRUE(client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &slots).ok());
    v1::CommitRequest commit;
    commit.set_lease(testing::MatchTokens(client, space, 4, ++seed).lease());
    commit.mutable_names()->set_tokens(testing::TokensOf(4, seed));
    for (int i = 0; i < slots.offsets_size(); ++i) {
      commit.add_items()->set_offset(slots.offsets(i));
      commit.mutable_items(i)->set_depth(static_cast<uint32_t>(i));
    }
    EXPECT_EQ(StatsOf(client).reservations(), 4u);
    KeepBusy();
    grpc::ClientContext context;
    client.Prepare(context);
    v1::CommitResponse committed;
    std::promise<grpc::Status> answer;
    client.data->async()->Commit(&context, &commit, &committed,
                                 [&](grpc::Status status) { answer.set_value(status); });
    pass_by();
    context.TryCancel();
    EXPECT_EQ(answer.get_future().get().error_code(), grpc::StatusCode::CANCELLED);
    pass_by();
    std::this_thread::sleep_for(milliseconds(300));
    GoOn();
    EXPECT_TRUE(Eventually([&] { return StatsOf(client).reservations() == 0; }));
    return StatsOf(client).places() == places;
  })) << "it was published each time";
}

TEST_F(BusyStrandTest, ARemoteCommitThatIsRefusedUnseenGivesItsSlotsBack) {
  const auto client = Client::Connect({.remote = {.address = "unix://" + place_.socket + ".grpc"}});
  ASSERT_TRUE(client.ok()) << client.status();
  const Space space = *(*client)->OpenSpace(TestSpace());
  std::vector<Reservation> slots = *space.Reserve(4);
  ASSERT_EQ(slots.size(), 4u);
  Lease lease = *space.Match(Prompt(1, 4));
  std::promise<void> go_on;
  KeepWorkersBusy(go_on);
  auto committed = std::async(std::launch::async, [&] {
    return lease.Commit(Prompt(1, 4), std::move(slots), milliseconds(60'000));
  });
  EXPECT_TRUE(WaitsForWorkers()) << "its bytes have come";
  KeepBusy();
  FillQueue();
  go_on.set_value();
  const absl::Status status = committed.get();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  GoOn();
  const RawClient other(place_);
  EXPECT_TRUE(Eventually([&] { return StatsOf(other).reservations() == 0; }));
}

TEST_F(BusyStrandTest, ARemoteSessionSurvivesWhatTheDaemonCannotDoJustThen) {
  const auto client = Client::Connect({.remote = {.address = "unix://" + place_.socket + ".grpc"}});
  ASSERT_TRUE(client.ok()) << client.status();
  const Space space = *(*client)->OpenSpace(TestSpace());
  Lease lease = *space.Match(Prompt(1, 1));
  const absl::Status put = lease.Commit(Prompt(1, 1), *space.Reserve(1));
  ASSERT_TRUE(put.ok()) << put;
  std::promise<void> go_on;
  ASSERT_TRUE(disk_.Post([done = go_on.get_future().share()] { done.wait(); }));
  const absl::Status pinned =
      space.Pin(Prompt(1, 1), milliseconds(60'000), BlockTier::kNone, milliseconds(60'000))
          .status();
  go_on.set_value();
  EXPECT_TRUE(absl::IsUnavailable(pinned)) << pinned;
  EXPECT_TRUE((*client)->Connected());
  EXPECT_TRUE(lease.StillValid());
  EXPECT_TRUE(Eventually([&] { return space.Pin(Prompt(1, 1), milliseconds(60'000)).ok(); }));
}

TEST_F(BusyStrandTest, WhoEndsRightAfterAPutLeavesNoSlots) {
  const RawClient other(place_);
  {
    const auto client = Connect();
    const Space space = *client->OpenSpace(TestSpace());
    const std::vector<Reservation> slots = *space.Reserve(8);
    EXPECT_GT(StatsOf(other).reservations(), slots.size()) << "it has some ahead";
  }
  EXPECT_TRUE(Eventually([&] { return StatsOf(other).sessions() == 1; }));
  EXPECT_EQ(StatsOf(other).reservations(), 0u);
  EXPECT_EQ(Metric("thermocline_quarantined_slots"), 0);
}

TEST_F(BusyStrandTest, ASpaceThatGaveWayIsOpenedAgain) {
  const auto client = Connect();
  const auto of = [&](size_t i) {
    SpaceSpec spec = TestSpace();
    spec.salt = std::to_string(i);
    return *client->OpenSpace(spec);
  };
  const Space first = of(0);
  for (size_t i = 1; i <= kMaxSpaces; ++i) (void)of(i);
  auto slots = first.Reserve(1);
  ASSERT_TRUE(slots.ok()) << slots.status();
  Lease lease = *first.Match({});
  const absl::Status put = lease.Commit(Prompt(1, 1), *std::move(slots));
  EXPECT_TRUE(put.ok()) << put;
  EXPECT_EQ(first.Match(Prompt(1, 1))->depth(), 1u);
}

TEST_F(BusyStrandTest, ASlotThatIsBeingFilledIsTakenBackAfterwards) {
  const testing::RemoteClient client(RawClient::Channel(place_.socket + ".grpc"), "");
  ASSERT_TRUE(client.welcomed());
  v1::ReserveRequest reserve;
  reserve.set_space(OpenTestSpace(client, testing::TestSpace(kBlockBytes)));
  reserve.set_count(2);
  reserve.set_grant(1);
  v1::ReserveResponse slots;
  ASSERT_TRUE(client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &slots).ok());
  std::promise<void> go_on;
  KeepWorkersBusy(go_on);
  auto written = std::async(std::launch::async, [&] {
    return WritePieces(client, testing::PiecesOf(slots.offsets(0), std::string(kBlockBytes, 'x')));
  });
  EXPECT_TRUE(WaitsForWorkers());
  v1::AbortRequest abort;
  abort.add_grants(1);
  v1::AbortResponse aborted;
  EXPECT_EQ(client.Call(*client.data, &v1::Data::Stub::Abort, abort, &aborted).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED)
      << "so that the client sends it again";
  go_on.set_value();
  EXPECT_TRUE(written.get().ok());
  EXPECT_TRUE(client.Call(*client.data, &v1::Data::Stub::Abort, abort, &aborted).ok());
  EXPECT_EQ(StatsOf(client).reservations(), 0u);
}

}  // namespace
}  // namespace thermocline
