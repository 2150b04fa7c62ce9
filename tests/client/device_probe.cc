// A client (SOCKET SEED PLACES BLOCK_BYTES) that reads a hot path in place, in a process of its
// own, for the test that kills it: says 'r' when every byte was right and some were on the device,
// and reads until it is killed.
#include <unistd.h>

#include <cstdlib>

#include "tests/client/device_reader.h"

int main(int argc, char** argv) {
  using namespace thermocline;
  if (argc != 5) return 2;
  const auto number = [&](int at) { return std::strtoul(argv[at], nullptr, 10); };
  DeviceReader reader(argv[1], TestSpace(number(4)));
  const auto tokens = Prompt(static_cast<int32_t>(number(2)), static_cast<uint32_t>(number(3)));
  auto lease = reader.Match(tokens);
  if (!lease.ok() || DeviceReader::InPlace(*lease).empty()) return 1;
  bool said = false;
  while (reader.RightPlaces(*lease, tokens) == number(3)) {
    if (!said && ::write(1, "r", 1) != 1) return 1;
    said = true;
  }
  return 1;
}
