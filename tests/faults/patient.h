// A daemon whose disk is about to fail, with values where a trial wants them: some in memory for
// good, some on disk alone; and what a trial finds, gathered as a row of a table.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "tests/faults/subject.h"
#include "tests/faults/warm_probe.h"

namespace thermocline::faults {

/// What was found, and whether all of it is as it must be.
class Findings {
 public:
  /// Tells it; with a mark when it is not so.
  void Tell(bool as_it_must_be, const std::string& what);
  bool right() const { return right_; }
  const std::string& text() const { return text_; }

 private:
  bool right_ = true;
  std::string text_;
};

constexpr int kColdValues = 24;  // of 1 MiB

class Patient {
 public:
  /// `options` with http. Findings: that the values are where they must be.
  Patient(SubjectOptions options, Findings& findings);

  Subject& subject() { return subject_; }
  /// All that lie on disk.
  Tally GetCold() { return subject_.GetAll(kColdValues); }
  /// All that are in memory for good.
  Tally GetWarm();
  /// Puts as much as the memory holds twice over, so that blocks must leave it. Tells how many were
  /// refused, and that none took longer than its deadline.
  void PutMany(bool may_refuse);
  /// A put, and a write of it to disk, which is read back.
  bool TakesWrites();
  /// Starts asking for warm values; StopProbe tells whether all were right, and how long they took.
  void StartProbe();
  /// While something is done to the disk: that many are answered all the same. None would be that
  /// waits for it, or for its deadline.
  void TellHitsGoOn();
  void StopProbe();
  /// /readyz tells of a degraded tier whose state contains `state`, a metric says so, and a line
  /// of the log has the event.
  void TellSigns(const std::string& state, const std::string& event);
  /// All is well again, by itself.
  void TellRecovery();
  void TellLives();

  std::string Readyz() const;
  double Metric(const std::string& series) const;
  /// How often the log has the text, since the last time that a daemon was started.
  bool Logged(const std::string& event) const;

 private:
  Subject subject_;
  Findings& findings_;
  std::unique_ptr<WarmProbe> probe_;
  int next_key_;
};

/// Polls.
bool Soon(const std::function<bool()>& condition, std::chrono::milliseconds within);

}  // namespace thermocline::faults
