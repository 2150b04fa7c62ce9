#include "tiers/log_fsck.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "base/units.h"
#include "tiers/block_envelope.h"
#include "tiers/disk_segments.h"
#include "tiers/log_format.h"

namespace thermocline {
namespace {

constexpr size_t kMostLines = 100;

void Add(std::vector<std::string>& lines, std::string line) {
  if (lines.size() < kMostLines) lines.push_back(std::move(line));
}

class Fsck {
 public:
  explicit Fsck(const SegmentDatabase& database)
      : database_(database), payload_(std::make_unique_for_overwrite<std::byte[]>(kMaxPartBytes)) {}

  absl::StatusOr<FsckReport> Run() && {
    for (const SegmentDatabase::Segment& segment : database_.Segments()) {
      ++report_.segments;
      segments_[segment.sequence].segment = segment;
    }
    TC_RETURN_IF_ERROR(database_.ForEachEntry([this](auto key, auto value) {
      LookAtEntry(key, value);
      return true;
    }));
    for (const auto& [sequence, content] : segments_) LookAtSegment(sequence, content);
    return std::move(report_);
  }

 private:
  struct Content {
    SegmentDatabase::Segment segment;  // without a file: it is not there
    std::vector<EntryHead> blocks;
  };

  void Complain(const std::string& what, const absl::Status& why) {
    ++report_.problem_count;
    Add(report_.problems, what + ": " + std::string(why.message()));
  }

  void LookAtEntry(std::span<const std::byte> key, std::span<const std::byte> value) {
    const auto entry = ReadEntry(key, value);
    if (!entry.ok()) return Complain("an entry", entry.status());
    if (IsLeaving(entry->ref)) return;  // whatever is left of its segment goes with the next start
    const auto record = envelope_.DecodeRecord(entry->ref, entry->record);
    if (!record.ok() && !absl::IsFailedPrecondition(record.status())) {
      Complain("the entry of block " + std::to_string(entry->ref.id), record.status());
    }
    segments_[entry->sequence].blocks.push_back(*entry);
  }

  void LookAtSegment(uint64_t sequence, const Content& content) {
    const std::string name = "segment " + std::to_string(sequence);
    if (content.segment.file.empty()) {
      Add(report_.notes, name + " is not there; " + std::to_string(content.blocks.size()) +
                             " entries lead to it, and will be dropped");
      return;
    }
    if (content.blocks.empty()) {
      Add(report_.notes,
          name + " (" + content.segment.file + ") has no entry; the next start removes it");
    }
    for (const EntryHead& block : content.blocks) {
      const std::string what = "block " + std::to_string(block.ref.id) + " part " +
                               std::to_string(block.ref.part) + " in " + name + " (" +
                               content.segment.file + ")";
      const absl::Status status = LookAtBlock(block, what);
      if (!status.ok()) Complain(what, status);
    }
  }

  // By RocksDB, whose checksums a segment must pass, too, to be opened.
  absl::Status LookAtBlock(const EntryHead& block, const std::string& what) {
    const absl::Status status =
        database_.ReadBlock({block.ref, block.sequence}, [&](std::span<const std::byte> stored) {
          const auto record = envelope_.Decode(block.ref, stored, {payload_.get(), kMaxPartBytes});
          if (record.ok()) report_.bytes += record->payload_bytes;
          if (block.place.bytes > 0 && !LiesAtItsPlace(block, stored)) {
            Add(report_.notes, what + " does not lie where its entry says; it is found by its key");
          }
          return record.status();
        });
    const bool sealed = absl::IsFailedPrecondition(status);
    if (!status.ok() && !sealed) return status;
    ++report_.blocks;
    report_.sealed_blocks += sealed ? 1 : 0;
    return absl::OkStatus();
  }

  bool LiesAtItsPlace(const EntryHead& block, std::span<const std::byte> stored) {
    bool same = false;
    const absl::Status read =
        database_.ReadPlace(block.sequence, block.place, [&](std::span<const std::byte> found) {
          same = std::equal(found.begin(), found.end(), stored.begin(), stored.end());
          return absl::OkStatus();
        });
    return read.ok() && same;
  }

  const SegmentDatabase& database_;
  const BlockEnvelope envelope_;  // without keys
  const std::unique_ptr<std::byte[]> payload_;
  std::map<uint64_t, Content> segments_;
  FsckReport report_;
};

}  // namespace

absl::StatusOr<FsckReport> FsckLog(const std::string& directory) {
  TC_ASSIGN_OR_RETURN(const auto database, SegmentDatabase::OpenToLook(directory));
  return Fsck(*database).Run();
}

std::string FsckText(const FsckReport& report) {
  std::string text;
  for (const std::string& problem : report.problems) text += "problem: " + problem + "\n";
  for (const std::string& note : report.notes) text += "note: " + note + "\n";
  text += std::to_string(report.segments) + " segments, " + std::to_string(report.blocks) +
          " blocks of " + FormatBytes(report.bytes) + " verified\n";
  if (report.sealed_blocks > 0) {
    text += std::to_string(report.sealed_blocks) +
            " of them are encrypted: the checksums on the disk were tried, not their content\n";
  }
  return text + (report.problem_count == 0 ? "no problems\n"
                                           : std::to_string(report.problem_count) + " problems\n");
}

}  // namespace thermocline
