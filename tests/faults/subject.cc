#include "tests/faults/subject.h"

#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/file_util.h"
#include "base/units.h"
#include "tests/byte_space.h"
#include "tests/crash/contents.h"

namespace thermocline::faults {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::string_view kMark = "thermocline-fault-trial-value===";
constexpr size_t kFlipAt = 12'345;  // behind the mark
constexpr milliseconds kSlotPatience{900};
constexpr milliseconds kLook{10};
constexpr int kStartLooks = 3000;
constexpr int kFlushes = 500;
constexpr seconds kExitPatience{60};
constexpr size_t kKeyBytes = 16;
constexpr milliseconds kForGood{std::chrono::hours(1)};

crash::DaemonDirectories MakeDirectories() {
  char root[] = "/tmp/tc-fault-XXXXXX";
  char arena[] = "/dev/shm/tc-fault-XXXXXX";
  TC_CHECK(::mkdtemp(root) != nullptr);
  TC_CHECK(::mkdtemp(arena) != nullptr);
  const std::string data = std::string(root) + "/data";
  std::filesystem::create_directory(data);
  return {.root = root, .arena = arena, .data = data};
}

std::vector<std::string> Name(int key) {
  std::string name = std::to_string(key);
  name.resize(kKeyBytes, '.');
  return {name};
}

void Fill(std::span<std::byte> bytes, int key) {
  std::memcpy(bytes.data(), kMark.data(), kMark.size());
  crash::FillLegal(bytes.subspan(kMark.size()), static_cast<uint64_t>(key));
}

bool IsRight(std::span<const std::byte> bytes, int key) {
  return std::memcmp(bytes.data(), kMark.data(), kMark.size()) == 0 &&
         !crash::FirstWrongByte(bytes.subspan(kMark.size()), static_cast<uint64_t>(key));
}

int FlipBelow(const std::string& directory) {
  int flips = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    const std::string content((std::istreambuf_iterator<char>(file)), {});
    for (size_t at = content.find(kMark); at != std::string::npos;
         at = content.find(kMark, at + 1)) {
      const size_t victim = at + kFlipAt;
      if (victim >= content.size()) break;
      file.clear();
      file.seekp(static_cast<std::streamoff>(victim));
      file.put(static_cast<char>(content[victim] ^ 0x10));
      ++flips;
    }
  }
  return flips;
}

}  // namespace

void Tally::Add(Got got) {
  ++(got == Got::kRight ? right : got == Got::kWrong ? wrong : got == Got::kMiss ? misses : errors);
}

std::string Tally::ToString() const {
  std::string text;
  const auto add = [&](int count, const char* what) {
    if (count > 0) text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + what;
  };
  add(right, "right");
  add(wrong, "wrong");
  add(misses, "missing");
  add(errors, "refused");
  return text.empty() ? "none" : text;
}

Caller::Caller(const std::string& socket, bool verify_always, milliseconds timeout) {
  auto client = Client::Connect({.socket_path = socket,
                                 .client_name = "faults",
                                 .timeout = timeout,
                                 .verify_always = verify_always});
  if (!client.ok()) return;
  client_ = *std::move(client);
  auto space = client_->OpenSpace(ByteSpace("faults", MiB, kKeyBytes));
  if (space.ok()) space_ = std::make_unique<Space>(*std::move(space));
}

absl::Status Caller::Put(int key) {
  if (space_ == nullptr) return absl::UnavailableError("no session");
  TC_ASSIGN_OR_RETURN(Lease lease, space_->Match(Name(key)));
  if (lease.depth() == 1) return absl::AlreadyExistsError("the key is taken");
  TC_ASSIGN_OR_RETURN(auto slots, space_->Reserve(1, 0, kSlotPatience));
  Fill(slots[0].bytes(), key);
  return lease.Commit(Name(key), std::move(slots));
}

Got Caller::Get(int key) {
  if (space_ == nullptr) return Got::kError;
  auto lease = space_->Match(Name(key));
  if (!lease.ok()) return Got::kError;
  if (lease->depth() == 0) return Got::kMiss;
  const auto loaded = lease->Load();
  if (!loaded.ok()) return Got::kError;
  const std::span<const std::byte> view = lease->View(0);
  if (view.empty()) return Got::kMiss;
  const bool right = IsRight(view, key);
  if (!lease->StillValid()) return Got::kMiss;
  return right ? Got::kRight : Got::kWrong;
}

absl::Status Caller::PinWarm(int key) {
  if (space_ == nullptr) return absl::UnavailableError("no session");
  return space_->Pin(Name(key), kForGood, BlockTier::kWarm).status();
}

absl::StatusOr<DaemonStats> Caller::Stats() {
  if (client_ == nullptr) return absl::UnavailableError("no session");
  return client_->Stats();
}

