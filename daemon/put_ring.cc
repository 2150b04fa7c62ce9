#include "daemon/put_ring.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/fence.h"
#include "base/futex.h"

namespace thermocline {
namespace {

absl::Status Garbage(const char* what) {
  return absl::InvalidArgumentError(std::string("the ring of commits in its control area ") + what);
}

}  // namespace

absl::StatusOr<std::optional<PutRing::Commit>> PutRing::Next() {
  const uint64_t there = area_->puts_written.load(std::memory_order_acquire) - read_;
  if (there == 0) return std::nullopt;
  if (there > kPutRingBytes || there % sizeof(PutFrame) != 0) {
    return Garbage("was written beyond its end");
  }
  PutFrame frame;
  CopyOut(read_, &frame, sizeof frame);
  const uint64_t frame_bytes = sizeof frame + (uint64_t{frame.commit_bytes} + 7) / 8 * 8;
  if (frame.slots_wanted > kPutGrants || frame_bytes > there) {
    return Garbage("holds a frame that is none");
  }
  Commit commit{std::string(frame.commit_bytes, 0), {frame.slots_wanted, frame.part}};
  CopyOut(read_ + sizeof frame, commit.bytes.data(), commit.bytes.size());
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
  if (answer.status.ok()) {
    TC_CHECK(answer.granted.size() <= kPutGrants);
    const auto end = std::copy(answer.granted.begin(), answer.granted.end(), out.granted);
    std::fill(end, std::end(out.granted), 0);
  } else {
    const absl::string_view message = answer.status.message().substr(0, sizeof out.message - 1);
    out.message[message.copy(out.message, message.size())] = 0;
  }
  area_->puts_answered.store(static_cast<uint32_t>(answered_), std::memory_order_release);
  FullFence();
  if (area_->client_sleepers.load(std::memory_order_relaxed) != 0) {
    FutexWake(area_->puts_answered);
  }
}

PutRing::Ahead PutRing::TakeBack() {
  Ahead back;
  for (std::atomic<uint64_t>& word : area_->ahead) {
    uint64_t bits = word.load(std::memory_order_relaxed);
    if (bits != 0 && word.compare_exchange_strong(bits, 0)) {
      back.offsets.push_back(AheadOffset(bits));
    }
  }
  // A client that takes one of them just now has the others of that answer, too.
  uint64_t taken = area_->answers_taken.load(std::memory_order_relaxed);
  const uint64_t first = answered_ - std::min<uint64_t>(answered_, kPutAnswers);
  if (taken < first || taken >= answered_) return back;
  if (!area_->answers_taken.compare_exchange_strong(taken, answered_)) return back;
  while (++taken <= answered_) back.grants.push_back(kPutGrant | taken);
  return back;
}

void PutRing::CopyOut(uint64_t from, void* to, size_t bytes) const {
  const size_t at = from % kPutRingBytes;
  const size_t first = std::min<size_t>(bytes, kPutRingBytes - at);
  std::memcpy(to, area_->puts + at, first);
  std::memcpy(static_cast<char*>(to) + first, area_->puts, bytes - first);
}

}  // namespace thermocline
