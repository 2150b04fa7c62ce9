#include "catalog/mapping_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>

namespace thermocline {
namespace {

// The handler reads these: nothing in it may take a lock or allocate.
struct Guarded {
  std::atomic<bool> taken = false;
  std::atomic<uintptr_t> base = 0;  // 0: not guarded
  uint64_t bytes = 0;
  uint64_t page_bytes = 0;
  int fd = -1;
  std::atomic<uint64_t> saved = 0;
};
std::array<Guarded, MappingGuard::kMaxGuards> guards;
struct sigaction before;  // of SIGBUS, for what is not ours

Guarded* Find(uintptr_t address) {
  for (Guarded& guard : guards) {
    const uintptr_t base = guard.base.load(std::memory_order_acquire);
    if (base != 0 && address >= base && address - base < guard.bytes) return &guard;
  }
  return nullptr;
}

bool Save(const Guarded& guard, uintptr_t address) {
  struct stat file;
  if (fstat(guard.fd, &file) == 0 && static_cast<uint64_t>(file.st_size) < guard.bytes) {
    if (ftruncate(guard.fd, static_cast<off_t>(guard.bytes)) == 0) return true;
  }
  void* const page = reinterpret_cast<void*>(address / guard.page_bytes * guard.page_bytes);
  return mmap(page, guard.page_bytes, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page;
}

void OnBus(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  Guarded* const guard = Find(reinterpret_cast<uintptr_t>(info->si_addr));
  if (guard != nullptr && Save(*guard, reinterpret_cast<uintptr_t>(info->si_addr))) {
    guard->saved.fetch_add(1, std::memory_order_relaxed);
    errno = error;
    return;
  }
  if ((before.sa_flags & SA_SIGINFO) != 0) return before.sa_sigaction(signal, info, context);
  sigaction(SIGBUS, &before, nullptr);  // the access is tried again, and ends as it would have
}

bool Install() {
  struct sigaction action = {};
  action.sa_sigaction = OnBus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return sigaction(SIGBUS, &action, &before) == 0;
}

}  // namespace

MappingGuard::MappingGuard(int fd, std::byte* base, uint64_t bytes, uint64_t page_bytes) {
  static const bool installed = Install();
  if (!installed) return;
  for (int i = 0; i < kMaxGuards; ++i) {
    Guarded& guard = guards[i];
    if (guard.taken.exchange(true)) continue;
    guard.bytes = bytes;
    guard.page_bytes = page_bytes;
    guard.fd = fd;
    guard.saved = 0;
    guard.base.store(reinterpret_cast<uintptr_t>(base), std::memory_order_release);
    slot_ = i;
    return;
  }
}

MappingGuard::~MappingGuard() {
  if (slot_ < 0) return;
  guards[slot_].base = 0;
  guards[slot_].taken = false;
}

uint64_t MappingGuard::saved() const {
  return slot_ < 0 ? 0 : guards[slot_].saved.load(std::memory_order_relaxed);
}

}  // namespace thermocline
