#include "client/put_queue.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/fence.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

using std::chrono::steady_clock;

// How often one who waits looks whether the session lives.
constexpr std::chrono::milliseconds kLook{100};

uint64_t FrameBytes(size_t commit_bytes) { return sizeof(PutFrame) + (commit_bytes + 7) / 8 * 8; }

absl::Status StatusOf(const PutAnswer& answer) {
  if (answer.code == 0) return absl::OkStatus();
  const bool known = answer.code <= 16;
  return absl::Status(
      known ? static_cast<absl::StatusCode>(answer.code) : absl::StatusCode::kUnknown,
      std::string(answer.message, ::strnlen(answer.message, sizeof answer.message)));
}

}  // namespace

absl::StatusOr<std::shared_ptr<EnqueuedPut>> PutQueue::Enqueue(const v1::CommitRequest& request,
                                                               Deadline deadline) {
  const std::string commit = request.SerializeAsString();
  TC_CHECK(commit.size() <= kMaxBytes);
  TC_CHECK(request.items_size() <= int{kPutItems});
  while (true) {
    uint32_t seen;
    {
      MutexLock lock(mutex_);
      CollectAnswers();
      const uint64_t in_ring = written_ - area_.puts_read.load(std::memory_order_acquire);
      if (unanswered_.size() < kPutAnswers &&
          in_ring + FrameBytes(commit.size()) <= kPutRingBytes) {
        auto put = std::make_shared<EnqueuedPut>();
        put->number = ++enqueued_;
        for (const v1::CommitItem& item : request.items()) {
          put->slots.push_back({item.offset(), item.grant()});
        }
        put->want = hooks_.want(request.pinned().space());
        unanswered_.push_back(put);
        Write(commit, put->want);
        return put;
      }
      seen = static_cast<uint32_t>(answered());
    }
    TC_RETURN_IF_ERROR(AwaitNext(seen, deadline));
  }
}

void PutQueue::Write(const std::string& commit, const Magazine::Want& want) {
  const PutFrame frame = {.commit_bytes = static_cast<uint32_t>(commit.size()),
                          .slots_wanted = static_cast<uint16_t>(want.count),
                          .part = static_cast<uint16_t>(want.kind.part)};
  CopyIn(written_, &frame, sizeof frame);
  CopyIn(written_ + sizeof frame, commit.data(), commit.size());
  written_ += FrameBytes(commit.size());
  area_.puts_written.store(written_, std::memory_order_release);
  FullFence();
  if (area_.daemon_sleeps.load(std::memory_order_relaxed) == kSleeps) Wake();
}

void PutQueue::Wake() {
  if (area_.daemon_sleeps.exchange(0, std::memory_order_relaxed) != 0) hooks_.wake();
}

void PutQueue::CopyIn(uint64_t at, const void* from, size_t bytes) {
  const size_t begin = at % kPutRingBytes;
  const size_t first = std::min<size_t>(bytes, kPutRingBytes - begin);
  std::memcpy(area_.puts + begin, from, first);
  std::memcpy(area_.puts, static_cast<const char*>(from) + first, bytes - first);
}

absl::Status PutQueue::AwaitNext(uint32_t answered, Deadline deadline) {
  while (true) {
    const steady_clock::time_point now = steady_clock::now();
    if (now >= deadline) {
      return absl::DeadlineExceededError(
          "the daemon has not answered what was committed before; ask again, or go on uncached");
    }
    if (area_.daemon_sleeps.load(std::memory_order_relaxed) == kDozes) Wake();
    const Deadline look = std::min(deadline, now + kLook);
    if (wait_.Until(area_.puts_answered, answered, area_.client_sleepers, look)) {
      return absl::OkStatus();
    }
    TC_RETURN_IF_ERROR(hooks_.alive());
  }
}

absl::Status PutQueue::Await(const EnqueuedPut& put, Deadline deadline) {
  while (true) {
    uint32_t seen;
    {
      MutexLock lock(mutex_);
      CollectAnswers();
      if (put.answered) return absl::OkStatus();
      seen = static_cast<uint32_t>(answered());
    }
    TC_RETURN_IF_ERROR(AwaitNext(seen, deadline));
  }
}

void PutQueue::AwaitAll(Deadline deadline) {
  while (true) {
    std::shared_ptr<EnqueuedPut> last;
    {
      MutexLock lock(mutex_);
      if (unanswered_.empty()) return;
      last = unanswered_.back();
    }
    if (!Await(*last, deadline).ok()) return;
  }
}

bool PutQueue::Answered(const EnqueuedPut& put) {
  MutexLock lock(mutex_);
  CollectAnswers();
  return put.answered;
}

void PutQueue::Abandon(std::shared_ptr<EnqueuedPut> put, std::unique_ptr<LocalReader> reader) {
  MutexLock lock(mutex_);
  CollectAnswers();
  put->abandoned = true;
  put->reader = std::move(reader);
  if (put->answered) GiveBack(*put);
}

void PutQueue::Collect() {
  MutexLock lock(mutex_);
  CollectAnswers();
}

void PutQueue::CollectAnswers() {
  const uint32_t shared = area_.puts_answered.load(std::memory_order_acquire);
  while (!unanswered_.empty() && static_cast<uint32_t>(answered()) != shared) {
    const std::shared_ptr<EnqueuedPut> put = std::move(unanswered_.front());
    unanswered_.pop_front();
    const PutAnswer& answer = area_.put_answers[put->number % kPutAnswers];
    put->status = StatusOf(answer);
    put->depth = answer.depth;
    for (size_t i = 0; i < put->slots.size(); ++i) {
      if ((answer.kept[i / 64] >> (i % 64) & 1) != 0) put->kept.push_back(put->slots[i]);
    }
    put->answered = true;
    uint64_t before = put->number - 1;
    const bool are_ours = area_.answers_taken.compare_exchange_strong(before, put->number);
    if (put->want.count > 0) {
      const auto end = std::find(std::begin(answer.granted), std::end(answer.granted), 0);
      const size_t granted = put->status.ok() && are_ours ? end - std::begin(answer.granted) : 0;
      hooks_.granted(put->want, kPutGrant | put->number, std::span(answer.granted, granted));
    }
    if (put->abandoned) GiveBack(*put);
  }
}

void PutQueue::GiveBack(EnqueuedPut& put) {
  for (const Magazine::Slot& slot : std::exchange(put.kept, {})) hooks_.abort(slot);
  for (const uint64_t at : std::exchange(put.staged, {})) hooks_.unstage(at);
  if (put.reader != nullptr) readers_.GiveBack(std::move(put.reader));
}

}  // namespace client_v1
}  // namespace thermocline
