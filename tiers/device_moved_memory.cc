#include "tiers/device_moved_memory.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/file_util.h"
#include "base/log.h"
#include "base/process.h"
#include "base/units.h"
#include "tiers/device_mover_lock.h"

namespace thermocline {
namespace {

constexpr std::chrono::milliseconds kReapPatience{10000};  // between two log lines

/// The same, by a number that no descriptor of the mover's has.
absl::StatusOr<UniqueFd> MoveAside(UniqueFd fd) {
  UniqueFd aside(::fcntl(fd.get(), F_DUPFD_CLOEXEC, MoverProcess::kLock + 1));
  if (!aside) return ErrnoStatus(errno, "duplicate a descriptor for the mover");
  return aside;
}

/// Of a child that ends. What it copies is under way until it has ended, so that there is nothing
/// else to do for one that the kernel cannot end, but to say so.
void Reap(pid_t pid) {
  if (const auto process = OpenPidFd(pid); process.ok()) {
    while (!WaitForExit(*process, kReapPatience)) {
      LogEvent(LogLevel::kError, "mover_does_not_end", {{"pid", pid}});
    }
  }
  ::waitpid(pid, nullptr, 0);
}

}  // namespace

absl::StatusOr<std::shared_ptr<MoverProcess>> MoverProcess::Open(Options options) {
  TC_ASSIGN_OR_RETURN(UniqueFd lock, LockMover(options.lock_path, options.former_patience));
  TC_ASSIGN_OR_RETURN(lock, MoveAside(std::move(lock)));
  return std::shared_ptr<MoverProcess>(new MoverProcess(std::move(options), std::move(lock)));
}

MoverProcess::~MoverProcess() {
  MutexLock lock(mutex_);
  if (pid_ == 0) return;
  socket_.Reset();  // on which it ends
  const auto process = OpenPidFd(pid_);
  if (!process.ok() || !WaitForExit(*process, options_.end_patience)) ::kill(pid_, SIGKILL);
  Reap(pid_);
}

absl::Status MoverProcess::Call(uint64_t& generation,
                                const std::function<absl::Status(const CallMover&)>& tell,
                                const MoverRequest& request,
                                std::span<const MoverTransfer> transfers, int fd) {
  MutexLock lock(mutex_);
  TC_RETURN_IF_ERROR(EnsureRunning());
  if (generation != starts_) {
    TC_RETURN_IF_ERROR(
        tell([this](const MoverRequest& told, std::span<const MoverTransfer> with, int descriptor)
                 TC_NO_THREAD_SAFETY_ANALYSIS { return CallOnce(told, with, descriptor); }));
    generation = starts_;
  }
  return CallOnce(request, transfers, fd);
}

absl::Status MoverProcess::EnsureRuns() {
  MutexLock lock(mutex_);
  return EnsureRunning();
}

absl::Status MoverProcess::EnsureRunning() {
  if (pid_ != 0) return absl::OkStatus();
  const SteadyTime now = std::chrono::steady_clock::now();
  if (now < not_before_) {
    return absl::UnavailableError("the mover has ended (" + why_ended_ + ") and is started again");
  }
  absl::Status status = Start();
  if (status.ok()) {
    status = CallOnce(
        {.verb = MoverVerb::kHello, .chunk_bytes = options_.chunk_bytes, .device = options_.device},
        {}, -1);
    if (!status.ok() && pid_ != 0) End(std::string(status.message()));
  }
  return status;
}

absl::Status MoverProcess::Start() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus(errno, "socketpair");
  }
  socket_.Reset(ends[0]);
  TC_ASSIGN_OR_RETURN(const UniqueFd theirs, MoveAside(UniqueFd(ends[1])));
  SetPatience(socket_.get(), options_.patience);
  std::vector<std::string> words = options_.command;
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), kSocket);
  ::posix_spawn_file_actions_adddup2(&actions, lock_.get(), kLock);
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    End("could not be started");
    return ErrnoStatus(error, "start the mover, " + words[0]);
  }
  ++starts_;
  pid_ = pid;
  LogEvent(LogLevel::kInfo, "mover_started", {{"pid", pid}, {"start", starts()}});
  return absl::OkStatus();
}

absl::Status MoverProcess::CallOnce(const MoverRequest& request,
                                    std::span<const MoverTransfer> transfers, int fd) {
  if (pid_ == 0) return absl::UnavailableError("the mover has ended (" + why_ended_ + ")");
  std::vector<std::byte> packet(sizeof request + transfers.size_bytes());
  std::memcpy(packet.data(), &request, sizeof request);
  const auto behind = std::as_bytes(transfers);
  std::copy(behind.begin(), behind.end(), packet.begin() + sizeof request);
  WireStatus reply;
  absl::Status status = SendPacket(socket_.get(), packet, fd);
  std::string why(status.message());
  if (status.ok()) {
    UniqueFd none;
    const auto got =
        ReceivePacket(socket_.get(), std::as_writable_bytes(std::span(&reply, 1)), none);
    if (got.ok() && *got == sizeof reply) {
      status = reply.Get();
      if (reply.sticky == 0) {
        const bool copies =
            request.verb == MoverVerb::kCopyIn || request.verb == MoverVerb::kCopyOut;
        if (copies && status.ok()) pause_ = std::chrono::milliseconds(0);  // it is of use again
        return status;
      }
      why = std::string(status.message());
    } else {
      why = got.ok() ? "it was killed" : "it does not answer";
    }
  }
  End(why);
  return absl::UnavailableError("the mover has ended: " + why);
}

