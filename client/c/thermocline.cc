// The C API over the C++ one: every function translates its arguments, calls, and translates the
// outcome. Nothing is kept here but the handles, so that what client.h says of threads, forks and
// lost daemons holds for both.
#include "client/c/thermocline.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "base/version.h"
#include "client/client.h"
#include "client/thermoctl_verbs.h"

struct thermocline_client {
  std::unique_ptr<thermocline::Client> client;
};
struct thermocline_space {
  thermocline::Space space;
};
struct thermocline_lease {
  thermocline::Lease lease;
  uint32_t key_bytes;  // of its space
};
struct thermocline_reservation {
  thermocline::Reservation reservation;
};
struct thermocline_admin {
  std::unique_ptr<thermocline::AdminClient> client;
};

namespace thermocline {
namespace {

constexpr int64_t kMaxTimeMs = int64_t{1000} * 60 * 60 * 24 * 365;  // keeps clocks from wrapping

std::chrono::milliseconds Milliseconds(int64_t ms) {
  return std::chrono::milliseconds(std::clamp(ms, int64_t{0}, kMaxTimeMs));
}

Timeout TimeoutOf(int64_t ms) {
  if (ms < 0) return std::nullopt;
  return Milliseconds(ms);
}

std::string StringOf(const char* text) { return text == nullptr ? "" : text; }

thermocline_code Report(const absl::Status& status, thermocline_error* error) {
  const auto code = static_cast<thermocline_code>(status.code());
  if (error != nullptr) {
    error->code = code;
    const size_t length = std::min(status.message().size(), sizeof(error->message) - 1);
    std::copy_n(status.message().begin(), length, error->message);
    error->message[length] = '\0';
  }
  return code;
}

/// Runs `call`, which returns an absl::Status; an exception becomes an error.
template <typename Call>
thermocline_code Guarded(thermocline_error* error, const Call& call) {
  try {
    return Report(call(), error);
  } catch (const std::bad_alloc&) {
    return Report(absl::ResourceExhaustedError("out of memory in the client"), error);
  } catch (const std::exception& exception) {
    return Report(absl::InternalError(exception.what()), error);
  }
}

/// A call's names, with the strings that opaque keys are in C++.
/// Owner: borrows the tokens.
struct Names {
  std::span<const int32_t> tokens;
  std::vector<std::string> keys;
  NamesView view() const { return keys.empty() ? NamesView(tokens) : NamesView(keys); }
};

absl::StatusOr<Names> NamesOf(uint32_t key_bytes, const thermocline_names* names) {
  Names result;
  if (names == nullptr) return absl::InvalidArgumentError("no names were given");
  if ((names->tokens == nullptr && names->token_count != 0) ||
      (names->keys == nullptr && names->key_count != 0)) {
    return absl::InvalidArgumentError("names are counted, but NULL");
  }
  if (names->token_count != 0 && names->key_count != 0) {
    return absl::InvalidArgumentError("names are tokens or keys, not both");
  }
  if (names->key_count != 0 && key_bytes == 0) {
    return absl::InvalidArgumentError("this space names its places by tokens, not by keys");
  }
  result.tokens = {names->tokens, names->token_count};
  result.keys.reserve(names->key_count);
  const char* key = static_cast<const char*>(names->keys);
  for (size_t i = 0; i < names->key_count; ++i, key += key_bytes) {
    result.keys.emplace_back(key, key_bytes);
  }
  return result;
}

/// The slots of a commit, taken from the caller first of all.
absl::StatusOr<std::vector<Reservation>> Take(thermocline_reservation** slots, size_t count) {
  std::vector<std::unique_ptr<thermocline_reservation>> own(count);
  for (size_t i = 0; i < count; ++i) own[i].reset(std::exchange(slots[i], nullptr));
  std::vector<Reservation> filled;
  filled.reserve(count);
  for (const auto& slot : own) {
    if (slot == nullptr) return absl::InvalidArgumentError("a slot to commit is NULL");
    filled.push_back(std::move(slot->reservation));
  }
  return filled;
}

absl::StatusOr<BlockTier> TierOf(thermocline_tier tier) {
  if (tier <= THERMOCLINE_TIER_REMOTE) return static_cast<BlockTier>(tier);
  return absl::InvalidArgumentError("there is no tier " + std::to_string(tier));
}

void CopyTiers(std::span<const BlockTier> from, thermocline_tier* to) {
  for (const BlockTier tier : from) *to++ = static_cast<thermocline_tier>(tier);
}

/// For thermocline_string_free; ends in a NUL, which may not be its first.
char* Copied(const std::string& text) {
  char* const copy = new char[text.size() + 1];
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

ClientOptions OptionsOf(const thermocline_options* c) {
  ClientOptions options;
  if (c == nullptr) return options;
  options.socket_path = StringOf(c->socket_path);
  options.client_name = StringOf(c->client_name);
  if (c->timeout_ms > 0) options.timeout = Milliseconds(c->timeout_ms);
  options.auto_reconnect = !c->no_auto_reconnect;
  options.verify_always = c->verify_always;
  options.remote = {.address = StringOf(c->remote.address),
                    .ca_file = StringOf(c->remote.ca_file),
                    .certificate_file = StringOf(c->remote.certificate_file),
                    .key_file = StringOf(c->remote.key_file),
                    .token_file = StringOf(c->remote.token_file)};
  return options;
}

SpaceSpec SpecOf(const thermocline_space_spec& c) {
  SpaceSpec spec;
  spec.model = StringOf(c.model);
  static_assert(sizeof(spec.weights_sha256) == THERMOCLINE_SHA256_BYTES);
  std::copy_n(c.weights_sha256, THERMOCLINE_SHA256_BYTES, spec.weights_sha256.begin());
  spec.kv_dtype = StringOf(c.kv_dtype);
  spec.layers = c.layers;
  spec.kv_heads = c.kv_heads;
  spec.head_dim = c.head_dim;
  if (c.block_tokens != 0) spec.block_tokens = c.block_tokens;
  for (size_t i = 0; i < c.part_count && c.parts != nullptr; ++i) {
    const thermocline_part& part = c.parts[i];
    spec.parts.push_back({.name = StringOf(part.name),
                          .rank = part.rank,
                          .block_bytes = part.block_bytes,
                          .window_tokens = part.window_tokens});
  }
  spec.layout = StringOf(c.layout);
  spec.rope = StringOf(c.rope);
  spec.lora = StringOf(c.lora);
  spec.salt = StringOf(c.salt);
  spec.opaque_names = c.key_bytes != 0;
  spec.key_bytes = c.key_bytes;
  return spec;
}

thermocline_tier CTierOf(BlockTier tier) { return static_cast<thermocline_tier>(tier); }

void CopyPin(const PinInfo& pin, thermocline_pin_info& c) {
  c.pin = pin.pin;
  std::copy(pin.space.bytes.begin(), pin.space.bytes.end(), c.space);
  c.depth = pin.depth;
  c.expires_unix_ms = pin.expires_unix_ms;
  c.tier = CTierOf(pin.tier);
}

}  // namespace
}  // namespace thermocline

using namespace thermocline;  // NOLINT: what follows has C names

const char* thermocline_version(void) { return Version().data(); }

const char* thermocline_code_name(thermocline_code code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

thermocline_code thermocline_connect(const thermocline_options* options,
                                     thermocline_client** client, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(auto connected, Client::Connect(OptionsOf(options)));
    *client = new thermocline_client{std::move(connected)};
    return absl::OkStatus();
  });
}

