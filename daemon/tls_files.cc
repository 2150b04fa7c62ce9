#include "daemon/tls_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

#include "base/file_util.h"

namespace thermocline {
namespace {

constexpr uint64_t kMaxPemBytes = 1 << 20;

struct OpenSslDeleter {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <class T>
using OpenSsl = std::unique_ptr<T, OpenSslDeleter>;

absl::Status Wrong(const char* option, const std::string& path, const std::string& what) {
  ERR_clear_error();  // it is this thread's, and nobody else's business
  return absl::InvalidArgumentError(std::string(option) + " " + path + " " + what);
}

absl::StatusOr<OpenSsl<BIO>> OpenPem(const char* option, const std::string& path,
                                     std::string& content) {
  absl::StatusOr<std::string> read = ReadFile(path, kMaxPemBytes);
  if (!read.ok()) return Annotate(read.status(), option);
  content = *std::move(read);
  return OpenSsl<BIO>(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
}

absl::StatusOr<OpenSsl<X509>> ReadCertificate(const char* option, const std::string& path) {
  std::string content;
  TC_ASSIGN_OR_RETURN(const OpenSsl<BIO> pem, OpenPem(option, path, content));
  OpenSsl<X509> certificate(PEM_read_bio_X509(pem.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) return Wrong(option, path, "holds no certificate in PEM");
  return certificate;
}

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files) {
  TC_ASSIGN_OR_RETURN(const OpenSsl<X509> certificate,
                      ReadCertificate("tls_certificate", files.certificate));
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return Wrong("tls_certificate", files.certificate, "has expired; put a new one there");
  }
  std::string content;
  TC_ASSIGN_OR_RETURN(const OpenSsl<BIO> pem, OpenPem("tls_key", files.key, content));
  // No passphrase is asked for at a terminal that nobody watches.
  const auto no_passphrase = [](char*, int, int, void*) { return -1; };
  const OpenSsl<EVP_PKEY> key(PEM_read_bio_PrivateKey(pem.get(), nullptr, no_passphrase, nullptr));
  OPENSSL_cleanse(content.data(), content.size());
  if (key == nullptr) {
    return Wrong("tls_key", files.key, "holds no private key in PEM without a passphrase");
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Wrong("tls_key", files.key, "is not the key of tls_certificate " + files.certificate);
  }
  if (files.client_ca.empty()) return absl::OkStatus();
  return ReadCertificate("tls_client_ca", files.client_ca).status();
}

}  // namespace thermocline
