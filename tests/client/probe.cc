// A client (SOCKET ADDRESS; an empty address: with the map) in a process of its own, for the tests
// that stop it: matches, says whether the lease is valid ('v') or ended ('e'), waits for a byte,
// says it again, matches again and says that. With a third argument it puts a path, says 'v', waits
// for a byte, puts another, and says 'v' when that is right.
#include <unistd.h>

#include "tests/client/blocks.h"

namespace thermocline {
namespace {

bool Say(const char* what) { return ::write(1, what, 1) == 1; }
bool Hear() {
  char byte;
  return ::read(0, &byte, 1) == 1;
}

// The daemon prolongs leases again a second after it hears the heart beat.
constexpr int kAttempts = 1200;
constexpr useconds_t kPause = 50'000;

int Match(const Space& space) {
  const auto tokens = Prompt(13, 2);
  const auto lease = space.Match(tokens);
  if (!lease.ok() || lease->depth() != 2) return 1;
  const auto say = [](const Lease& of) { return Say(of.StillValid() ? "v" : "e"); };
  if (!say(*lease) || !Hear() || !say(*lease)) return 1;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto again = space.Match(tokens);
    if (again.ok() && again->depth() == 2 && again->StillValid()) return say(*again) ? 0 : 1;
    ::usleep(kPause);
  }
  return 1;
}

bool PutRight(const Space& space, int32_t seed, uint32_t places) {
  const auto tokens = Prompt(seed, places);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    auto lease = space.Match(tokens);
    if (lease.ok() && Extend(space, *lease, tokens, places).ok() && lease->StillValid()) {
      return lease->depth() == places && RightPlaces(space, *lease, tokens) == places;
    }
    ::usleep(kPause);
  }
  return false;
}

int Put(const Space& space) {
  return PutRight(space, 31, 16) && Say("v") && Hear() && PutRight(space, 32, 64) && Say("v") ? 0
                                                                                              : 1;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  using namespace thermocline;
  if (argc != 3 && argc != 4) return 2;
  const auto client = Client::Connect(
      {.socket_path = argv[1], .remote = {.address = argv[2]}, .client_name = "probe"});
  if (!client.ok()) return 1;
  const auto space = (*client)->OpenSpace(TestSpace());
  if (!space.ok()) return 1;
  return argc == 3 ? Match(*space) : Put(*space);
}