void thermocline_client_free(thermocline_client* client) { delete client; }

thermocline_code thermocline_reconnect(thermocline_client* client, thermocline_error* error) {
  return Guarded(error, [&] { return client->client->Reconnect(); });
}

bool thermocline_connected(const thermocline_client* client) { return client->client->Connected(); }

const char* thermocline_socket_path(const thermocline_client* client) {
  return client->client->socket_path().c_str();
}

thermocline_code thermocline_stats_json(thermocline_client* client, int64_t timeout_ms, char** json,
                                        thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const DaemonStats stats, client->client->Stats(TimeoutOf(timeout_ms)));
    *json = Copied(Dump(JsonOf(stats)));
    return absl::OkStatus();
  });
}

void thermocline_string_free(char* string) { delete[] string; }

thermocline_code thermocline_open_space(thermocline_client* client,
                                        const thermocline_space_spec* spec, int64_t timeout_ms,
                                        thermocline_space** space, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(Space opened,
                        client->client->OpenSpace(SpecOf(*spec), TimeoutOf(timeout_ms)));
    *space = new thermocline_space{std::move(opened)};
    return absl::OkStatus();
  });
}

void thermocline_space_free(thermocline_space* space) { delete space; }

void thermocline_space_fingerprint(const thermocline_space* space,
                                   uint8_t fingerprint[THERMOCLINE_SHA256_BYTES]) {
  const Fingerprint own = space->space.fingerprint();
  std::copy(own.bytes.begin(), own.bytes.end(), fingerprint);
}

