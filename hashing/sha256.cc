#include "hashing/sha256.h"

#include <openssl/evp.h>

#include <bit>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace thermocline {

struct Sha256Builder::Context {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> evp{EVP_MD_CTX_new()};
};

Sha256Builder::Sha256Builder() : context_(std::make_unique<Context>()) {
  TC_CHECK(context_->evp != nullptr);
  TC_CHECK(EVP_DigestInit_ex(context_->evp.get(), EVP_sha256(), nullptr) == 1);
}

Sha256Builder::~Sha256Builder() = default;

Sha256Builder& Sha256Builder::Raw(std::span<const std::byte> bytes) {
  TC_CHECK(EVP_DigestUpdate(context_->evp.get(), bytes.data(), bytes.size()) == 1);
  return *this;
}

Sha256Builder& Sha256Builder::Field(std::span<const std::byte> bytes) {
  TC_CHECK(bytes.size() <= std::numeric_limits<uint32_t>::max());
  static_assert(std::endian::native == std::endian::little);
  const uint32_t length = static_cast<uint32_t>(bytes.size());
  Raw(std::as_bytes(std::span(&length, 1)));
  return Raw(bytes);
}

Sha256Builder& Sha256Builder::Field(std::string_view bytes) {
  return Field(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

Sha256Builder& Sha256Builder::Number(uint64_t value) {
  return Field(std::as_bytes(std::span(&value, 1)));
}

Sha256 Sha256Builder::Finish() {
  Sha256 digest;
  TC_CHECK(EVP_DigestFinal_ex(context_->evp.get(), digest.data(), nullptr) == 1);
  return digest;
}

std::string ToHex(std::span<const uint8_t> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

absl::StatusOr<Sha256> Sha256FromHex(std::string_view text) {
  Sha256 digest{};
  bool valid = text.size() == 2 * kSha256Bytes;
  for (size_t i = 0; valid && i < text.size(); ++i) {
    const char c = text[i];
    int digit = -1;
    if (c >= '0' && c <= '9') digit = c - '0';
    if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
    if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
    valid = digit >= 0;
    digest[i / 2] = static_cast<uint8_t>(digest[i / 2] << 4 | (digit & 15));
  }
  if (!valid) {
    return absl::InvalidArgumentError("not a SHA-256 in hexadecimal (64 digits): '" +
                                      std::string(text.substr(0, 80)) + "'");
  }
  return digest;
}

}  // namespace thermocline