// Only when the process has gone, nothing of its copies is under way any more.
void MoverProcess::End(const std::string& why) {
  socket_.Reset();
  if (pid_ != 0) {
    ::kill(pid_, SIGKILL);
    Reap(pid_);
    pid_ = 0;
  }
  pause_ = std::clamp(pause_ * 2, options_.least_pause, options_.most_pause);
  not_before_ = std::chrono::steady_clock::now() + pause_;
  why_ended_ = why;
  LogEvent(LogLevel::kWarning, "mover_ended", {{"cause", why}, {"pause_ms", pause_.count()}});
}

absl::StatusOr<std::unique_ptr<MovedDeviceMemory>> MovedDeviceMemory::Open(
    std::shared_ptr<CustodianClient> custodian, std::shared_ptr<MoverProcess> mover,
    std::string pool, uint32_t number) {
  TC_ASSIGN_OR_RETURN(const auto chunks, custodian->Chunks(pool));
  TC_ASSIGN_OR_RETURN(UniqueFd staging, MakeSealedMemory("staging of the mover", kStagingBytes));
  void* const data = ::mmap(nullptr, kStagingBytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_POPULATE, staging.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus(errno, "map the staging of the mover");
  std::unique_ptr<MovedDeviceMemory> memory(
      new MovedDeviceMemory(std::move(custodian), std::move(mover), std::move(pool), number));
  memory->staging_fd_ = std::move(staging);
  memory->staging_ = {static_cast<std::byte*>(data), kStagingBytes};
  MutexLock lock(memory->mutex_);
  memory->chunks_ = chunks;
  return memory;
}

MovedDeviceMemory::MovedDeviceMemory(std::shared_ptr<CustodianClient> custodian,
                                     std::shared_ptr<MoverProcess> mover, std::string pool,
                                     uint32_t number)
    : custodian_(std::move(custodian)),
      mover_(std::move(mover)),
      pool_(std::move(pool)),
      number_(number) {}

MovedDeviceMemory::~MovedDeviceMemory() {
  if (!staging_.empty()) ::munmap(staging_.data(), staging_.size());
}

absl::StatusOr<std::vector<uint32_t>> MovedDeviceMemory::Chunks() const {
  return custodian_->Chunks(pool_);
}

absl::Status MovedDeviceMemory::Lend(uint32_t chunk) {
  TC_RETURN_IF_ERROR(mover_->EnsureRuns());  // without it the memory is of no use to anybody
  TC_RETURN_IF_ERROR(custodian_->Lend(pool_, chunk));
  absl::Status status;
  {
    MutexLock lock(mutex_);
    if (std::find(chunks_.begin(), chunks_.end(), chunk) != chunks_.end()) return status;
    const absl::StatusOr<UniqueFd> slab = custodian_->Export(pool_, chunk);
    status = slab.ok() ? Call(MapRequest(MoverVerb::kMapNewChunk, chunk), {}, slab->get())
                       : slab.status();
    if (status.ok()) chunks_.push_back(chunk);
  }
  if (!status.ok()) custodian_->Return(pool_, chunk).IgnoreError();
  return status;
}

void MovedDeviceMemory::Return(uint32_t chunk) {
  {
    MutexLock lock(mutex_);
    std::erase(chunks_, chunk);
    MoverRequest request = Request(MoverVerb::kUnmapChunk);
    request.chunk = chunk;
    // A mover that does not run has nothing mapped, and one to come maps what there is then.
    if (generation_ != 0 && mover_->pid() != 0) Call(request).IgnoreError();
  }
  custodian_->Return(pool_, chunk).IgnoreError();
}

absl::Status MovedDeviceMemory::Call(const MoverRequest& request,
                                     std::span<const MoverTransfer> transfers, int fd) {
  return mover_->Call(
      generation_,
      [this](const auto& call) TC_NO_THREAD_SAFETY_ANALYSIS { return TellMover(call); }, request,
      transfers, fd);
}

MoverRequest MovedDeviceMemory::MapRequest(MoverVerb verb, uint32_t chunk) const {
  MoverRequest request = Request(verb);
  request.chunk = chunk;
  request.bytes = custodian_->view().chunk_bytes;
  return request;
}

void MovedDeviceMemory::UseHost(std::span<std::byte> host, int fd) {
  arena_ = host;
  arena_fd_ = fd;
}

MoverRequest MovedDeviceMemory::PinRequest(MoverVerb verb, uint32_t host, uint64_t offset,
                                           uint64_t bytes) const {
  MoverRequest request = Request(verb);
  request.host = host;
  request.offset = offset;
  request.bytes = bytes;
  return request;
}

absl::Status MovedDeviceMemory::Pin(uint64_t pinner, uint64_t offset, uint64_t bytes) {
  const absl::Status another = absl::UnavailableError("the mover that was to pin has ended");
  MutexLock lock(mutex_);
  if (MovedDeviceMemory::pinner() != pinner) return another;
  TC_RETURN_IF_ERROR(Call(PinRequest(MoverVerb::kPinHost, kArena, offset, bytes)));
  if (generation_ == pinner) return absl::OkStatus();
  UnpinLocked(offset);
  return another;
}

void MovedDeviceMemory::Unpin(uint64_t offset) {
  MutexLock lock(mutex_);
  UnpinLocked(offset);
}

void MovedDeviceMemory::UnpinLocked(uint64_t offset) {
  if (mover_->pid() == 0) return;
  const absl::Status status = Call(PinRequest(MoverVerb::kUnpinHost, kArena, offset, 0));
  if (status.ok() || absl::IsUnavailable(status)) return;  // it has ended
  LogEvent(LogLevel::kError, "memory_not_unpinned", {{"cause", status}});
}

absl::Status MovedDeviceMemory::TellMover(const MoverProcess::CallMover& call) {
  for (const uint32_t chunk : chunks_) {
    TC_ASSIGN_OR_RETURN(const UniqueFd slab, custodian_->Export(pool_, chunk));
    TC_RETURN_IF_ERROR(call(MapRequest(MoverVerb::kMapChunk, chunk), {}, slab.get()));
  }
  MoverRequest request = Request(MoverVerb::kMapHost);
  request.host = kStaging;
  request.bytes = staging_.size();
  TC_RETURN_IF_ERROR(call(request, {}, staging_fd_.get()));
  if (arena_fd_ >= 0) {
    request.host = kArena;
    request.bytes = arena_.size();
    TC_RETURN_IF_ERROR(call(request, {}, arena_fd_));
  }
  const absl::Status pinned =
      call(PinRequest(MoverVerb::kPinHost, kStaging, 0, staging_.size()), {}, -1);
  if (!pinned.ok()) LogEvent(LogLevel::kWarning, "memory_not_pinned", {{"cause", pinned}});
  return absl::OkStatus();
}

absl::Status MovedDeviceMemory::Flush(DeviceDirection direction,
                                      std::vector<MoverTransfer>& batch) {
  if (batch.empty()) return absl::OkStatus();
  MoverRequest request =
      Request(direction == DeviceDirection::kIn ? MoverVerb::kCopyIn : MoverVerb::kCopyOut);
  request.count = static_cast<uint32_t>(batch.size());
  const absl::Status status = Call(request, batch);
  batch.clear();
  return status;
}

absl::Status MovedDeviceMemory::Copy(std::span<const DeviceTransfer> transfers,
                                     DeviceDirection direction) {
  struct Staged {
    std::byte* host;
    uint64_t at;
    uint64_t bytes;
  };
  std::vector<MoverTransfer> batch;
  std::vector<Staged> staged;
  uint64_t staging_used = 0;
  MutexLock lock(mutex_);
  const auto flush = [&]() TC_NO_THREAD_SAFETY_ANALYSIS -> absl::Status {
    TC_RETURN_IF_ERROR(Flush(direction, batch));
    if (direction == DeviceDirection::kOut) {
      for (const Staged& piece : staged) {
        std::memcpy(piece.host, staging_.data() + piece.at, piece.bytes);
      }
    }
    staged.clear();
    staging_used = 0;
    return absl::OkStatus();
  };
  for (const DeviceTransfer& transfer : transfers) {
    if (batch.size() == kMaxMoverTransfers) TC_RETURN_IF_ERROR(flush());
    if (!arena_.empty() && transfer.host >= arena_.data() &&
        transfer.host + transfer.bytes <= arena_.data() + arena_.size()) {
      batch.push_back({.device_offset = transfer.offset,
                       .host_offset = static_cast<uint64_t>(transfer.host - arena_.data()),
                       .bytes = transfer.bytes,
                       .host = kArena});
      continue;
    }
    for (uint64_t done = 0; done < transfer.bytes;) {
      if (staging_used == staging_.size() || batch.size() == kMaxMoverTransfers) {
        TC_RETURN_IF_ERROR(flush());
      }
      const uint64_t bytes = std::min(transfer.bytes - done, staging_.size() - staging_used);
      if (direction == DeviceDirection::kIn) {
        std::memcpy(staging_.data() + staging_used, transfer.host + done, bytes);
      }
      staged.push_back({transfer.host + done, staging_used, bytes});
      batch.push_back({.device_offset = transfer.offset + done,
                       .host_offset = staging_used,
                       .bytes = bytes,
                       .host = kStaging});
      staging_used = std::min(staging_.size(), RoundUp(staging_used + bytes, 16));
      done += bytes;
    }
  }
  return flush();
}

}  // namespace thermocline
