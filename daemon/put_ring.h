// The daemon's end of the ring of commits in a session's control area (proto/shm_layout.h). What
// lies there is the client's to change at any time: lengths and counts are read once, and a commit
// is copied out before anybody looks into it.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/shm_layout.h"

namespace thermocline {

/// Thread: one at a time. Owner: shares the control area.
class PutRing {
 public:
  explicit PutRing(std::shared_ptr<ControlArea> area) : area_(std::move(area)) {}

  struct SlotsWanted {
    uint16_t count = 0;  // at most kPutGrants
    uint16_t part = 0;   // whose
  };
  struct Commit {
    std::string bytes;
    SlotsWanted wants;
  };
  /// The next commit; nothing when there is none.
  /// Errors: InvalidArgument for what no client library writes; then there is no way on.
  absl::StatusOr<std::optional<Commit>> Next();
  /// Says that the next Next() will be called once the client has sent a wake-up; before that,
  /// soon, when we only `doze`. False when there is something already.
  bool Sleep(bool doze = false);

  struct Answer {
    absl::Status status;
    uint32_t depth = 0;                  // of the path now, when OK
    uint64_t kept[kPutItems / 64] = {};  // see PutAnswer
    std::vector<uint64_t> granted;       // when OK, at most kPutGrants
  };
  /// Commits answered so far: the next one's number is one more.
  uint64_t answered() const { return answered_; }
  /// How the commit went that is the next one to be answered.
  void Tell(const Answer& answer);

  /// What the client holds in advance, and from now on does not: slots, and the grants with answers
  /// that it has not taken. Any values whatever: who is to free them looks whose they are.
  struct Ahead {
    std::vector<uint64_t> grants;   // those of numbers
    std::vector<uint64_t> offsets;  // slots
  };
  Ahead TakeBack();

 private:
  void CopyOut(uint64_t from, void* to, size_t bytes) const;

  const std::shared_ptr<ControlArea> area_;
  uint64_t read_ = 0;      // bytes
  uint64_t answered_ = 0;  // commits
};

}  // namespace thermocline
