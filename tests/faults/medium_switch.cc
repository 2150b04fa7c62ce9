#include "tests/faults/medium_switch.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/unique_fd.h"

namespace thermocline::faults {

MediumSwitch::MediumSwitch() : path_("/dev/shm/tc-fault-medium-XXXXXX") {
  const UniqueFd file(::mkstemp(path_.data()));
  TC_CHECK(file && ::ftruncate(file.get(), sizeof(MediumControl)) == 0);
  void* memory =
      ::mmap(nullptr, sizeof(MediumControl), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  TC_CHECK(memory != MAP_FAILED);
  control_ = static_cast<MediumControl*>(memory);
}

MediumSwitch::~MediumSwitch() {
  Heal();
  ::munmap(control_, sizeof(MediumControl));
  ::unlink(path_.c_str());
}

std::vector<std::string> MediumSwitch::Command(const std::string& binaries) const {
  return {"/usr/bin/env", "LD_PRELOAD=" + binaries + "/libfault_medium.so",
          std::string(kMediumControlVariable) + "=" + path_,
          std::string(kMediumDirectoryVariable) + "=DATA"};
}

void MediumSwitch::Set(MediumFault reads, MediumFault writes, uint32_t delay_ms) {
  control_->delay_ms = delay_ms;
  control_->reads = reads;
  control_->writes = writes;
}

}  // namespace thermocline::faults
