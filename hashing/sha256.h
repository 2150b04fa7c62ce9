// SHA-256 over length-prefixed fields: what identifies a space. Every field goes in as its length
// (u32, little-endian) and its bytes, so that "org_1" + "2345" and "org_12345" differ.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace thermocline {

inline constexpr size_t kSha256Bytes = 32;
using Sha256 = std::array<uint8_t, kSha256Bytes>;

/// Thread: one at a time.
class Sha256Builder {
 public:
  Sha256Builder();
  ~Sha256Builder();
  Sha256Builder(const Sha256Builder&) = delete;
  Sha256Builder& operator=(const Sha256Builder&) = delete;

  /// One field: u32 length, then the bytes. At most 4 GiB - 1.
  Sha256Builder& Field(std::string_view bytes);
  Sha256Builder& Field(std::span<const std::byte> bytes);
  /// A field of 8 bytes, little-endian.
  Sha256Builder& Number(uint64_t value);
  /// Bytes without a length: for the digest of a file's content.
  Sha256Builder& Raw(std::span<const std::byte> bytes);

  /// REQUIRES: called once, last.
  Sha256 Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

/// Lower-case hexadecimal, two digits a byte.
std::string ToHex(std::span<const uint8_t> bytes);
/// Errors: InvalidArgument unless `text` is exactly 64 hexadecimal digits.
absl::StatusOr<Sha256> Sha256FromHex(std::string_view text);

}  // namespace thermocline
