#include "daemon/control_area.h"

#include <sys/mman.h>
#include <time.h>

#include <cerrno>
#include <new>

#include "base/file_util.h"

namespace thermocline {

uint64_t BootNanoseconds() {
  timespec now;
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

absl::StatusOr<std::shared_ptr<SessionControlArea>> SessionControlArea::Create(
    uint64_t epoch, uint64_t first_lease_until_ns) {
  TC_ASSIGN_OR_RETURN(UniqueFd fd, MakeSealedMemory("control area", kControlAreaBytes));
  void* memory =
      ::mmap(nullptr, kControlAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return ErrnoStatus(errno, "mmap of a control area");
  auto* area = new (memory) ControlArea;  // the ring stays unwritten, and so takes no memory
  area->epoch.store(epoch, std::memory_order_relaxed);
  area->magic.store(kControlAreaMagic, std::memory_order_release);
  std::shared_ptr<SessionControlArea> created(new SessionControlArea(std::move(fd), area));
  created->SetLeaseUntil(first_lease_until_ns);
  return created;
}

SessionControlArea::~SessionControlArea() { ::munmap(area_, kControlAreaBytes); }

uint64_t SessionControlArea::Heartbeat() const {
  return area_->heartbeat.load(std::memory_order_acquire);
}

void SessionControlArea::SetLeaseUntil(uint64_t boot_ns) {
  lease_until_ns_ = boot_ns;
  area_->lease_until_ns.store(boot_ns, std::memory_order_release);
}

void SessionControlArea::EndLeases() {
  area_->lease_generation.store(++lease_generation_, std::memory_order_seq_cst);
}

}  // namespace thermocline
