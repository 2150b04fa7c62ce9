#include "bench/mooncake_peer.h"

#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

namespace thermocline::bench {
namespace {

using Json = nlohmann::json;

const char kPython[] = TC_SOURCE_DIR "/build/mooncake-venv/bin/python";
const char kScript[] = TC_SOURCE_DIR "/bench/mooncake_peer.py";

std::vector<std::string> InItsOwnNetwork(std::vector<std::string> words) {
  std::vector<std::string> all = {"unshare", "--net"};
  if (geteuid() != 0) all.push_back("--map-root-user");
  all.insert(all.end(), words.begin(), words.end());
  return all;
}

absl::StatusOr<Json> Ask(Coprocess& process, const std::string& line) {
  TC_ASSIGN_OR_RETURN(const std::string answer, process.Ask(line));
  const Json json = Json::parse(answer, nullptr, false);
  if (!json.is_object()) return absl::InternalError("mooncake said: " + answer);
  if (json.contains("error")) return absl::InternalError("mooncake: " + json["error"].dump());
  return json;
}

std::string Line(const char* verb, const Load& load) {
  return std::string(verb) + " " + std::to_string(load.bytes) + " " + std::to_string(load.blocks) +
         " " + std::to_string(load.batch);
}

absl::StatusOr<Transfer> Move(Coprocess& process, const char* verb, const Load& load) {
  TC_ASSIGN_OR_RETURN(const Json answer, Ask(process, Line(verb, load)));
  return Transfer{.ms = answer.value("ms", 0.0),
                  .client_cpu_s = answer.value("client_cpu_s", 0.0),
                  .server_cpu_s = answer.value("server_cpu_s", 0.0)};
}

}  // namespace

std::string MooncakeMissing() {
  if (access(kPython, X_OK) != 0) {
    return std::string("no ") + kPython + "; bench/run.sh peers makes it";
  }
  const auto probe = Coprocess::Start(InItsOwnNetwork({"echo", "yes"}), "/dev/null");
  if (probe.ok() && (*probe)->Hear().ok()) return "";
  return "no network namespace can be made here, and its client listens on every address";
}

absl::StatusOr<std::unique_ptr<Mooncake>> Mooncake::Start(const std::string& mode,
                                                          size_t capacity_bytes) {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string log = (self.parent_path() / ("mooncake_" + mode + ".log")).string();
  TC_ASSIGN_OR_RETURN(auto process,
                      Coprocess::Start(InItsOwnNetwork({kPython, kScript, mode}), log));
  TC_RETURN_IF_ERROR(Ask(*process, "load " + std::to_string(capacity_bytes)).status());
  return std::unique_ptr<Mooncake>(new Mooncake(mode, std::move(process)));
}

absl::StatusOr<Transfer> Mooncake::Put(const Load& load) { return Move(*process_, "put", load); }

absl::StatusOr<Transfer> Mooncake::Get(const Load& load) { return Move(*process_, "get", load); }

absl::Status Mooncake::Check(const Load& load) {
  TC_ASSIGN_OR_RETURN(const Json answer, Ask(*process_, Line("check", load)));
  if (answer.value("right", size_t{0}) == load.blocks) return absl::OkStatus();
  return absl::DataLossError("mooncake: of " + std::to_string(load.blocks) +
                             " blocks are right: " + answer.dump());
}

absl::Status Mooncake::Clear() { return Ask(*process_, "clear").status(); }

absl::StatusOr<double> Mooncake::Exist(size_t keys, size_t asked, int rounds, int calls) {
  TC_ASSIGN_OR_RETURN(
      const Json answer,
      Ask(*process_, "exist " + std::to_string(keys) + " " + std::to_string(asked) + " " +
                         std::to_string(rounds) + " " + std::to_string(calls)));
  return Median(answer.at("us").get<std::vector<double>>());
}

}  // namespace thermocline::bench
