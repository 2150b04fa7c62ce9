// A client (SOCKET ADDRESS; an empty address: with the map) in a process of its own, for the test
// that stops it: matches, says whether the lease is valid ('v') or ended ('e'), waits for a byte,
// says it again, matches again and says that.
#include <unistd.h>

#include "tests/client/blocks.h"

int main(int argc, char** argv) {
  using namespace thermocline;
  if (argc != 3) return 2;
  const auto client = Client::Connect(
      {.socket_path = argv[1], .remote = {.address = argv[2]}, .client_name = "probe"});
  if (!client.ok()) return 1;
  const auto space = (*client)->OpenSpace(TestSpace());
  const auto tokens = Prompt(13, 2);
  const auto lease = space->Match(tokens);
  if (!lease.ok() || lease->depth() != 2) return 1;
  const auto say = [](const Lease& of) { return ::write(1, of.StillValid() ? "v" : "e", 1) == 1; };
  char byte;
  if (!say(*lease) || ::read(0, &byte, 1) != 1 || !say(*lease)) return 1;
  // The daemon prolongs leases again a second after it hears the heart beat.
  for (int attempt = 0; attempt < 1200; ++attempt) {
    const auto again = space->Match(tokens);
    if (again.ok() && again->depth() == 2 && again->StillValid()) return say(*again) ? 0 : 1;
    ::usleep(50'000);
  }
  return 1;
}
