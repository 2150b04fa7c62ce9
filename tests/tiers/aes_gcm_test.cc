// The vectors of C2SP's XAES-256-GCM.md, and the cipher below against OpenSSL's own AES-256-GCM
// over a key that OpenSSL's own CMAC derives.
#include "tiers/aes_gcm.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "hashing/sha256.h"
#include "tests/tiers/scratch_directory.h"

namespace thermocline {
namespace {

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// Ciphertext and tag, sealed in pieces of `piece` bytes, in place.
std::vector<std::byte> Seal(AesGcm::Key key, std::string_view nonce, std::string_view associated,
                            std::span<const std::byte> plain, size_t piece) {
  std::vector<std::byte> out(plain.begin(), plain.end());
  out.resize(plain.size() + AesGcm::kTagBytes);
  AesGcm cipher(AesGcm::Way::kSeal, key, Bytes(nonce).first<AesGcm::kNonceBytes>());
  cipher.Associate(Bytes(associated));
  for (size_t at = 0; at < plain.size(); at += piece) {
    const size_t count = std::min(piece, plain.size() - at);
    cipher.Update({out.data() + at, count}, out.data() + at);
  }
  cipher.FinishSeal(std::span(out).last<AesGcm::kTagBytes>());
  return out;
}

std::string Hex(std::span<const std::byte> bytes) {
  return ToHex({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

TEST(AesGcmTest, PublishedVectors) {
  const std::string nonce = "ABCDEFGHIJKLMNOPQRSTUVWX";
  std::array<uint8_t, AesGcm::kKeyBytes> key;
  key.fill(1);
  EXPECT_EQ(Hex(Seal(key, nonce, "", Bytes("XAES-256-GCM"), 100)),
            "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
  key.fill(3);
  EXPECT_EQ(Hex(Seal(key, nonce, "c2sp.org/XAES-256-GCM", Bytes("XAES-256-GCM"), 5)),
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}

/// AES-256-GCM by OpenSSL alone, with a nonce of 12 bytes.
std::vector<std::byte> OpenSslGcm(const uint8_t* key, std::span<const std::byte> nonce,
                                  std::string_view associated, std::span<const std::byte> plain) {
  std::vector<std::byte> out(plain.size() + AesGcm::kTagBytes);
  auto* const to = reinterpret_cast<uint8_t*>(out.data());
  EVP_CIPHER_CTX* const context = EVP_CIPHER_CTX_new();
  int count = 0;
  EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), nullptr, key,
                     reinterpret_cast<const uint8_t*>(nonce.data()));
  EVP_EncryptUpdate(context, nullptr, &count, reinterpret_cast<const uint8_t*>(associated.data()),
                    static_cast<int>(associated.size()));
  EVP_EncryptUpdate(context, to, &count, reinterpret_cast<const uint8_t*>(plain.data()),
                    static_cast<int>(plain.size()));
  EVP_EncryptFinal_ex(context, to + plain.size(), &count);
  EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, AesGcm::kTagBytes, to + plain.size());
  EVP_CIPHER_CTX_free(context);
  return out;
}

TEST(AesGcmTest, AgreesWithOpenSslOverAKeyThatItsCmacDerives) {
  const uint64_t seed = TestSeed(5);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    SCOPED_TRACE("TC_SEED=" + std::to_string(seed) + " round " + std::to_string(round));
    std::array<uint8_t, AesGcm::kKeyBytes> key;
    for (uint8_t& byte : key) byte = static_cast<uint8_t>(random());
    std::string nonce(AesGcm::kNonceBytes, '\0');
    for (char& c : nonce) c = static_cast<char>(random());
    std::vector<std::byte> plain(random() % 5000);
    for (std::byte& byte : plain) byte = static_cast<std::byte>(random());

    uint8_t derived[AesGcm::kKeyBytes];
    for (uint8_t i = 0; i < 2; ++i) {
      uint8_t block[16] = {0, static_cast<uint8_t>(i + 1), 'X', 0};
      std::memcpy(block + 4, nonce.data(), 12);
      size_t length = 0;
      ASSERT_NE(EVP_Q_mac(nullptr, "CMAC", nullptr, "AES-256-CBC", nullptr, key.data(), key.size(),
                          block, sizeof block, derived + 16 * i, 16, &length),
                nullptr);
    }
    const auto expected = OpenSslGcm(derived, Bytes(nonce).last(12), "with it", plain);
    const auto sealed = Seal(key, nonce, "with it", plain, 1 + random() % 1000);
    ASSERT_EQ(Hex(sealed), Hex(expected));

    std::vector<std::byte> opened(plain.size());
    AesGcm cipher(AesGcm::Way::kOpen, key, Bytes(nonce).first<AesGcm::kNonceBytes>());
    cipher.Associate(Bytes("with it")).Update(std::span(sealed).first(plain.size()), opened.data());
    EXPECT_TRUE(cipher.FinishOpen(std::span(sealed).last<AesGcm::kTagBytes>()));
    EXPECT_EQ(opened, plain);
  }
}

}  // namespace
}  // namespace thermocline
