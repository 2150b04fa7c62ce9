#include "client/thermoctl_verbs.h"

#include <iostream>
#include <iterator>
#include <utility>

#include "base/file_util.h"
#include "base/units.h"
#include "client/thermoctl_file.h"
#include "hashing/name.h"
#include "hashing/token_ids.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

constexpr uint64_t kMaxTokensFileBytes = 64 * MiB;

ClientOptions OptionsOf(const ConnectOptions& connect) {
  return {.socket_path = connect.socket,
          .remote = connect.remote,
          .client_name = "thermoctl",
          .timeout = connect.timeout};
}

absl::StatusOr<std::unique_ptr<Client>> Connect(const ConnectOptions& connect) {
  return Client::Connect(OptionsOf(connect));
}

absl::StatusOr<std::vector<int32_t>> TokensOf(const PathOptions& path) {
  if (!path.tokens_file) return ParseTokenIds(path.tokens.value_or(""), "--tokens");
  std::string text;
  if (path.tokens_file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    TC_ASSIGN_OR_RETURN(text, ReadFile(*path.tokens_file, kMaxTokensFileBytes));
  }
  return ParseTokenIds(text, *path.tokens_file);
}

/// The one space whose fingerprint begins so.
absl::StatusOr<SpaceInfo> FindSpace(Client& client, const std::string& digits) {
  TC_ASSIGN_OR_RETURN(const std::vector<SpaceInfo> spaces, client.Spaces());
  const SpaceInfo* found = nullptr;
  for (const SpaceInfo& space : spaces) {
    if (space.fingerprint.Hex().compare(0, digits.size(), digits) != 0) continue;
    if (found != nullptr) {
      return absl::FailedPreconditionError("more than one space begins with " + digits +
                                           "; give more digits");
    }
    found = &space;
  }
  if (found == nullptr) {
    return absl::NotFoundError("no space begins with " + digits + "; see: thermoctl spaces");
  }
  return *found;
}

/// A path with its names: a file's, whole, or the tokens given.
struct Path {
  Space space;
  std::vector<int32_t> tokens;
  std::vector<std::string> keys;
  NamesView names() const { return keys.empty() ? NamesView(tokens) : NamesView(keys); }
};

absl::StatusOr<Path> OpenPath(Client& client, const PathOptions& options) {
  if (!options.name.empty()) {
    TC_ASSIGN_OR_RETURN(Space space, client.OpenSpace(FileSpace()));
    TC_ASSIGN_OR_RETURN(const uint32_t places, FilePlaces(space, options.name));
    return Path{std::move(space), {}, FileKeys(options.name, places)};
  }
  TC_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, TokensOf(options));
  TC_ASSIGN_OR_RETURN(const SpaceInfo info, FindSpace(client, options.space));
  if (info.spec.opaque_names) {
    return absl::InvalidArgumentError("the space " + options.space +
                                      " names its places by keys of an engine, not by tokens");
  }
  // The listing keeps a salt to itself, and without it this is another space.
  TC_ASSIGN_OR_RETURN(Space space, client.OpenSpace(info.spec));
  if (!(space.fingerprint() == info.fingerprint)) {
    return absl::FailedPreconditionError("the space " + options.space +
                                         " has a salt, which only its engine knows: its paths can "
                                         "be deleted here, and no more");
  }
  return Path{std::move(space), std::move(tokens), {}};
}

absl::StatusOr<BlockTier> TierOf(const std::string& text) {
  if (text == "warm") return BlockTier::kWarm;
  if (text == "cold") return BlockTier::kCold;
  if (text == "any") return BlockTier::kNone;
  return absl::InvalidArgumentError("unknown tier '" + text + "'; there are warm and cold");
}

Json JsonOf(const PinInfo& pin) {
  return {{"pin", pin.pin},
          {"space", pin.space.Hex()},
          {"places", pin.depth},
          {"tier", pin.tier == BlockTier::kNone ? "any" : BlockTierName(pin.tier)},
          {"expires_unix_ms", pin.expires_unix_ms}};
}

Json JsonOf(const SpaceInfo& space) {
  const SpaceSpec& spec = space.spec;
  Json parts = Json::array();
  for (const PartSpec& part : spec.parts) {
    parts.push_back({{"name", part.name},
                     {"rank", part.rank},
                     {"block_bytes", part.block_bytes},
                     {"window_tokens", part.window_tokens}});
  }
  return {{"space", space.fingerprint.Hex()},
          {"model", spec.model},
          {"kv_dtype", spec.kv_dtype},
          {"layers", spec.layers},
          {"kv_heads", spec.kv_heads},
          {"head_dim", spec.head_dim},
          {"block_tokens", spec.block_tokens},
          {"names", spec.opaque_names ? "keys" : "tokens"},
          {"layout", spec.layout},
          {"places", space.places},
          {"warm_bytes", space.warm_bytes},
          {"cold_bytes", space.cold_bytes},
          {"parts", std::move(parts)}};
}