thermocline_code thermocline_match(const thermocline_space* space, const thermocline_names* names,
                                   int64_t timeout_ms, thermocline_lease** lease,
                                   thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    const uint32_t key_bytes = space->space.spec().key_bytes;
    TC_ASSIGN_OR_RETURN(const Names own, NamesOf(key_bytes, names));
    TC_ASSIGN_OR_RETURN(Lease matched, space->space.Match(own.view(), TimeoutOf(timeout_ms)));
    *lease = new thermocline_lease{std::move(matched), key_bytes};
    return absl::OkStatus();
  });
}

void thermocline_lease_free(thermocline_lease* lease) { delete lease; }

uint32_t thermocline_lease_depth(const thermocline_lease* lease) { return lease->lease.depth(); }

size_t thermocline_lease_blocks(const thermocline_lease* lease, thermocline_block* blocks,
                                size_t capacity) {
  const std::span<const BlockInfo> all = lease->lease.blocks();
  for (size_t i = 0; i < std::min(capacity, all.size()); ++i) {
    blocks[i] = {.depth = all[i].depth,
                 .part = all[i].part,
                 .id = all[i].id,
                 .matched_tier = CTierOf(all[i].matched_tier),
                 .tier = CTierOf(all[i].tier),
                 .bytes = all[i].bytes};
  }
  return all.size();
}

const void* thermocline_lease_view(thermocline_lease* lease, uint32_t depth, uint32_t part,
                                   size_t* bytes) {
  const std::span<const std::byte> view = lease->lease.View(depth, part);
  if (bytes != nullptr) *bytes = view.size();
  return view.empty() ? nullptr : view.data();
}

thermocline_code thermocline_lease_load(thermocline_lease* lease,
                                        void (*on_ready)(void* context, uint32_t places),
                                        void* context, int64_t timeout_ms, uint32_t* depth,
                                        thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    std::function<void(uint32_t)> tell;
    if (on_ready != nullptr) tell = [&](uint32_t places) { on_ready(context, places); };
    TC_ASSIGN_OR_RETURN(const uint32_t places, lease->lease.Load(tell, TimeoutOf(timeout_ms)));
    if (depth != nullptr) *depth = places;
    return absl::OkStatus();
  });
}

thermocline_code thermocline_lease_truncate(thermocline_lease* lease, uint32_t depth,
                                            int64_t timeout_ms, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    if (depth > lease->lease.depth()) {
      return absl::InvalidArgumentError("a lease of depth " + std::to_string(lease->lease.depth()) +
                                        " cannot be cut to " + std::to_string(depth));
    }
    return lease->lease.Truncate(depth, TimeoutOf(timeout_ms));
  });
}

bool thermocline_lease_still_valid(const thermocline_lease* lease) {
  return lease->lease.StillValid();
}

thermocline_code thermocline_lease_export(const thermocline_lease* lease, char** exported,
                                          size_t* exported_bytes, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const std::string path, lease->lease.Export());
    *exported = Copied(path);
    *exported_bytes = path.size();
    return absl::OkStatus();
  });
}

thermocline_code thermocline_import(const thermocline_space* space, const void* exported,
                                    size_t exported_bytes, int64_t timeout_ms,
                                    thermocline_lease** lease, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    const std::string_view path(static_cast<const char*>(exported), exported_bytes);
    TC_ASSIGN_OR_RETURN(Lease imported, space->space.Import(path, TimeoutOf(timeout_ms)));
    *lease = new thermocline_lease{std::move(imported), space->space.spec().key_bytes};
    return absl::OkStatus();
  });
}

