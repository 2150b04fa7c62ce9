// A client (SOCKET SEED PLACES BLOCK_BYTES) in a process of its own, for the tests that kill it.
// Reads a hot path in place: says 'r' when every byte was right and some were on the device, and
// reads until it is killed. With a fifth argument it fills that path on the device by a stream that
// is held up, "commit": has it committed after that, and says 'r'.
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "tests/client/device_reader.h"

namespace thermocline {
namespace {

int Fill(DeviceReader& reader, const std::vector<int32_t>& tokens, uint32_t places, bool commit) {
  auto lease = reader.space().MatchOnDevice(tokens, LayoutOf(reader.space().spec()));
  if (!lease.ok()) return 1;
  std::optional<Gate> gate;
  auto slots = reader.StartFilling(tokens, lease->depth(), places, &gate);
  if (!slots.ok()) return 1;
  if (commit && !lease->CommitAfter(tokens, *std::move(slots), reader.stream().get()).ok())
    return 1;
  if (::write(1, "r", 1) != 1) return 1;
  while (true) ::pause();
}

int Read(DeviceReader& reader, const std::vector<int32_t>& tokens, uint32_t places) {
  auto lease = reader.Match(tokens);
  if (!lease.ok() || DeviceReader::InPlace(*lease).empty()) return 1;
  bool said = false;
  while (reader.RightPlaces(*lease, tokens) == places) {
    if (!said && ::write(1, "r", 1) != 1) return 1;
    said = true;
  }
  return 1;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  using namespace thermocline;
  if (argc != 5 && argc != 6) return 2;
  const auto number = [&](int at) { return std::strtoul(argv[at], nullptr, 10); };
  DeviceReader reader(argv[1], TestSpace(number(4)));
  const auto places = static_cast<uint32_t>(number(3));
  const auto tokens = Prompt(static_cast<int32_t>(number(2)), places);
  if (argc == 5) return Read(reader, tokens, places);
  return Fill(reader, tokens, places, std::string_view(argv[5]) == "commit");
}
