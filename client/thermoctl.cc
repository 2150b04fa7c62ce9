// thermoctl: looks at a daemon and steers it, for people and for scripts. Exit codes: 0 done,
// 1 refused or failed, 2 usage, 3 no daemon. With --json every verb prints one JSON object on
// standard output, {"error": {"code", "message"}} when it failed.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "base/units.h"
#include "base/version.h"
#include "client/address.h"
#include "client/thermoctl_verbs.h"
#include "hashing/token_ids.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

enum ExitCode { kDone = 0, kFailed = 1, kUsage = 2, kNoDaemon = 3 };

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kDone;
    case absl::StatusCode::kInvalidArgument:
      return kUsage;
    case absl::StatusCode::kUnavailable:
      return kNoDaemon;
    default:
      return kFailed;
  }
}

/// Everything that the command line can say.
struct Arguments {
  ConnectOptions connect;
  std::string timeout = "60s";
  bool json = false;
  PathOptions path;
  std::string name, file, ttl = "1h", tier;
  uint64_t pin = 0;
  uint64_t refreshes = 0;
};

using Verb = std::function<absl::StatusOr<Json>()>;

/// A value that `parse` does not take is wrong usage.
template <class Parse>
std::function<std::string(const std::string&)> Checked(Parse parse) {
  return [parse](const std::string& text) { return std::string(parse(text).status().message()); };
}

/// An empty variable of a script must not stand for whatever is there.
std::function<std::string(const std::string&)> NotEmpty() {
  return [](const std::string& text) { return std::string(text.empty() ? "it is empty" : ""); };
}

CLI::Option* AddDuration(CLI::App& app, const char* flag, std::string& value, const char* help) {
  return app.add_option(flag, value, help)
      ->capture_default_str()
      ->check(Checked([](std::string_view text) { return ParseDuration(text); }));
}

void AddPath(CLI::App& verb, PathOptions& path) {
  auto* which = verb.add_option_group("path");
  which->add_option("--name", path.name, "a file that was put under this name")->check(NotEmpty());
  auto* space = which
                    ->add_option("--space", path.space,
                                 "a space, by its fingerprint or the first digits of it")
                    ->check(NotEmpty());
  which->require_option(1);
  auto* tokens = verb.add_option("--tokens", path.tokens, "token ids: 1,2,3");
  tokens->needs(space)->check(
      Checked([](std::string_view text) { return ParseTokenIds(text, "the list"); }));
  verb.add_option("--tokens-file", path.tokens_file, "token ids in a file; -: standard input")
      ->needs(space)
      ->excludes(tokens);
}