thermocline_code thermocline_reserve(const thermocline_space* space, uint32_t count, uint32_t part,
                                     int64_t wait_ms, int64_t timeout_ms,
                                     thermocline_reservation** slots, uint32_t* granted,
                                     thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(
        std::vector<Reservation> reserved,
        space->space.Reserve(count, part, Milliseconds(wait_ms), TimeoutOf(timeout_ms)));
    std::vector<std::unique_ptr<thermocline_reservation>> own;
    for (Reservation& reservation : reserved) {
      own.push_back(std::make_unique<thermocline_reservation>(
          thermocline_reservation{std::move(reservation)}));
    }
    for (size_t i = 0; i < own.size(); ++i) slots[i] = own[i].release();
    *granted = static_cast<uint32_t>(own.size());
    return absl::OkStatus();
  });
}

void thermocline_reservation_free(thermocline_reservation* reservation) { delete reservation; }

void* thermocline_reservation_bytes(thermocline_reservation* reservation, size_t* bytes) {
  const std::span<std::byte> slot = reservation->reservation.bytes();
  if (bytes != nullptr) *bytes = slot.size();
  return slot.empty() ? nullptr : slot.data();
}

uint32_t thermocline_reservation_part(const thermocline_reservation* reservation) {
  return reservation->reservation.part();
}

thermocline_code thermocline_lease_commit(thermocline_lease* lease, const thermocline_names* names,
                                          thermocline_reservation** slots, size_t slot_count,
                                          int64_t timeout_ms, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(std::vector<Reservation> filled, Take(slots, slot_count));
    TC_ASSIGN_OR_RETURN(const Names new_names, NamesOf(lease->key_bytes, names));
    return lease->lease.Commit(new_names.view(), std::move(filled), TimeoutOf(timeout_ms));
  });
}

thermocline_code thermocline_lease_commit_async(thermocline_lease* lease,
                                                const thermocline_names* names,
                                                thermocline_reservation** slots, size_t slot_count,
                                                int64_t timeout_ms, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(std::vector<Reservation> filled, Take(slots, slot_count));
    TC_ASSIGN_OR_RETURN(const Names new_names, NamesOf(lease->key_bytes, names));
    return lease->lease.CommitAsync(new_names.view(), std::move(filled), TimeoutOf(timeout_ms));
  });
}

thermocline_code thermocline_lease_settle(thermocline_lease* lease, int64_t timeout_ms,
                                          thermocline_error* error) {
  return Guarded(error, [&] { return lease->lease.Settle(TimeoutOf(timeout_ms)); });
}

bool thermocline_lease_settled(const thermocline_lease* lease) { return lease->lease.Settled(); }

thermocline_code thermocline_look_up(const thermocline_space* space, const thermocline_names* keys,
                                     int64_t timeout_ms, thermocline_tier* tiers,
                                     thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const Names own, NamesOf(space->space.spec().key_bytes, keys));
    TC_ASSIGN_OR_RETURN(const std::vector<BlockTier> found,
                        space->space.LookUp(own.view(), TimeoutOf(timeout_ms)));
    CopyTiers(found, tiers);
    return absl::OkStatus();
  });
}

thermocline_code thermocline_read_keys(const thermocline_space* space,
                                       const thermocline_names* keys, uint32_t part,
                                       void* const* buffers, int64_t timeout_ms,
                                       thermocline_tier* tiers, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    const SpaceSpec& spec = space->space.spec();
    TC_ASSIGN_OR_RETURN(const Names own, NamesOf(spec.key_bytes, keys));
    std::vector<std::span<std::byte>> into;
    for (size_t i = 0; i < own.keys.size() && part < spec.parts.size(); ++i) {
      into.emplace_back(static_cast<std::byte*>(buffers[i]), spec.parts[part].block_bytes);
    }
    TC_ASSIGN_OR_RETURN(const std::vector<BlockTier> read,
                        space->space.Read(own.view(), into, part, TimeoutOf(timeout_ms)));
    CopyTiers(read, tiers);
    return absl::OkStatus();
  });
}

