// What the processes of a crash test share: a page of counters, which outlive whoever counts, and
// files that are only appended to: violations, pins that the daemon has acknowledged, and paths of
// which it has answered that they are on disk.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/crash/contents.h"

namespace thermocline::crash {

/// Zeros when it is new.
struct Counters {
  std::atomic<uint64_t> stop;  // 1: clients are to leave
  std::atomic<uint64_t> matches;
  std::atomic<uint64_t> hits;  // blocks matched
  std::atomic<uint64_t> checked_blocks;
  std::atomic<uint64_t> checked_bytes;
  std::atomic<uint64_t> late_reads;  // other bytes were read, and StillValid() said so
  std::atomic<uint64_t> ended_leases;
  std::atomic<uint64_t> unreadable_blocks;  // matched, and then not to be had: misses
  std::atomic<uint64_t> committed_blocks;
  std::atomic<uint64_t> refused_reserves;
  std::atomic<uint64_t> failed_calls;  // Unavailable and its like, as a killed daemon leaves them
  std::atomic<uint64_t> aborted_slots;
  std::atomic<uint64_t> deaths;  // of clients, by their own hand, in the middle of a filling
  std::atomic<uint64_t> reconnects;
  std::atomic<uint64_t> pins;
  std::atomic<uint64_t> deletes;
  std::atomic<uint64_t> durable_commits;  // answered: on disk
  std::atomic<uint64_t> not_on_disk;      // answered: in memory only
  std::atomic<uint64_t> cutting_power;    // 1: from the moment the power of the disk is being cut
};

struct PathRecord {
  size_t space = 0;
  Path path;
};

/// Thread: any; process: any.
class Ledger {
 public:
  /// Opens or creates it in `directory`. Aborts when it cannot.
  explicit Ledger(const std::string& directory);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  Counters& counters() const { return *counters_; }

  /// One line.
  void AddViolation(const std::string& text);
  std::vector<std::string> Violations() const;

  /// Called after the daemon said that it holds the path.
  void AddPin(const PathRecord& pin);
  std::vector<PathRecord> Pins() const;

  /// Called after the daemon said that all of the path is on disk. False: the power is being cut,
  /// and the answer shows nothing (tests/crash/loop_disk.h).
  bool AddDurable(const PathRecord& path);
  std::vector<PathRecord> Durable() const;

 private:
  std::string violations_path() const { return directory_ + "/violations"; }
  std::string pins_path() const { return directory_ + "/pins"; }
  std::string durable_path() const { return directory_ + "/durable"; }

  const std::string directory_;
  Counters* counters_ = nullptr;
};

}  // namespace thermocline::crash
