// The switch of a faulty medium (fault_medium.h), and how a daemon is started on one.
#pragma once
#include <string>
#include <vector>

#include "tests/faults/fault_medium.h"

namespace thermocline::faults {

/// Thread: one.
/// Owner:  of the control file.
class MediumSwitch {
 public:
  MediumSwitch();
  ~MediumSwitch();
  MediumSwitch(const MediumSwitch&) = delete;
  MediumSwitch& operator=(const MediumSwitch&) = delete;

  /// A command for SubjectOptions::before. `binaries`: the directory of the library.
  std::vector<std::string> Command(const std::string& binaries) const;
  void Set(MediumFault reads, MediumFault writes, uint32_t delay_ms = 0);
  void Heal() { Set(MediumFault::kNone, MediumFault::kNone); }
  /// How many calls have met a fault.
  uint32_t hits() const { return control_->hits; }

 private:
  std::string path_;
  MediumControl* control_ = nullptr;
};

}  // namespace thermocline::faults
