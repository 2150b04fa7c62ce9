#include "tiers/device_custodian.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/log.h"
#include "base/units.h"
#include "catalog/arena.h"
#include "kernels/cuda/device.h"

namespace thermocline {
namespace {

enum Verb : uint32_t { kHello = 1, kLend = 2, kReturn = 3, kExport = 4, kChunks = 5, kKeep = 6 };
constexpr size_t kMaxPoolName = 63;
constexpr int kAcceptPauseMs = 100;
constexpr std::chrono::milliseconds kReplyPatience{1000};
constexpr uint64_t kChunkGrain = 2 * MiB;  // of cuMemCreate, on every device so far

/// Whether whoever was at the other end has closed it, or has ended.
bool HasGone(int client) {
  pollfd watched{client, 0, 0};
  return ::poll(&watched, 1, 0) == 1;
}

}  // namespace

struct DeviceCustodian::PoolName {
  char text[kMaxPoolName + 1] = {};

  static absl::StatusOr<PoolName> Of(std::string_view name) {
    if (name.size() > kMaxPoolName) {
      return absl::InvalidArgumentError("a pool's name has at most 63 bytes: " + std::string(name));
    }
    PoolName pool;
    std::copy(name.begin(), name.end(), pool.text);
    return pool;
  }
  std::string Get() const { return {text, ::strnlen(text, kMaxPoolName)}; }
};

struct DeviceCustodian::Request {
  uint32_t version = kDeviceWireVersion;
  uint32_t verb = 0;
  uint32_t chunk = 0;
  uint32_t count = 0;  // of the names that follow, of kKeep
  PoolName pool;
};

struct DeviceCustodian::Reply {
  WireStatus status;
  uint8_t uuid[16] = {};
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t chunk_bytes = 0;
  int64_t device = 0;
  uint8_t chunks[kMaxChunks / 8] = {};  // a bit each
};

absl::StatusOr<std::unique_ptr<DeviceCustodian>> DeviceCustodian::Open(Options options) {
  TC_ASSIGN_OR_RETURN(const int devices, cuda::DeviceCount());
  if (options.device < 0 || options.device >= devices) {
    return absl::InvalidArgumentError("there is no CUDA device " + std::to_string(options.device) +
                                      " among " + std::to_string(devices));
  }
  if (options.chunk_bytes == 0 || options.chunk_bytes % kChunkGrain != 0) {
    return absl::InvalidArgumentError("chunks of device memory are multiples of " +
                                      FormatBytes(kChunkGrain));
  }
  TC_ASSIGN_OR_RETURN(Listener listener, ListenAt(options.socket_path));
  return std::unique_ptr<DeviceCustodian>(
      new DeviceCustodian(std::move(options), std::move(listener)));
}

DeviceCustodian::DeviceCustodian(Options options, Listener listener)
    : options_(std::move(options)), listener_(std::move(listener)) {
  TC_CHECK(::getrandom(uuid_.data(), uuid_.size(), 0) == static_cast<ssize_t>(uuid_.size()));
}

DeviceCustodian::~DeviceCustodian() { ::unlink(options_.socket_path.c_str()); }

// Who cannot be accepted (we may have no descriptor left) is so still when we poll again: a while
// is left to others then.
absl::Status DeviceCustodian::Serve(int stop) {
  bool accepts = true;
  while (true) {
    std::vector<pollfd> watched = {{stop, POLLIN, 0},
                                   {accepts ? listener_.socket.get() : -1, POLLIN, 0}};
    for (const UniqueFd& client : clients_) watched.push_back({client.get(), POLLIN, 0});
    if (::poll(watched.data(), watched.size(), accepts ? -1 : kAcceptPauseMs) < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, "poll");
    }
    if (watched[0].revents != 0) return absl::OkStatus();
    for (size_t i = watched.size(); i-- > 2;) {
      if (watched[i].revents != 0 && !Answer(watched[i].fd)) {
        if (daemon_ == watched[i].fd) daemon_ = -1;
        clients_.erase(clients_.begin() + static_cast<ptrdiff_t>(i - 2));
      }
    }
    accepts = watched[1].revents == 0 || Accept();
  }
}

/// False when it should not be tried again at once.
bool DeviceCustodian::Accept() {
  UniqueFd client(::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!client) return errno == EINTR || errno == EAGAIN || errno == ECONNABORTED;
  if (!IsOwnPeer(client.get()) || clients_.size() >= kMaxClients) return true;
  SetPatience(client.get(), kReplyPatience);  // a reply fits into an empty socket
  clients_.push_back(std::move(client));
  return true;
}

