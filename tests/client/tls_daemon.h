// A daemon that is reached over TLS, too, with certificates made here by the program openssl, and
// what a client needs to be let in.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "base/file_util.h"
#include "hashing/sha256.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {

class TlsDaemon {
 public:
  /// nullptr where the program openssl is absent: skip the test.
  static std::unique_ptr<TlsDaemon> Start() {
    std::unique_ptr<TlsDaemon> made(new TlsDaemon);
    if (!made->MakeCertificates()) return nullptr;
    made->WriteTokens();
    made->daemon_ = std::make_unique<DaemonProcess>(DaemonProcess::Options{
        .more = {"--grpc-listen", "127.0.0.1:0", "--tls-certificate", made->File("server.pem"),
                 "--tls-key", made->File("server.key"), "--tls-client-ca", made->File("ca.pem"),
                 "--token-file", made->File("tokens")}});
    const auto address = ReadFile(made->daemon_->socket() + ".tcp", 100);
    TC_CHECK(address.ok());
    made->remote_ = {.address = "tls://" + address->substr(0, address->size() - 1),
                     .ca_file = made->File("ca.pem"),
                     .certificate_file = made->File("client.pem"),
                     .key_file = made->File("client.key"),
                     .token_file = made->File("token")};
    return made;
  }
  ~TlsDaemon() { std::filesystem::remove_all(directory_); }

  const DaemonProcess& daemon() const { return *daemon_; }
  const RemoteOptions& remote() const { return remote_; }
  /// A file beside the certificates, for this user alone.
  std::string File(const std::string& name) const { return directory_ + "/" + name; }

 private:
  static constexpr char kToken[] = "0123456789abcdef0123456789abcdef";

  TlsDaemon() {
    char name[] = "/tmp/tc-tls-XXXXXX";
    TC_CHECK(::mkdtemp(name) != nullptr);
    directory_ = name;
  }
  /// Of one authority, for a daemon and a client.
  bool MakeCertificates() const {
    const std::string script =
        "cd " + directory_ +
        " && exec >log 2>&1 && new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes' &&"
        " openssl req -x509 $new -days 2 -subj '/CN=CA' -keyout ca.key -out ca.pem &&"
        " echo 'subjectAltName=IP:127.0.0.1' >ext && for name in server client; do"
        " openssl req -new $new -subj /CN=$name -keyout $name.key -out $name.csr && openssl x509"
        " -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext"
        " -out $name.pem || exit 1; done";
    return std::system(script.c_str()) == 0;
  }
  void WriteTokens() const {
    Sha256Builder sha;
    sha.Raw(std::as_bytes(std::span(kToken, sizeof kToken - 1)));
    TC_CHECK(WriteFileAtomically(File("tokens"), ToHex(sha.Finish()) + " default writer t").ok());
    TC_CHECK(WriteFileAtomically(File("token"), std::string(kToken) + "\n").ok());
  }

  std::string directory_;
  std::unique_ptr<DaemonProcess> daemon_;
  RemoteOptions remote_;
};

}  // namespace thermocline
