#include "daemon/put_ring.h"

#include <algorithm>
#include <cstring>

#include "base/fence.h"
#include "base/futex.h"

namespace thermocline {
namespace {

constexpr uint64_t kHeaderBytes = 8;

absl::Status Garbage(const char* what) {
  return absl::InvalidArgumentError(std::string("the ring of commits in its control area ") + what);
}

}  // namespace

absl::StatusOr<std::optional<std::string>> PutRing::Next() {
  const uint64_t there = area_->puts_written.load(std::memory_order_acquire) - read_;
  if (there == 0) return std::nullopt;
  if (there > kPutRingBytes || there % kHeaderBytes != 0) {
    return Garbage("was written beyond its end");
  }
  uint32_t header[2];
  CopyOut(read_, header, sizeof header);
  const uint64_t frame_bytes = kHeaderBytes + (uint64_t{header[0]} + 7) / 8 * 8;
  if (header[1] != 0 || frame_bytes > there) return Garbage("holds a frame that is none");
  std::string commit(header[0], 0);
  CopyOut(read_ + kHeaderBytes, commit.data(), commit.size());
  read_ += frame_bytes;
  area_->puts_read.store(read_, std::memory_order_release);
  return commit;
}

bool PutRing::Sleep(bool doze) {
  area_->daemon_sleeps.store(doze ? kDozes : kSleeps, std::memory_order_relaxed);
  FullFence();
  if (area_->puts_written.load(std::memory_order_relaxed) == read_) return true;
  area_->daemon_sleeps.store(0, std::memory_order_relaxed);
  return false;
}

void PutRing::Tell(const Answer& answer) {
  PutAnswer& out = area_->put_answers[++answered_ % kPutAnswers];
  out.code = static_cast<uint32_t>(answer.status.code());
  out.depth = answer.depth;
  std::copy(std::begin(answer.kept), std::end(answer.kept), out.kept);
  const absl::string_view message = answer.status.message().substr(0, sizeof out.message - 1);
  out.message[message.copy(out.message, message.size())] = 0;
  area_->puts_answered.store(static_cast<uint32_t>(answered_), std::memory_order_release);
  FullFence();
  if (area_->client_sleepers.load(std::memory_order_relaxed) != 0) {
    FutexWake(area_->puts_answered);
  }
}

void PutRing::CopyOut(uint64_t from, void* to, size_t bytes) const {
  const size_t at = from % kPutRingBytes;
  const size_t first = std::min<size_t>(bytes, kPutRingBytes - at);
  std::memcpy(to, area_->puts + at, first);
  std::memcpy(static_cast<char*>(to) + first, area_->puts, bytes - first);
}

}  // namespace thermocline