/// False when it has gone, or says what nobody of ours says.
bool DeviceCustodian::Answer(int client) {
  struct {
    Request request;
    std::array<PoolName, CustodianClient::kMaxKeptPools> pools;
  } packet;
  UniqueFd fd;
  const auto got = ReceivePacket(client, std::as_writable_bytes(std::span(&packet, 1)), fd);
  const Request& request = packet.request;
  if (!got.ok() || *got < sizeof request ||
      *got != sizeof request + request.count * sizeof(PoolName)) {
    return false;
  }
  Reply reply;
  absl::Status status = Do(request, reply, fd);
  if (status.ok() && request.verb == kKeep) {
    status = Keep(client, std::span(packet.pools).first(request.count));
  }
  reply.status = WireStatus::Of(status);
  std::copy(uuid_.begin(), uuid_.end(), reply.uuid);
  reply.capacity_bytes = options_.capacity_bytes;
  reply.used_bytes = used_bytes_;
  reply.chunk_bytes = options_.chunk_bytes;
  reply.device = options_.device;
  return SendPacket(client, BytesOf(reply), status.ok() ? fd.get() : -1).ok();
}

absl::Status DeviceCustodian::Do(const Request& request, Reply& reply, UniqueFd& fd) {
  fd.Reset();
  if (request.version != kDeviceWireVersion) {
    return absl::FailedPreconditionError("the custodian speaks version " +
                                         std::to_string(kDeviceWireVersion) +
                                         "; restart it with the daemon's program");
  }
  const std::string name = request.pool.Get();
  if (request.chunk >= kMaxChunks) return absl::InvalidArgumentError("no such chunk");
  const auto pool = pools_.find(name);
  const auto slab_of = [&]() -> cuda::Slab* {
    if (pool == pools_.end()) return nullptr;
    const auto slab = pool->second.find(request.chunk);
    return slab == pool->second.end() ? nullptr : &slab->second;
  };
  switch (request.verb) {
    case kHello:
    case kKeep:  // of its connection
      return absl::OkStatus();
    case kLend:
      return slab_of() != nullptr ? absl::OkStatus() : Lend(name, request.chunk);
    case kReturn:
      if (const cuda::Slab* slab = slab_of()) {
        used_bytes_ -= slab->bytes();
        pool->second.erase(request.chunk);
        if (pool->second.empty()) pools_.erase(pool);
      }
      return absl::OkStatus();
    case kExport: {
      const cuda::Slab* const slab = slab_of();
      if (slab == nullptr) return absl::NotFoundError("the pool has no such chunk");
      TC_ASSIGN_OR_RETURN(fd, slab->Export());
      return absl::OkStatus();
    }
    case kChunks:
      if (pool == pools_.end()) return absl::OkStatus();
      for (const auto& [chunk, slab] : pool->second) {
        reply.chunks[chunk / 8] |= static_cast<uint8_t>(1u << chunk % 8);
      }
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError("no such request");
  }
}

absl::Status DeviceCustodian::Lend(const std::string& pool, uint32_t chunk) {
  if (used_bytes_ + options_.chunk_bytes > options_.capacity_bytes) {
    return absl::ResourceExhaustedError("the hot tier's " + FormatBytes(options_.capacity_bytes) +
                                        " are lent");
  }
  if (pools_.size() >= kMaxPools && !pools_.contains(pool)) {
    return absl::ResourceExhaustedError("there are " + std::to_string(kMaxPools) + " pools");
  }
  TC_ASSIGN_OR_RETURN(cuda::Slab slab, cuda::Slab::Create(options_.device, options_.chunk_bytes));
  if (used_bytes_ + slab.bytes() > options_.capacity_bytes) {  // the device rounds up
    return absl::ResourceExhaustedError("the hot tier has no room for a slab of " +
                                        FormatBytes(slab.bytes()));
  }
  used_bytes_ += slab.bytes();
  pools_[pool][chunk] = std::move(slab);
  return absl::OkStatus();
}

