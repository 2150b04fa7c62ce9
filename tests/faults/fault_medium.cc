// The calls by which RocksDB and the daemon reach their files, each of which looks at the control
// before it goes on to the C library's. While no fault is on, that is one load.
#include "tests/faults/fault_medium.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace thermocline::faults {
namespace {

constexpr long kLookNs = 2'000'000;

MediumControl* MapControl() {
  const char* path = std::getenv(kMediumControlVariable);
  if (path == nullptr) return nullptr;
  const int file = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC));
  if (file < 0) return nullptr;
  void* memory =
      ::mmap(nullptr, sizeof(MediumControl), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  return memory == MAP_FAILED ? nullptr : static_cast<MediumControl*>(memory);
}

MediumControl* Control() {
  static MediumControl* const control = MapControl();
  return control;
}

bool IsOurs(const char* path) {
  static const char* const directory = std::getenv(kMediumDirectoryVariable);
  return directory != nullptr && std::strncmp(path, directory, std::strlen(directory)) == 0;
}

bool IsOurs(int file) {
  char link[64], path[4096];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
  const ssize_t length = ::readlink(link, path, sizeof(path) - 1);
  if (length < 0) return false;
  path[length] = '\0';
  return IsOurs(path);
}

void Sleep(long ns) {
  const timespec time{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
  ::nanosleep(&time, nullptr);
}

/// What the call is to fail with; 0: it goes on.
int Meet(const std::atomic<MediumFault>& switched) {
  MediumControl* const control = Control();
  ++control->hits;
  switch (switched.load()) {
    case MediumFault::kNone:
      return 0;
    case MediumFault::kError:
      return EIO;
    case MediumFault::kNoSpace:
      return ENOSPC;
    case MediumFault::kSlow:
      Sleep(long{1'000'000} * control->delay_ms);
      return 0;
    case MediumFault::kHang:
      while (switched == MediumFault::kHang) Sleep(kLookNs);
      return 0;
  }
  return 0;
}

/// Whether the call on a file, or on a path, fails; then errno says how.
template <class Where>
bool Fails(std::atomic<MediumFault> MediumControl::*kind, Where where) {
  MediumControl* const control = Control();
  if (control == nullptr || control->*kind == MediumFault::kNone || !IsOurs(where)) return false;
  const int error = Meet(control->*kind);
  if (error != 0) errno = error;
  return error != 0;
}

constexpr auto kReads = &MediumControl::reads;
constexpr auto kWrites = &MediumControl::writes;

/// The C library's own.
template <class Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace
}  // namespace thermocline::faults

using thermocline::faults::Fails;
using thermocline::faults::kReads;
using thermocline::faults::kWrites;
using thermocline::faults::Next;

extern "C" {

int open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list more;
    va_start(more, flags);
    mode = va_arg(more, mode_t);
    va_end(more);
  }
  static const auto next = Next<int(const char*, int, ...)>("open");
  if ((flags & O_CREAT) != 0 && Fails(kWrites, path)) return -1;
  return next(path, flags, mode);
}

ssize_t pread(int file, void* bytes, size_t count, off_t at) {
  static const auto next = Next<ssize_t(int, void*, size_t, off_t)>("pread");
  return Fails(kReads, file) ? -1 : next(file, bytes, count, at);
}

ssize_t pwrite(int file, const void* bytes, size_t count, off_t at) {
  static const auto next = Next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  return Fails(kWrites, file) ? -1 : next(file, bytes, count, at);
}

ssize_t write(int file, const void* bytes, size_t count) {
  static const auto next = Next<ssize_t(int, const void*, size_t)>("write");
  return Fails(kWrites, file) ? -1 : next(file, bytes, count);
}

int fsync(int file) {
  static const auto next = Next<int(int)>("fsync");
  return Fails(kWrites, file) ? -1 : next(file);
}

int fdatasync(int file) {
  static const auto next = Next<int(int)>("fdatasync");
  return Fails(kWrites, file) ? -1 : next(file);
}

int ftruncate(int file, off_t bytes) noexcept {
  static const auto next = Next<int(int, off_t)>("ftruncate");
  return Fails(kWrites, file) ? -1 : next(file, bytes);
}

int rename(const char* from, const char* to) noexcept {
  static const auto next = Next<int(const char*, const char*)>("rename");
  return Fails(kWrites, to) ? -1 : next(from, to);
}

int link(const char* from, const char* to) noexcept {
  static const auto next = Next<int(const char*, const char*)>("link");
  return Fails(kWrites, to) ? -1 : next(from, to);
}

int unlink(const char* path) noexcept {
  static const auto next = Next<int(const char*)>("unlink");
  return Fails(kWrites, path) ? -1 : next(path);
}

}  // extern "C"
