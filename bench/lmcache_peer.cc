#include "bench/lmcache_peer.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

namespace thermocline::bench {
namespace {

using Json = nlohmann::json;

constexpr size_t kWriteBatch = 16;
const char kPython[] = TC_SOURCE_DIR "/build/lmcache-venv/bin/python";
const char kScript[] = TC_SOURCE_DIR "/bench/lmcache_peer.py";

std::string Words(std::initializer_list<size_t> numbers) {
  std::string words;
  for (const size_t number : numbers) words += " " + std::to_string(number);
  return words;
}

absl::StatusOr<Json> Ask(Coprocess& process, const std::string& line) {
  TC_ASSIGN_OR_RETURN(const std::string answer, process.Ask(line));
  const Json json = Json::parse(answer, nullptr, false);
  if (!json.is_object()) return absl::InternalError("lmcache said: " + answer);
  if (json.contains("error")) return absl::InternalError("lmcache: " + json["error"].dump());
  return json;
}

absl::StatusOr<DiskWork> Work(Coprocess& process, const std::string& line, uint64_t bytes) {
  TC_ASSIGN_OR_RETURN(const Json answer, Ask(process, line));
  return DiskWork{.bytes = bytes,
                  .seconds = answer.value("seconds", 0.0),
                  .cpu_s = answer.value("cpu_s", 0.0),
                  .device_bytes = answer.value("device_bytes", uint64_t{0}),
                  .get_ms = answer.value("get_ms", std::vector<double>())};
}

}  // namespace

std::string LmcacheMissing() {
  if (access(kPython, X_OK) == 0) return "";
  return std::string("no ") + kPython + "; bench/run.sh cold makes it";
}

absl::StatusOr<std::unique_ptr<Lmcache>> Lmcache::Start(const ColdBlocks& blocks,
                                                        const std::string& directory,
                                                        const std::string& content,
                                                        size_t read_batch) {
  TC_ASSIGN_OR_RETURN(auto process, Coprocess::Start({kPython, kScript, directory, content,
                                                      std::to_string(blocks.bytes())}));
  return std::unique_ptr<Lmcache>(new Lmcache(blocks, std::move(process), read_batch));
}

absl::StatusOr<DiskWork> Lmcache::Write(size_t first, size_t count, int writers) {
  return Work(*process_, "write" + Words({static_cast<size_t>(writers), kWriteBatch, first, count}),
              count * blocks_.bytes());
}

absl::StatusOr<DiskWork> Lmcache::Read(std::span<const size_t> blocks, int threads) {
  std::string line = "read" + Words({static_cast<size_t>(threads), read_batch_});
  for (const size_t block : blocks) line += Words({block});
  return Work(*process_, line, blocks.size() * blocks_.bytes());
}

absl::Status Lmcache::Check(size_t block) {
  TC_ASSIGN_OR_RETURN(const Json answer, Ask(*process_, "check" + Words({block})));
  if (answer.value("right", false)) return absl::OkStatus();
  return absl::DataLossError("lmcache: block " + std::to_string(block) + " is wrong");
}

absl::Status Lmcache::Drop(size_t first, size_t count) {
  return Ask(*process_, "drop" + Words({first, count})).status();
}

}  // namespace thermocline::bench