absl::Status DeviceCustodian::Keep(int client, std::span<const PoolName> pools) {
  if (daemon_ >= 0 && daemon_ != client && !HasGone(daemon_)) {
    return absl::FailedPreconditionError(
        "the custodian at " + options_.socket_path +
        " serves another daemon; give this one a custodian of its own, by vram_socket");
  }
  daemon_ = client;
  for (auto pool = pools_.begin(); pool != pools_.end();) {
    const bool is_kept = std::any_of(pools.begin(), pools.end(), [&](const PoolName& kept) {
      return kept.Get() == pool->first;
    });
    if (is_kept) {
      ++pool;
      continue;
    }
    LogEvent(LogLevel::kInfo, "pool_given_back",
             {{"pool", pool->first}, {"chunks", pool->second.size()}});
    for (const auto& [chunk, slab] : pool->second) used_bytes_ -= slab.bytes();
    pool = pools_.erase(pool);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CustodianClient>> CustodianClient::Connect(
    const std::string& socket_path, std::chrono::milliseconds patience) {
  std::unique_ptr<CustodianClient> client(new CustodianClient(socket_path, patience));
  MutexLock lock(client->mutex_);
  TC_RETURN_IF_ERROR(client->Reconnect());
  return client;
}

absl::Status CustodianClient::Reconnect() {
  TC_ASSIGN_OR_RETURN(socket_, ConnectTo(socket_path_, patience_));
  DeviceCustodian::Request request;
  request.verb = kHello;
  DeviceCustodian::Reply reply;
  UniqueFd fd;
  absl::Status status;
  if (!IsOwnPeer(socket_.get())) {
    status = absl::FailedPreconditionError("who listens at " + socket_path_ +
                                           " is another user; is it the custodian?");
  } else {
    status = Exchange(BytesOf(request), reply, fd);
  }
  if (status.ok() && reply.chunk_bytes == 0) {
    status = absl::DataLossError("the custodian's chunks have no bytes");
  }
  const bool is_first = view_.chunk_bytes == 0;
  if (status.ok() && !is_first &&
      !std::equal(std::begin(reply.uuid), std::end(reply.uuid), view_.uuid.begin())) {
    status = absl::FailedPreconditionError(
        "the custodian of the hot tier is another one now: all that was hot is lost; restart the "
        "daemon");
  }
  if (status.ok() && !kept_.empty()) status = SayKept();
  if (!status.ok()) {
    socket_.Reset();
    return status;
  }
  if (!is_first) return status;
  std::copy(std::begin(reply.uuid), std::end(reply.uuid), view_.uuid.begin());
  view_.capacity_bytes = reply.capacity_bytes;
  view_.used_bytes = reply.used_bytes;
  view_.chunk_bytes = reply.chunk_bytes;
  view_.device = static_cast<int>(reply.device);
  return status;
}

/// After any failure nothing more is said on this connection, since an answer may come still.
absl::Status CustodianClient::Exchange(std::span<const std::byte> packet,
                                       DeviceCustodian::Reply& reply, UniqueFd& fd) {
  absl::Status status = SendPacket(socket_.get(), packet);
  if (status.ok()) {
    const auto got = ReceivePacket(socket_.get(), std::as_writable_bytes(std::span(&reply, 1)), fd);
    if (got.ok() && *got == sizeof reply) return reply.status.Get();
    status = got.status();
  }
  socket_.Reset();
  fd.Reset();
  return absl::UnavailableError("the custodian of the hot tier does not answer" +
                                (status.ok() ? "" : ": " + std::string(status.message())));
}

absl::Status CustodianClient::Call(uint32_t verb, std::string_view pool, uint32_t chunk,
                                   DeviceCustodian::Reply& reply, UniqueFd& fd) {
  DeviceCustodian::Request request;
  request.verb = verb;
  request.chunk = chunk;
  TC_ASSIGN_OR_RETURN(request.pool, DeviceCustodian::PoolName::Of(pool));
  MutexLock lock(mutex_);
  if (!socket_) TC_RETURN_IF_ERROR(Reconnect());
  return Exchange(BytesOf(request), reply, fd);
}

absl::Status CustodianClient::Keep(std::span<const std::string> pools) {
  TC_CHECK(pools.size() <= kMaxKeptPools);
  DeviceCustodian::Request request;
  request.verb = kKeep;
  request.count = static_cast<uint32_t>(pools.size());
  const auto head = BytesOf(request);
  std::vector<std::byte> packet(head.begin(), head.end());
  for (const std::string& pool : pools) {
    TC_ASSIGN_OR_RETURN(const auto name, DeviceCustodian::PoolName::Of(pool));
    const auto bytes = BytesOf(name);
    packet.insert(packet.end(), bytes.begin(), bytes.end());
  }
  MutexLock lock(mutex_);
  kept_ = std::move(packet);
  return socket_ ? SayKept() : Reconnect();
}

absl::Status CustodianClient::SayKept() {
  DeviceCustodian::Reply reply;
  UniqueFd fd;
  return Exchange(kept_, reply, fd);
}

absl::Status CustodianClient::Lend(std::string_view pool, uint32_t chunk) {
  DeviceCustodian::Reply reply;
  UniqueFd fd;
  return Call(kLend, pool, chunk, reply, fd);
}

absl::Status CustodianClient::Return(std::string_view pool, uint32_t chunk) {
  DeviceCustodian::Reply reply;
  UniqueFd fd;
  return Call(kReturn, pool, chunk, reply, fd);
}

absl::StatusOr<UniqueFd> CustodianClient::Export(std::string_view pool, uint32_t chunk) {
  DeviceCustodian::Reply reply;
  UniqueFd fd;
  TC_RETURN_IF_ERROR(Call(kExport, pool, chunk, reply, fd));
  if (!fd) return absl::DataLossError("the custodian sent no descriptor");
  return fd;
}

absl::StatusOr<std::vector<uint32_t>> CustodianClient::Chunks(std::string_view pool) {
  DeviceCustodian::Reply reply;
  UniqueFd fd;
  TC_RETURN_IF_ERROR(Call(kChunks, pool, 0, reply, fd));
  std::vector<uint32_t> chunks;
  for (uint32_t chunk = 0; chunk < kMaxChunks; ++chunk) {
    if ((reply.chunks[chunk / 8] >> chunk % 8 & 1) != 0) chunks.push_back(chunk);
  }
  return chunks;
}

}  // namespace thermocline