Json JsonOf(const FileResult& file, const std::string& name) {
  return {{"name", name}, {"bytes", file.bytes}, {"blocks", file.places}, {"sha256", file.sha256}};
}

}  // namespace

Json JsonOf(const DaemonStats& stats) {
  Json tiers = Json::array();
  for (const TierUse& tier : stats.tiers) {
    tiers.push_back({{"tier", BlockTierName(tier.tier)},
                     {"state", tier.state},
                     {"capacity_bytes", tier.capacity_bytes},
                     {"share_bytes", tier.share_bytes},
                     {"lent_bytes", tier.lent_bytes},
                     {"used_bytes", tier.used_bytes},
                     {"ttl_pinned_bytes", tier.ttl_pinned_bytes},
                     {"blocks", tier.blocks},
                     {"hits", tier.hits},
                     {"evictions", tier.evictions},
                     {"promotions", tier.promotions},
                     {"demotions", tier.demotions}});
  }
  Json reasons = Json::object();
  for (const auto& [reason, count] : stats.misses_by_reason) reasons[reason] = count;
  return {{"version", stats.version},
          {"epoch", stats.epoch},
          {"uptime_ms", stats.uptime_ms},
          {"sessions", stats.sessions},
          {"leases", stats.leases},
          {"reservations", stats.reservations},
          {"spaces", stats.spaces},
          {"places", stats.places},
          {"pins", stats.pins},
          {"lookups", stats.lookups},
          {"misses", stats.misses},
          {"misses_by_reason", std::move(reasons)},
          {"corrupt_blocks", stats.corrupt_blocks},
          {"tiers", std::move(tiers)}};
}

absl::StatusOr<Json> RunStatus(const ConnectOptions& connect) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_ASSIGN_OR_RETURN(const DaemonStats stats, client->Stats());
  Json result = {{"socket", client->socket_path()}};
  result.update(JsonOf(stats));
  return result;
}

absl::StatusOr<Json> RunSpaces(const ConnectOptions& connect) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_ASSIGN_OR_RETURN(const std::vector<SpaceInfo> spaces, client->Spaces());
  Json list = Json::array();
  for (const SpaceInfo& space : spaces) list.push_back(JsonOf(space));
  return Json{{"spaces", std::move(list)}};
}

absl::StatusOr<Json> RunMatch(const ConnectOptions& connect, const PathOptions& options) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_ASSIGN_OR_RETURN(const Path path, OpenPath(*client, options));
  TC_ASSIGN_OR_RETURN(const Lease lease, path.space.Match(path.names()));
  Json blocks = Json::array();
  for (const BlockInfo& block : lease.blocks()) {
    blocks.push_back({{"place", block.depth},
                      {"part", block.part},
                      {"tier", BlockTierName(block.tier)},
                      {"bytes", block.bytes},
                      {"id", block.id}});
  }
  return Json{{"space", path.space.fingerprint().Hex()},
              {"places_asked", path.names().places()},
              {"places", lease.depth()},
              {"tokens", path.keys.empty() ? lease.depth() * kPlaceTokens : 0},
              {"blocks", std::move(blocks)}};
}

absl::StatusOr<Json> RunPut(const ConnectOptions& connect, const std::string& name,
                            const std::string& file) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_ASSIGN_OR_RETURN(const Space space, client->OpenSpace(FileSpace()));
  TC_ASSIGN_OR_RETURN(const FileResult put, PutFile(space, name, file));
  Json result = JsonOf(put, name);
  result["blocks_before"] = put.places_before;
  return result;
}

absl::StatusOr<Json> RunGet(const ConnectOptions& connect, const std::string& name,
                            const std::string& file) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_ASSIGN_OR_RETURN(const Space space, client->OpenSpace(FileSpace()));
  TC_ASSIGN_OR_RETURN(const FileResult got, GetFile(space, name, file));
  Json result = JsonOf(got, name);
  result["blocks_cold"] = got.places_cold;
  return result;
}

absl::StatusOr<Json> RunPin(const ConnectOptions& connect, const PathOptions& options,
                            const std::string& ttl, const std::string& tier) {
  TC_ASSIGN_OR_RETURN(const std::chrono::microseconds life, ParseDuration(ttl));
  TC_ASSIGN_OR_RETURN(const BlockTier kept_in, TierOf(tier));
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_ASSIGN_OR_RETURN(const Path path, OpenPath(*client, options));
  const auto life_ms = std::chrono::ceil<std::chrono::milliseconds>(life);
  TC_ASSIGN_OR_RETURN(const PinInfo pin, path.space.Pin(path.names(), life_ms, kept_in));
  return JsonOf(pin);
}