Subject::Subject(const SubjectOptions& options)
    : options_(options),
      directories_(MakeDirectories()),
      socket_(directories_.socket()),
      daemon_(options.binaries + "/thermoclined", directories_) {
  if (options_.prepare) options_.prepare(directories_);
  Start();
}

Subject::~Subject() {
  caller_.reset();
  if (daemon_.running()) {
    daemon_.Signal(SIGCONT);
    Kill();
  }
  if (options_.release) options_.release();
  std::error_code ignored;
  std::filesystem::remove_all(directories_.root, ignored);
  std::filesystem::remove_all(directories_.arena, ignored);
}

void Subject::Start() {
  const auto ended = TryStart();
  if (ended) std::fprintf(stderr, "the daemon does not start: %s\n", daemon_.LastLine().c_str());
  TC_CHECK(!ended);
}

std::optional<int> Subject::TryStart() {
  std::vector<std::string> before = options_.before;
  for (std::string& word : before) {
    const size_t at = word.find("DATA");
    if (at != std::string::npos) word.replace(at, 4, directories_.data);
  }
  daemon_.Start({.warm_capacity = options_.warm_capacity,
                 .cold_capacity = options_.cold_capacity,
                 .durability = options_.durability,
                 .http = options_.http ? "127.0.0.1:0" : "off",
                 .more = options_.more,
                 .before = before});
  for (int i = 0; i < kStartLooks; ++i) {
    if (const auto ended = daemon_.Ended(milliseconds(0))) return ended;
    Reconnect();
    if (caller_->is_connected()) return std::nullopt;
    std::this_thread::sleep_for(kLook);
  }
  TC_CHECK(caller_->is_connected());
  return std::nullopt;
}

void Subject::Reconnect(bool verify_always, milliseconds timeout) {
  caller_.reset();
  caller_ = std::make_unique<Caller>(socket_, verify_always, timeout);
}

bool Subject::Lives() { return daemon_.running() && !daemon_.Ended(milliseconds(0)); }

uint16_t Subject::HttpPort() const {
  const std::string address = ReadFile(socket_ + ".http", 256).value_or("");
  return static_cast<uint16_t>(std::strtoul(address.c_str() + address.rfind(':') + 1, nullptr, 10));
}

void Subject::Kill() {
  daemon_.Signal(SIGKILL);
  TC_CHECK(daemon_.Ended(kExitPatience).has_value());
}

void Subject::Shutdown() {
  daemon_.Signal(SIGTERM);
  TC_CHECK(daemon_.Ended(kExitPatience).has_value());
}

Tally Subject::GetAll(int keys) {
  Tally tally;
  for (int key = 0; key < keys; ++key) tally.Add(Get(key));
  return tally;
}

absl::Status Subject::Flush(uint64_t pinned) {
  if (options_.other_user) return FlushAsItsUser();
  TC_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect({.socket_path = socket_}));
  for (int i = 0; i < kFlushes; ++i) {
    TC_ASSIGN_OR_RETURN(const FlushResult flushed, admin->Flush(BlockTier::kWarm, seconds(60)));
    if (flushed.kept <= pinned) return absl::OkStatus();
    std::this_thread::sleep_for(kLook);  // leases end in batches
  }
  return absl::InternalError("blocks are still leased");
}

absl::Status Subject::FlushAsItsUser() {
  std::vector<std::string> command = options_.before;
  command.insert(command.end(), {options_.binaries + "/thermoctl", "--socket", socket_, "flush",
                                 "--tier", "warm"});
  for (int i = 0; i < kFlushes; ++i) {
    const auto status = crash::WaitFor(crash::Spawn(command, directories_.log()), kExitPatience);
    const auto stats = caller_->Stats();
    if (!status || *status != 0 || !stats.ok()) return absl::InternalError("thermoctl flush");
    for (const TierUse& use : stats->tiers) {
      if (use.tier == BlockTier::kWarm && use.blocks == 0) return absl::OkStatus();
    }
    std::this_thread::sleep_for(kLook);
  }
  return absl::InternalError("blocks are still leased");
}

uint64_t Subject::CorruptBlocks() {
  const auto stats = caller_->Stats();
  return stats.ok() ? stats->corrupt_blocks : 0;
}

int Subject::FlipInMemory() { return FlipBelow(directories_.arena); }

int Subject::FlipOnDisk() { return FlipBelow(directories_.data); }

void Subject::CutLargestFile() {
  std::filesystem::path largest;
  uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directories_.data)) {
    if (!entry.is_regular_file() || entry.file_size() <= bytes) continue;
    largest = entry.path();
    bytes = entry.file_size();
  }
  TC_CHECK(bytes > 0);
  std::filesystem::resize_file(largest, bytes / 2);
}

}  // namespace thermocline::faults
