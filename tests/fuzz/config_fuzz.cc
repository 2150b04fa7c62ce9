// Configuration files are written by people: whatever they hold, there is an error or a value
// within its limits, and what is accepted prints to a file that reads back the same.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/options.h"

namespace {

using namespace thermocline;

constexpr OptionDef kOptions[] = {
    {"socket", OptionType::kString, "", "Where clients connect."},
    {"warm.capacity", OptionType::kBytes, "1GiB", "Memory for warm blocks.", {}, 4096},
    {"warm.shutdown", OptionType::kEnum, "keep", "What SIGTERM does.", "keep|drain"},
    {"lease_ttl", OptionType::kDuration, "10s", "How long a lease lasts.", {}, 1000, 3'600'000'000},
    {"max_sessions", OptionType::kInt, "64", "Clients at a time.", {}, 1, 1000},
    {"insecure", OptionType::kBool, "false", "Allows TCP without TLS."},
};
constexpr OptionDef kRowOptions[] = {
    {"name", OptionType::kString, "", "What it is called."},
    {"uids", OptionType::kIntList, "", "Whose it is.", {}, 0, 1 << 20},
    {"share", OptionType::kBytes, "0", "What it has."},
};
constexpr OptionTable kRows = {"tenant", "One each.", "", kRowOptions};
constexpr OptionTable kTable = {"fuzzd", "Reads anything.", "", kOptions, &kRows};

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view content(reinterpret_cast<const char*>(data), size);
  Options options(kTable);
  if (!ReadConfig(content, "fuzz.toml", options).ok()) return 0;
  Require(options.Bytes("warm.capacity") >= 4096);
  Require(options.Int("max_sessions") >= 1 && options.Int("max_sessions") <= 1000);
  Require(options.Duration("lease_ttl") >= std::chrono::milliseconds(1));
  Options again(kTable);
  Require(ReadConfig(ConfigText(options), "again.toml", again).ok());
  Require(again.Bytes("warm.capacity") == options.Bytes("warm.capacity"));
  Require(again.Duration("lease_ttl") == options.Duration("lease_ttl"));
  Require(again.Int("max_sessions") == options.Int("max_sessions"));
  Require(again.Bool("insecure") == options.Bool("insecure"));
  Require(again.String("socket") == options.String("socket"));
  Require(again.String("warm.shutdown") == options.String("warm.shutdown"));
  Require(again.rows().size() == options.rows().size());
  for (size_t i = 0; i < options.rows().size(); ++i) {
    const Options& row = options.rows()[i];
    for (const int64_t uid : row.IntList("uids")) Require(uid >= 0 && uid <= 1 << 20);
    Require(again.rows()[i].String("name") == row.String("name"));
    Require(again.rows()[i].IntList("uids") == row.IntList("uids"));
    Require(again.rows()[i].Bytes("share") == row.Bytes("share"));
  }
  return 0;
}
