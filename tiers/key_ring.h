// The keys that one tenant's blocks are encrypted under where they lie at rest, from a file or from
// what a command prints. A line is a number and a key, 32 bytes in hexadecimal:
//
//   # openssl rand -hex 32
//   1 8f0c...e1
//   2 41d7...9a
//
// The highest number seals, all open. So a line more is a new key: what was sealed under the old
// one is read as before and goes its way. A line less makes whatever was sealed under it absent,
// which is how a tenant is erased without touching a disk. So does a file less: without any key
// nothing is opened, and nothing sealed either.
//
// Keys lie in memory that no core dump holds and no child inherits, and that is wiped before it is
// given back. No message says more of a key than its number.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/mutex.h"
#include "base/status.h"
#include "tiers/aes_gcm.h"

namespace thermocline {

inline constexpr size_t kMaxKeys = 64;
inline constexpr size_t kMaxKeyTextBytes = 64 * 1024;

/// Memory for secrets, zero at first. Owner: moves.
class SecretMemory {
 public:
  explicit SecretMemory(size_t bytes);
  ~SecretMemory();
  SecretMemory(SecretMemory&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  SecretMemory& operator=(SecretMemory&&) = delete;
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

struct SealingKey {
  uint32_t number = 0;  // never 0
  std::array<uint8_t, AesGcm::kKeyBytes> bytes{};
};

/// Thread: any, as it does not change.
class KeyRing {
 public:
  /// Of no keys: what was sealed is lost, and what is to be sealed is refused.
  static KeyRing Empty() { return KeyRing(); }
  /// Of one key at least.
  /// Errors: InvalidArgument "WHERE:LINE: what is wrong", without a word of the line.
  static absl::StatusOr<KeyRing> Parse(std::string_view text, std::string_view where);

  bool empty() const { return count_ == 0; }
  /// The key of the highest number. Owner: the ring. REQUIRES: there is one.
  const SealingKey& newest() const { return keys().back(); }
  /// Null when there is none of that number.
  const SealingKey* Find(uint32_t number) const;
  /// By number.
  std::span<const SealingKey> keys() const;

 private:
  KeyRing() : memory_(kMaxKeys * sizeof(SealingKey)) {}
  SealingKey* slots() const { return reinterpret_cast<SealingKey*>(memory_.bytes().data()); }

  SecretMemory memory_;
  size_t count_ = 0;
};

/// Where a tenant's keys come from, and those that were read last. Thread: any.
class KeySource {
 public:
  struct Options {
    std::string file;     // or
    std::string command;  // a program's absolute path and its arguments, apart by blanks
    explicit operator bool() const { return !file.empty() || !command.empty(); }
  };
  /// Errors: of Reload. Thread: waits for the command (tiers/key_command.h).
  static absl::StatusOr<std::shared_ptr<KeySource>> Open(Options options);
  /// Of keys that are there already.
  explicit KeySource(KeyRing ring) : ring_(std::make_shared<const KeyRing>(std::move(ring))) {}

  /// Reads the keys again. A file that is gone leaves no keys, as somebody erases by deleting it;
  /// what was read before stays when they cannot be read for another reason.
  /// Errors: PermissionDenied when the file is another's or others may read it; of reading and
  ///         parsing; of the command.
  absl::Status Reload(const std::stop_token& stop = {}) TC_EXCLUDES(mutex_);

  std::shared_ptr<const KeyRing> ring() const TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return ring_;
  }

 private:
  explicit KeySource(Options options) : options_(std::move(options)) {}
  absl::StatusOr<KeyRing> Read(const std::stop_token& stop) const;
  void Take(KeyRing ring) TC_EXCLUDES(mutex_);

  const Options options_;
  mutable Mutex mutex_;
  std::shared_ptr<const KeyRing> ring_ TC_GUARDED_BY(mutex_);  // shared with who seals right now
};

}  // namespace thermocline