/// Every verb with its options; `chosen` becomes the one that the command line names.
void AddVerbs(CLI::App& app, Arguments& a, Verb& chosen) {
  const auto add = [&](CLI::App& parent, const char* name, const char* help, Verb run) {
    CLI::App* verb = parent.add_subcommand(name, help);
    verb->fallthrough();
    verb->callback([&chosen, run = std::move(run)] { chosen = run; });
    return verb;
  };
  add(app, "status", "The daemon's state, tiers and counters",
      [&] { return RunStatus(a.connect); });
  add(app, "spaces", "The spaces that hold something", [&] { return RunSpaces(a.connect); });
  AddPath(*add(app, "match", "What is here of a path, block by block",
               [&] { return RunMatch(a.connect, a.path); }),
          a.path);
  auto* put = add(app, "put", "Put a file into the cache, cut into blocks",
                  [&] { return RunPut(a.connect, a.name, a.file); });
  put->add_option("--name", a.name, "the name to find it by")->required()->check(NotEmpty());
  put->add_option("file", a.file, "the file")->required();
  auto* get = add(app, "get", "Restore a file that was put, bit for bit", [&] {
    const absl::StatusOr<Json> got = RunGet(a.connect, a.name, a.file);
    if (!got.ok() || a.file != "-") return got;
    std::cerr << (a.json ? Dump(*got) + "\n" : TextOf(*got));  // the content is on standard output
    return absl::StatusOr<Json>(Json());
  });
  get->add_option("--name", a.name, "the name that it was put under")->required();
  get->add_option("file", a.file, "where to write it; -: standard output")->required();
  auto* pin = add(app, "pin", "Keep a path for a time, across restarts", [&] {
    return RunPin(a.connect, a.path, a.ttl, a.tier.empty() ? "any" : a.tier);
  });
  AddPath(*pin, a.path);
  AddDuration(*pin, "--ttl", a.ttl, "for how long: 90s, 10m, 2h");
  pin->add_option("--tier", a.tier, "warm: promoted and kept warm; any: in any local tier")
      ->check(CLI::IsMember({"warm", "any"}));
  add(app, "unpin", "End a pin", [&] { return RunUnpin(a.connect, a.pin); })
      ->add_option("pin", a.pin, "its number")
      ->required();
  add(app, "pins", "The pins that have not expired", [&] { return RunPins(a.connect); });
  AddPath(*add(app, "prefetch", "Promote the cold blocks of a path",
               [&] { return RunPrefetch(a.connect, a.path); }),
          a.path);
  AddPath(*add(app, "delete", "Delete what lies at and behind a path; a space without tokens: all",
               [&] { return RunDelete(a.connect, a.path); }),
          a.path);
  add(app, "flush", "Empty a tier: warm to cold, cold to nothing",
      [&] { return RunFlush(a.connect, a.tier); })
      ->add_option("--tier", a.tier, "warm or cold")
      ->required()
      ->check(CLI::IsMember({"warm", "cold"}));
  add(app, "fsck", "Check the books, and read every cold block back",
      [&] { return RunFsck(a.connect); });
  auto* arena = app.add_subcommand("arena", "The warm tier's memory");
  arena->require_subcommand(1)->fallthrough();
  add(*arena, "drop", "Drop every block of the arena", [&] { return RunArenaDrop(a.connect); });
  add(app, "tenants", "All tenants, and what each has and uses",
      [&] { return RunTenants(a.connect); });
  add(app, "watch", "The state, every second, until interrupted", [&]() -> absl::StatusOr<Json> {
    TC_RETURN_IF_ERROR(RunWatch(a.connect, a.refreshes, a.json));
    return Json();
  })->add_option("--count", a.refreshes, "end after so many refreshes");
}

void PrintError(absl::StatusCode code, const std::string& message) {
  const Json error = {{"code", absl::StatusCodeToString(code)}, {"message", message}};
  std::cout << Dump({{"error", error}}) << "\n";
}

int Report(const absl::StatusOr<Json>& result, bool json) {
  if (!result.ok()) {
    const absl::Status& status = result.status();
    const std::string message(status.message());
    if (json) PrintError(status.code(), message);
    std::cerr << "thermoctl: " << message << "\n";
    return ExitCodeOf(status);
  }
  if (!result->is_null()) std::cout << (json ? Dump(*result) + "\n" : TextOf(*result));
  std::cout.flush();
  return std::cout ? kDone : kFailed;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  Verb verb;
  CLI::App app("Looks at a Thermocline daemon and steers it.", "thermoctl");
  app.add_option("--socket", arguments.connect.socket,
                 "the daemon's socket; default: $THERMOCLINE_SOCKET, else the daemon's default");
  RemoteOptions& remote = arguments.connect.remote;
  app.add_option("--address", remote.address,
                 "a daemon elsewhere: tls://HOST:PORT; what follows is for it, and each has a "
                 "variable THERMOCLINE_...")
      ->check(Checked([](std::string_view text) { return ParseDaemonAddress(text); }));
  app.add_option("--ca", remote.ca_file, "PEM file: who signed the daemon's certificate");
  app.add_option("--certificate", remote.certificate_file, "PEM file: this client's certificate");
  app.add_option("--key", remote.key_file, "PEM file: the certificate's key");
  app.add_option("--token-file", remote.token_file, "file of this client's token");
  AddDuration(app, "--timeout", arguments.timeout, "how long a call may take");
  app.add_flag("--json", arguments.json, "print JSON");
  app.set_version_flag("--version", std::string(Version()));
  app.require_subcommand(1);
  AddVerbs(app, arguments, verb);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) == 0) return kDone;
    const std::vector<std::string> words(argv + 1, argv + argc);
    if (std::find(words.begin(), words.end(), "--json") != words.end()) {
      PrintError(absl::StatusCode::kInvalidArgument, error.what());
    }
    return kUsage;
  }
  arguments.connect.timeout =
      std::chrono::ceil<std::chrono::milliseconds>(*ParseDuration(arguments.timeout));
  return Report(verb(), arguments.json);
}

}  // namespace
}  // namespace client_v1
}  // namespace thermocline

int main(int argc, char** argv) { return thermocline::Main(argc, argv); }
