#include "tiers/key_ring.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include "base/check.h"
#include "base/unique_fd.h"
#include "tiers/key_command.h"

namespace thermocline {
namespace {

constexpr std::string_view kBlank = " \t\r";

std::string_view Trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlank), text.size()));
  const size_t last = text.find_last_not_of(kBlank);
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

/// Reads `line` into `key`, where it stays. What is wrong with it, or null.
const char* ReadLine(std::string_view line, SealingKey& key) {
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), key.number);
  if (error != std::errc() || key.number == 0 || end == line.data() + line.size() ||
      kBlank.find(*end) == std::string_view::npos) {
    return "a line is a number from 1 to 4294967295 and a key";
  }
  line = Trimmed(line.substr(static_cast<size_t>(end - line.data())));
  constexpr const char* kForm =
      "a key is 64 hexadecimal digits, as `openssl rand -hex 32` prints them";
  if (line.size() != 2 * key.bytes.size()) return kForm;
  for (size_t i = 0; i < key.bytes.size(); ++i) {
    const char* const digits = line.data() + 2 * i;
    const auto [stop, wrong] = std::from_chars(digits, digits + 2, key.bytes[i], 16);
    if (wrong != std::errc() || stop != digits + 2) return kForm;
  }
  return nullptr;
}

/// The file's bytes in `room`; how many.
absl::StatusOr<size_t> ReadKeyFile(const std::string& path, std::span<std::byte> room) {
  // Not to hang on a pipe that somebody put there.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return ErrnoStatus(errno, "open the key file " + path);
  struct stat file {};
  if (::fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, "stat the key file " + path);
  if (!S_ISREG(file.st_mode)) {
    return absl::InvalidArgumentError("the key file " + path + " is no regular file");
  }
  if (file.st_uid != ::geteuid() && file.st_uid != 0) {
    return absl::PermissionDeniedError("the key file " + path + " belongs to user " +
                                       std::to_string(file.st_uid) + ": chown it to user " +
                                       std::to_string(::geteuid()) + " or root");
  }
  if ((file.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return absl::PermissionDeniedError("the key file " + path +
                                       " can be used by others than its owner: chmod 600 it");
  }
  for (size_t used = 0;;) {
    if (used == room.size()) {
      return absl::ResourceExhaustedError("the key file " + path + " has " +
                                          std::to_string(room.size()) +
                                          " bytes or more; is it the right file?");
    }
    const ssize_t count = ::read(fd.get(), room.data() + used, room.size() - used);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "read the key file " + path);
    if (count == 0) return used;
    used += static_cast<size_t>(count);
  }
}

}  // namespace

SecretMemory::SecretMemory(size_t bytes) {
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TC_CHECK(memory != MAP_FAILED);
  TC_CHECK(::madvise(memory, bytes, MADV_DONTDUMP) == 0);
  TC_CHECK(::madvise(memory, bytes, MADV_WIPEONFORK) == 0);
  bytes_ = {static_cast<std::byte*>(memory), bytes};
}

SecretMemory::~SecretMemory() {
  if (bytes_.empty()) return;
  OPENSSL_cleanse(bytes_.data(), bytes_.size());
  ::munmap(bytes_.data(), bytes_.size());
}

absl::StatusOr<KeyRing> KeyRing::Parse(std::string_view text, std::string_view where) {
  KeyRing ring;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = Trimmed(text.substr(0, std::min(text.find('#'), end)));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    const auto wrong = [&](const std::string& what) {
      return absl::InvalidArgumentError(std::string(where) + ":" + std::to_string(number) + ": " +
                                        what);
    };
    if (ring.count_ == kMaxKeys) {
      return wrong("more than " + std::to_string(kMaxKeys) + " keys; take out the oldest");
    }
    SealingKey& key = ring.slots()[ring.count_];
    if (const char* what = ReadLine(line, key)) return wrong(what);
    if (ring.Find(key.number) != nullptr) {
      return wrong("there is a key " + std::to_string(key.number) +
                   " already; a new one has a number of its own");
    }
    ++ring.count_;
    std::sort(ring.slots(), ring.slots() + ring.count_,
              [](const SealingKey& a, const SealingKey& b) { return a.number < b.number; });
  }
  if (ring.count_ > 0) return ring;
  return absl::InvalidArgumentError(
      std::string(where) + " has no key; write one line: 1 and what `openssl rand -hex 32` prints");
}

std::span<const SealingKey> KeyRing::keys() const { return {slots(), count_}; }

const SealingKey* KeyRing::Find(uint32_t number) const {
  for (const SealingKey& key : keys()) {
    if (key.number == number) return &key;
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<KeySource>> KeySource::Open(Options options) {
  std::shared_ptr<KeySource> source(new KeySource(std::move(options)));
  TC_ASSIGN_OR_RETURN(KeyRing ring, source->Read({}));
  source->Take(std::move(ring));
  return source;
}

absl::StatusOr<KeyRing> KeySource::Read(const std::stop_token& stop) const {
  const SecretMemory text(kMaxKeyTextBytes);
  TC_ASSIGN_OR_RETURN(const size_t bytes, options_.command.empty()
                                              ? ReadKeyFile(options_.file, text.bytes())
                                              : RunKeyCommand(options_.command, text.bytes(),
                                                              kKeyCommandPatience, stop));
  return KeyRing::Parse({reinterpret_cast<const char*>(text.bytes().data()), bytes},
                        options_.command.empty() ? options_.file : "what the command prints");
}

absl::Status KeySource::Reload(const std::stop_token& stop) {
  if (!options_) return absl::OkStatus();
  absl::StatusOr<KeyRing> ring = Read(stop);
  const bool is_gone = options_.command.empty() && absl::IsNotFound(ring.status());
  if (!is_gone) TC_RETURN_IF_ERROR(ring.status());
  Take(is_gone ? KeyRing::Empty() : *std::move(ring));
  return absl::OkStatus();
}

void KeySource::Take(KeyRing ring) {
  auto read = std::make_shared<const KeyRing>(std::move(ring));
  MutexLock lock(mutex_);
  ring_ = std::move(read);
}

}  // namespace thermocline
