// AES-256-GCM under a key of its own for every message: XAES-256-GCM (C2SP, XAES-256-GCM.md), which
// is a key derivation of NIST SP 800-108r1 before plain AES-256-GCM of OpenSSL.
//
// Why not AES-256-GCM alone: its nonce has 96 bits. Drawn at random, NIST SP 800-38D (8.3) allows
// 2^32 messages a key, which are 256 TiB of blocks of 64 KiB: three days at 1 GiB/s. Counted, they
// must never be counted twice, by no restart, no copy of a disk or of a machine, no clock set back:
// what a cache that may lose its store at any moment cannot promise, and one repeated nonce gives
// the authentication key away. Here 192 bits are drawn, with no state at all: 96 choose the derived
// key, 96 are the nonce under it. Two messages meet in both with probability 2^-33 after 2^80
// messages under one key (q^2 / 2 / 2^192). It costs three AES blocks and a key schedule more.
#pragma once
#include <openssl/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace thermocline {

/// One message, sealed or opened in pieces. Thread: one at a time. Its state is wiped when it goes.
class AesGcm {
 public:
  static constexpr size_t kKeyBytes = 32;
  static constexpr size_t kNonceBytes = 24;
  static constexpr size_t kTagBytes = 16;
  using Key = std::span<const uint8_t, kKeyBytes>;
  using Nonce = std::span<const std::byte, kNonceBytes>;

  enum class Way { kSeal, kOpen };
  AesGcm(Way way, Key key, Nonce nonce);
  ~AesGcm();

  /// Bytes that are not encrypted and are bound to the message; before the first Update.
  AesGcm& Associate(std::span<const std::byte> bytes);
  /// `out` has room for `in`, and is the same memory or memory apart. What is opened so must not be
  /// believed before FinishOpen has said yes.
  AesGcm& Update(std::span<const std::byte> in, std::byte* out);
  void FinishSeal(std::span<std::byte, kTagBytes> tag);
  [[nodiscard]] bool FinishOpen(std::span<const std::byte, kTagBytes> tag);

 private:
  struct Free {
    void operator()(EVP_CIPHER_CTX* context) const;
  };
  std::unique_ptr<EVP_CIPHER_CTX, Free> context_;
};

}  // namespace thermocline