absl::StatusOr<Json> RunUnpin(const ConnectOptions& connect, uint64_t pin) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_RETURN_IF_ERROR(client->Unpin(pin));
  return Json{{"unpinned", pin}};
}

absl::StatusOr<Json> RunPins(const ConnectOptions& connect) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_ASSIGN_OR_RETURN(const std::vector<PinInfo> pins, client->Pins());
  Json list = Json::array();
  for (const PinInfo& pin : pins) list.push_back(JsonOf(pin));
  return Json{{"pins", std::move(list)}};
}

absl::StatusOr<Json> RunPrefetch(const ConnectOptions& connect, const PathOptions& options) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  TC_ASSIGN_OR_RETURN(const Path path, OpenPath(*client, options));
  TC_ASSIGN_OR_RETURN(const PrefetchInfo info, path.space.Prefetch(path.names()));
  return Json{{"places", info.matched_depth}, {"promoting_blocks", info.promoting_blocks}};
}

absl::StatusOr<Json> RunDelete(const ConnectOptions& connect, const PathOptions& options) {
  TC_ASSIGN_OR_RETURN(const auto client, Connect(connect));
  PathOptions target = options;
  std::vector<int32_t> tokens;
  std::vector<std::string> keys;
  Fingerprint fingerprint;
  if (!options.name.empty()) {
    TC_ASSIGN_OR_RETURN(const Space space, client->OpenSpace(FileSpace()));
    fingerprint = space.fingerprint();
    keys = FileKeys(options.name, 1);
  } else {
    TC_ASSIGN_OR_RETURN(tokens, TokensOf(options));
    if (tokens.empty() && (options.tokens || options.tokens_file)) {
      return absl::InvalidArgumentError(
          "no token ids were given; to delete the whole space leave --tokens and --tokens-file "
          "out");
    }
    TC_ASSIGN_OR_RETURN(const SpaceInfo info, FindSpace(*client, options.space));
    fingerprint = info.fingerprint;
  }
  TC_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(OptionsOf(connect)));
  const NamesView names = keys.empty() ? NamesView(tokens) : NamesView(keys);
  TC_ASSIGN_OR_RETURN(const uint64_t places, admin->Delete(fingerprint, names));
  return Json{{"deleted_places", places}};
}

absl::StatusOr<Json> RunFlush(const ConnectOptions& connect, const std::string& tier) {
  TC_ASSIGN_OR_RETURN(const BlockTier flushed, TierOf(tier));
  if (flushed == BlockTier::kNone)
    return absl::InvalidArgumentError("flush --tier takes warm or cold");
  TC_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(OptionsOf(connect)));
  TC_ASSIGN_OR_RETURN(const FlushResult result, admin->Flush(flushed));
  return Json{{"tier", tier}, {"blocks", result.blocks}, {"kept", result.kept}};
}

Json JsonOf(const std::vector<TenantInfo>& tenants) {
  Json list = Json::array();
  for (const TenantInfo& tenant : tenants) {
    Json entry = {{"tenant", tenant.name},           {"sessions", tenant.stats.sessions},
                  {"spaces", tenant.stats.spaces},   {"places", tenant.stats.places},
                  {"lookups", tenant.stats.lookups}, {"misses", tenant.stats.misses}};
    for (const TierUse& tier : tenant.stats.tiers) {
      const std::string name = BlockTierName(tier.tier);
      entry[name + "_used_bytes"] = tier.used_bytes;
      entry[name + "_lent_bytes"] = tier.lent_bytes;
      entry[name + "_share_bytes"] = tier.share_bytes;
      entry[name + "_quota_bytes"] = tier.capacity_bytes;
      entry[name + "_ttl_pinned_bytes"] = tier.ttl_pinned_bytes;
    }
    list.push_back(std::move(entry));
  }
  return Json{{"tenants", std::move(list)}};
}

absl::StatusOr<Json> RunTenants(const ConnectOptions& connect) {
  TC_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(OptionsOf(connect)));
  TC_ASSIGN_OR_RETURN(const std::vector<TenantInfo> tenants, admin->Tenants());
  return JsonOf(tenants);
}

absl::StatusOr<Json> RunFsck(const ConnectOptions& connect) {
  TC_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(OptionsOf(connect)));
  TC_ASSIGN_OR_RETURN(const FsckResult result, admin->Fsck());
  return Json{{"checked_blocks", result.blocks}, {"damaged_blocks", result.damaged}};
}

absl::StatusOr<Json> RunArenaDrop(const ConnectOptions& connect) {
  TC_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(OptionsOf(connect)));
  TC_ASSIGN_OR_RETURN(const uint64_t blocks, admin->DropArena());
  return Json{{"dropped_blocks", blocks}};
}

}  // namespace client_v1
}  // namespace thermocline
