// A daemon with the tenants "alice" and "bob" beside the default one, and a client of each, who are
// told apart by their tokens.
#pragma once
#include <memory>
#include <string>

#include "base/file_util.h"
#include "hashing/sha256.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {

struct TwoTenants {
  /// `of_bob`, `of_alice`: further lines of their tables.
  explicit TwoTenants(const std::string& of_bob = "", const std::string& warm_capacity = "128MiB",
                      const std::string& of_alice = "")
      : daemon({.warm_capacity = warm_capacity,
                .more = {"--config=DIRECTORY/config", "--token-file=DIRECTORY/tokens"},
                .prepare =
                    [&](const std::string& directory) { Configure(directory, of_alice, of_bob); }}),
        alice(Connect("alice")),
        bob(Connect("bob")) {}

  DaemonProcess daemon;
  std::unique_ptr<Client> alice, bob;

 private:
  static void Configure(const std::string& directory, const std::string& of_alice,
                        const std::string& of_bob) {
    std::string tokens;
    for (const char* tenant : {"alice", "bob"}) {
      const std::string token(40, tenant[0]);
      Sha256Builder sha;
      sha.Raw(std::as_bytes(std::span(token)));
      tokens += ToHex(sha.Finish()) + " " + tenant + " writer t\n";
      TC_CHECK(WriteFileAtomically(directory + "/" + tenant, token).ok());
    }
    TC_CHECK(WriteFileAtomically(directory + "/tokens", tokens).ok());
    TC_CHECK(WriteFileAtomically(directory + "/config", "[[tenant]]\nname = \"alice\"\n" +
                                                            of_alice +
                                                            "[[tenant]]\nname = \"bob\"\n" + of_bob)
                 .ok());
  }
  std::unique_ptr<Client> Connect(const std::string& tenant) const {
    auto client = Client::Connect({.remote = {.address = "unix://" + daemon.socket() + ".grpc",
                                              .token_file = daemon.directory() + "/" + tenant},
                                   .timeout = DaemonProcess::kCallTimeout});
    if (!client.ok()) std::fprintf(stderr, "%s\n", std::string(client.status().message()).c_str());
    TC_CHECK(client.ok());
    return *std::move(client);
  }
};

}  // namespace thermocline