thermocline_code thermocline_pin(const thermocline_space* space, const thermocline_names* names,
                                 int64_t ttl_ms, thermocline_tier tier, int64_t timeout_ms,
                                 thermocline_pin_info* info, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const Names own, NamesOf(space->space.spec().key_bytes, names));
    TC_ASSIGN_OR_RETURN(const BlockTier kept, TierOf(tier));
    const std::chrono::milliseconds ttl(std::min(ttl_ms, kMaxTimeMs));
    TC_ASSIGN_OR_RETURN(const PinInfo pin,
                        space->space.Pin(own.view(), ttl, kept, TimeoutOf(timeout_ms)));
    if (info != nullptr) CopyPin(pin, *info);
    return absl::OkStatus();
  });
}

thermocline_code thermocline_unpin(thermocline_client* client, uint64_t pin, int64_t timeout_ms,
                                   thermocline_error* error) {
  return Guarded(error, [&] { return client->client->Unpin(pin, TimeoutOf(timeout_ms)); });
}

thermocline_code thermocline_pins(thermocline_client* client, int64_t timeout_ms,
                                  thermocline_pin_info* pins, size_t capacity, size_t* count,
                                  thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const std::vector<PinInfo> all,
                        client->client->Pins(TimeoutOf(timeout_ms)));
    for (size_t i = 0; i < std::min(capacity, all.size()); ++i) CopyPin(all[i], pins[i]);
    *count = all.size();
    return absl::OkStatus();
  });
}

thermocline_code thermocline_prefetch(const thermocline_space* space,
                                      const thermocline_names* names, int64_t timeout_ms,
                                      uint32_t* matched_depth, uint32_t* promoting_blocks,
                                      thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const Names own, NamesOf(space->space.spec().key_bytes, names));
    TC_ASSIGN_OR_RETURN(const PrefetchInfo info,
                        space->space.Prefetch(own.view(), TimeoutOf(timeout_ms)));
    if (matched_depth != nullptr) *matched_depth = info.matched_depth;
    if (promoting_blocks != nullptr) *promoting_blocks = info.promoting_blocks;
    return absl::OkStatus();
  });
}

thermocline_code thermocline_admin_connect(const thermocline_options* options,
                                           thermocline_admin** admin, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(auto connected, AdminClient::Connect(OptionsOf(options)));
    *admin = new thermocline_admin{std::move(connected)};
    return absl::OkStatus();
  });
}

void thermocline_admin_free(thermocline_admin* admin) { delete admin; }

thermocline_code thermocline_admin_delete(thermocline_admin* admin, const thermocline_space* space,
                                          const thermocline_names* names, int64_t timeout_ms,
                                          uint64_t* places, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    Names path;
    if (names != nullptr) {
      TC_ASSIGN_OR_RETURN(path, NamesOf(space->space.spec().key_bytes, names));
      if (path.view().places() == 0) {
        return absl::InvalidArgumentError("a path of no place; NULL stands for the whole space");
      }
    }
    TC_ASSIGN_OR_RETURN(
        const uint64_t deleted,
        admin->client->Delete(space->space.fingerprint(), path.view(), TimeoutOf(timeout_ms)));
    if (places != nullptr) *places = deleted;
    return absl::OkStatus();
  });
}

thermocline_code thermocline_admin_flush(thermocline_admin* admin, thermocline_tier tier,
                                         int64_t timeout_ms, uint64_t* blocks, uint64_t* kept,
                                         thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const BlockTier flushed, TierOf(tier));
    TC_ASSIGN_OR_RETURN(const FlushResult result,
                        admin->client->Flush(flushed, TimeoutOf(timeout_ms)));
    if (blocks != nullptr) *blocks = result.blocks;
    if (kept != nullptr) *kept = result.kept;
    return absl::OkStatus();
  });
}

thermocline_code thermocline_admin_drop_arena(thermocline_admin* admin, int64_t timeout_ms,
                                              uint64_t* blocks, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const uint64_t dropped, admin->client->DropArena(TimeoutOf(timeout_ms)));
    if (blocks != nullptr) *blocks = dropped;
    return absl::OkStatus();
  });
}

thermocline_code thermocline_admin_tenants_json(thermocline_admin* admin, int64_t timeout_ms,
                                                char** json, thermocline_error* error) {
  return Guarded(error, [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const std::vector<TenantInfo> tenants,
                        admin->client->Tenants(TimeoutOf(timeout_ms)));
    *json = Copied(Dump(JsonOf(tenants)));
    return absl::OkStatus();
  });
}
