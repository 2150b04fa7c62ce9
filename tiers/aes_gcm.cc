#include "tiers/aes_gcm.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace thermocline {
namespace {

constexpr size_t kBlockBytes = 16;
constexpr size_t kHalfNonceBytes = AesGcm::kNonceBytes / 2;

/// Looked up once: doing so for each message takes longer than deriving its key.
EVP_CIPHER* Fetch(const char* name) {
  EVP_CIPHER* const cipher = EVP_CIPHER_fetch(nullptr, name, nullptr);
  TC_CHECK(cipher != nullptr);
  return cipher;
}
EVP_CIPHER* Ecb() {
  static EVP_CIPHER* const cipher = Fetch("AES-256-ECB");
  return cipher;
}
EVP_CIPHER* Gcm() {
  static EVP_CIPHER* const cipher = Fetch("AES-256-GCM");
  return cipher;
}

const uint8_t* Raw(std::span<const std::byte> bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.data());
}

/// CMAC's first subkey: the cipher's image of zero, doubled in GF(2^128) (NIST SP 800-38B, 6.1).
void Double(uint8_t* block) {
  const uint8_t carry = block[0] >> 7;
  for (size_t i = 0; i + 1 < kBlockBytes; ++i) {
    block[i] = static_cast<uint8_t>(block[i] << 1 | block[i + 1] >> 7);
  }
  block[kBlockBytes - 1] =
      static_cast<uint8_t>(block[kBlockBytes - 1] << 1 ^ (carry != 0 ? 0x87 : 0));
}

/// The two CMACs of one block each that make the derived key, over {0, i, 'X', 0} and half a nonce.
void DeriveKey(EVP_CIPHER_CTX* context, AesGcm::Key key, const uint8_t* half_nonce,
               uint8_t* derived) {
  uint8_t subkey[kBlockBytes] = {};
  uint8_t blocks[2 * kBlockBytes];
  int written = 0;
  TC_CHECK(EVP_EncryptInit_ex2(context, Ecb(), key.data(), nullptr, nullptr) == 1);
  TC_CHECK(EVP_CIPHER_CTX_set_padding(context, 0) == 1);
  TC_CHECK(EVP_EncryptUpdate(context, subkey, &written, subkey, kBlockBytes) == 1);
  Double(subkey);
  for (size_t i = 0; i < 2; ++i) {
    uint8_t* const block = blocks + i * kBlockBytes;
    block[0] = block[3] = 0;
    block[1] = static_cast<uint8_t>(i + 1);
    block[2] = 'X';
    std::copy_n(half_nonce, kHalfNonceBytes, block + 4);
    for (size_t k = 0; k < kBlockBytes; ++k) block[k] ^= subkey[k];
  }
  TC_CHECK(EVP_EncryptUpdate(context, derived, &written, blocks, sizeof blocks) == 1);
  TC_CHECK(written == sizeof blocks);
  OPENSSL_cleanse(subkey, sizeof subkey);
}

}  // namespace

void AesGcm::Free::operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }

AesGcm::AesGcm(Way way, Key key, Nonce nonce) : context_(EVP_CIPHER_CTX_new()) {
  TC_CHECK(context_ != nullptr);
  uint8_t derived[kKeyBytes];
  DeriveKey(context_.get(), key, Raw(nonce), derived);
  TC_CHECK(EVP_CIPHER_CTX_reset(context_.get()) == 1);
  static_assert(kNonceBytes - kHalfNonceBytes == 12);  // the length that GCM has by itself
  TC_CHECK(EVP_CipherInit_ex2(context_.get(), Gcm(), derived, Raw(nonce) + kHalfNonceBytes,
                              way == Way::kSeal ? 1 : 0, nullptr) == 1);
  OPENSSL_cleanse(derived, sizeof derived);
}

AesGcm::~AesGcm() = default;

AesGcm& AesGcm::Associate(std::span<const std::byte> bytes) {
  int written = 0;
  TC_CHECK(bytes.size() <= std::numeric_limits<int>::max());
  TC_CHECK(EVP_CipherUpdate(context_.get(), nullptr, &written, Raw(bytes),
                            static_cast<int>(bytes.size())) == 1);
  return *this;
}

AesGcm& AesGcm::Update(std::span<const std::byte> in, std::byte* out) {
  if (in.empty()) return *this;
  int written = 0;
  TC_CHECK(in.size() <= std::numeric_limits<int>::max());
  TC_CHECK(EVP_CipherUpdate(context_.get(), reinterpret_cast<uint8_t*>(out), &written, Raw(in),
                            static_cast<int>(in.size())) == 1);
  return *this;
}

void AesGcm::FinishSeal(std::span<std::byte, kTagBytes> tag) {
  uint8_t nothing[kBlockBytes];
  int written = 0;
  TC_CHECK(EVP_CipherFinal_ex(context_.get(), nothing, &written) == 1);
  TC_CHECK(EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag.data()) == 1);
}

bool AesGcm::FinishOpen(std::span<const std::byte, kTagBytes> tag) {
  uint8_t expected[kTagBytes];
  std::copy_n(Raw(tag), kTagBytes, expected);
  TC_CHECK(EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes, expected) == 1);
  uint8_t nothing[kBlockBytes];
  int written = 0;
  return EVP_CipherFinal_ex(context_.get(), nothing, &written) == 1;
}

}  // namespace thermocline
