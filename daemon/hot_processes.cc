#include "daemon/hot_processes.h"

#include <sys/signalfd.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/file_util.h"
#include "base/log.h"
#include "base/units.h"
#include "catalog/arena.h"
#include "daemon/service_notify.h"
#include "hashing/checksum.h"
#include "tiers/device_mover.h"
#include "tiers/device_mover_lock.h"
#include "tiers/device_tier.h"

namespace thermocline {
namespace {

constexpr std::chrono::milliseconds kCustodianPatience{5000};
constexpr std::chrono::milliseconds kFormerMoverPatience{5000};

constexpr size_t kMoverArguments = 3;
static_assert(kMaxTenants <= CustodianClient::kMaxKeptPools);

std::vector<std::string> MoverCommand(const LogOptions& log) {
  return {"/proc/self/exe", "--mover", std::to_string(static_cast<int>(log.level)),
          std::to_string(log.json ? 1 : 0), log.file};
}

bool IsSocket(int fd) {
  struct stat found {};
  return ::fstat(fd, &found) == 0 && S_ISSOCK(found.st_mode);
}

std::string LockPathIn(const std::string& directory) { return directory + "/mover.lock"; }

/// Of an earlier daemon that had a hot tier.
absl::Status EndFormerMover(const std::string& lock_path) {
  std::error_code error;
  if (!std::filesystem::exists(lock_path, error)) return absl::OkStatus();
  TC_RETURN_IF_ERROR(LockMover(lock_path, kFormerMoverPatience).status());
  std::filesystem::remove(lock_path, error);
  return absl::OkStatus();
}

/// Likewise, where the custodian lives still.
void GiveMemoryBack(const std::string& vram_socket) {
  std::error_code error;
  if (!std::filesystem::exists(vram_socket, error)) return;
  const auto custodian = CustodianClient::Connect(vram_socket, kCustodianPatience);
  if (custodian.ok()) (*custodian)->Keep({}).IgnoreError();
}

/// What a tenant's memory is called: by the directory of its headers, whose slots no others are.
absl::StatusOr<std::string> PoolOf(const std::string& directory, const std::string& tenant) {
  struct stat found {};
  if (::stat(directory.c_str(), &found) != 0) return ErrnoStatus(errno, "stat " + directory);
  const std::array<uint64_t, 2> identity = {found.st_dev, found.st_ino};
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx",
                static_cast<unsigned long long>(Checksum(std::as_bytes(std::span(identity)))));
  return text.data() + ("." + tenant);
}

}  // namespace

absl::Status RunCustodian(const DaemonOptions& options, const sigset_t& signals) {
  if (options.hot_capacity_bytes == 0) {
    return absl::InvalidArgumentError(
        "there is no device memory to keep: set hot_capacity, for the daemon too");
  }
  const UniqueFd stop(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!stop) return ErrnoStatus(errno, "signalfd");
  const std::string directory = std::filesystem::path(options.vram_socket).parent_path().string();
  if (!directory.empty()) {
    TC_RETURN_IF_ERROR(Annotate(MakeDirectories(directory, 0700), "directory of --vram-socket"));
  }
  TC_ASSIGN_OR_RETURN(const auto custodian,
                      DeviceCustodian::Open({.socket_path = options.vram_socket,
                                             .capacity_bytes = options.hot_capacity_bytes,
                                             .chunk_bytes = kDefaultChunkBytes,
                                             .device = options.hot_device}));
  LogEvent(LogLevel::kInfo, "custodian_ready",
           {{"socket", options.vram_socket},
            {"device", options.hot_device},
            {"capacity", FormatBytes(options.hot_capacity_bytes)}});
  NotifyReady("keeps device memory at " + options.vram_socket);
  return custodian->Serve(stop.get());
}

absl::StatusOr<int> RunMover(std::span<char* const> arguments) {
  if (arguments.size() != kMoverArguments || !IsSocket(MoverProcess::kSocket)) {
    return absl::InvalidArgumentError("--mover is for the daemon alone, which starts its mover");
  }
  SetUpLog({.level = static_cast<LogLevel>(std::atoi(arguments[0])),
            .json = std::atoi(arguments[1]) != 0,
            .file = arguments[2]})
      .IgnoreError();  // then it goes to standard error
  return RunDeviceMover(MoverProcess::kSocket, MoverProcess::kLock);
}

absl::Status HotProcesses::AddTo(StackOptions& stack) {
  const std::string directory =
      std::filesystem::path(stack.arena_metadata_path).parent_path().string();
  MutexLock lock(mutex_);
  const uint32_t number = tenants_++;
  if (number == 0) TC_RETURN_IF_ERROR(EndFormerMover(LockPathIn(directory)));
  if (options_.hot_capacity_bytes == 0) {
    if (number == 0) GiveMemoryBack(options_.vram_socket);
    return absl::OkStatus();
  }
  if (number == 0) connected_ = Connect(directory);
  TC_ASSIGN_OR_RETURN(std::string pool, PoolOf(directory, stack.name));
  const uint64_t capacity = options_.hot_capacity_bytes / options_.tenants.size();
  stack.hot = [this](Task task) { copies_.PostCompletion(std::move(task)); };
  stack.open_hot = [pool = std::move(pool), path = stack.arena_metadata_path + ".hot", capacity,
                    number, connected = connected_, custodian = custodian_, mover = mover_](
                       const Arena& arena) -> absl::StatusOr<std::unique_ptr<DeviceTier>> {
    TC_RETURN_IF_ERROR(connected);
    TC_ASSIGN_OR_RETURN(std::unique_ptr<MovedDeviceMemory> memory,
                        MovedDeviceMemory::Open(custodian, mover, pool, number));
    memory->UseHost({arena.data(0), arena.mapped_bytes()}, arena.fd());
    return DeviceTier::Open({.metadata_path = path,
                             .capacity_bytes = capacity,
                             .chunk_bytes = custodian->view().chunk_bytes,
                             .memory = std::move(memory)});
  };
  return absl::OkStatus();
}

absl::Status HotProcesses::Connect(const std::string& directory) {
  std::vector<std::string> pools;
  for (const TenantOptions& tenant : options_.tenants) {
    TC_ASSIGN_OR_RETURN(pools.emplace_back(), PoolOf(directory, tenant.name));
  }
  auto custodian = CustodianClient::Connect(options_.vram_socket, kCustodianPatience);
  if (absl::IsUnavailable(custodian.status())) {
    return absl::UnavailableError("no custodian answers at " + options_.vram_socket +
                                  "; start thermoclined --vram before the daemon");
  }
  TC_RETURN_IF_ERROR(custodian.status());
  TC_RETURN_IF_ERROR((*custodian)->Keep(pools));
  custodian_ = *std::move(custodian);
  TC_ASSIGN_OR_RETURN(mover_, MoverProcess::Open({.command = MoverCommand(options_.log),
                                                  .device = custodian_->view().device,
                                                  .chunk_bytes = custodian_->view().chunk_bytes,
                                                  .lock_path = LockPathIn(directory),
                                                  .former_patience = kFormerMoverPatience}));
  return absl::OkStatus();
}

}  // namespace thermocline
