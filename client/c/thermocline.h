/* The C API of Thermocline's client: match a prompt's prefix, read its KV blocks in place, commit
 * new ones. C99; the shared library is libthermocline_c, the CMake target thermocline::c.
 *
 *   thermocline_match(space, &prompt, -1, &lease, &error);         the longest prefix that is here
 *   thermocline_lease_load(lease, NULL, NULL, -1, &places, &error);  places readable now, verified
 *   thermocline_lease_view(lease, place, 0, &bytes);               where the block lies: no copy
 *   thermocline_reserve(space, count, 0, 0, -1, slots, &granted, &error);  memory to fill
 *   thermocline_lease_commit(lease, &new_places, slots, granted, -1, &error);
 *   if (!thermocline_lease_still_valid(lease)) ...                 compute again without the cache
 *
 * The rule: read, then ask thermocline_lease_still_valid, then use what was computed. False means
 * that what was read was a miss. Everything that the cache cannot give is a miss, and never a
 * reason to fail.
 *
 * Errors: a call that can fail returns its code, THERMOCLINE_OK being 0, and describes it in
 *         `error`, which may be NULL. Out parameters are then untouched unless said otherwise.
 *         No C++ exception leaves the library.
 * Units:  a place is 16 tokens or one opaque key; depths count places from the root; sizes are in
 *         bytes, times in milliseconds. `timeout_ms` bounds its call, THERMOCLINE_DEFAULT_TIMEOUT
 *         (any negative number) standing for that of the client's options.
 * Thread: a client and a space serve any number of threads; a lease or a reservation one at a time.
 * Owner:  what a call hands out through a `thermocline_x **` is the caller's, to be given to the
 *         thermocline_x_free of its kind, which takes NULL too; in any order: a space outlives its
 *         client. Arguments are borrowed until the call returns.
 * Fork:   in the child of a fork what the parent had is dead (THERMOCLINE_FAILED_PRECONDITION, no
 *         views); connect after the fork. Freeing it there is fine.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define THERMOCLINE_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

#define THERMOCLINE_DEFAULT_TIMEOUT (-1)
#define THERMOCLINE_SHA256_BYTES 32

/* Those of gRPC, number for number. */
typedef enum {
  THERMOCLINE_OK = 0,
  THERMOCLINE_CANCELLED = 1,
  THERMOCLINE_UNKNOWN = 2,
  THERMOCLINE_INVALID_ARGUMENT = 3,  /* the message names the argument and the limit */
  THERMOCLINE_DEADLINE_EXCEEDED = 4, /* no answer in time */
  THERMOCLINE_NOT_FOUND = 5,         /* no such pin, or nothing to pin */
  THERMOCLINE_ALREADY_EXISTS = 6,
  THERMOCLINE_PERMISSION_DENIED = 7,   /* another user's daemon */
  THERMOCLINE_RESOURCE_EXHAUSTED = 8,  /* no room: go on without the cache */
  THERMOCLINE_FAILED_PRECONDITION = 9, /* lease or slot of a lost session, or of before a fork */
  THERMOCLINE_ABORTED = 10,            /* the path is not all there any more: match again */
  THERMOCLINE_OUT_OF_RANGE = 11,
  THERMOCLINE_UNIMPLEMENTED = 12,
  THERMOCLINE_INTERNAL = 13,
  THERMOCLINE_UNAVAILABLE = 14, /* no daemon; the message says how to start one */
  THERMOCLINE_DATA_LOSS = 15,
  THERMOCLINE_UNAUTHENTICATED = 16
} thermocline_code;

/* Belongs to the caller; every call that is given one writes all of it, also when it succeeds. */
typedef struct {
  thermocline_code code;
  char message[1020]; /* "" on success; ends in a NUL, cut off where it is longer */
} thermocline_error;

typedef enum {
  THERMOCLINE_TIER_NONE = 0,
  THERMOCLINE_TIER_HOT = 1,
  THERMOCLINE_TIER_WARM = 2, /* in the arena, readable in place */
  THERMOCLINE_TIER_COLD = 3, /* on disk; thermocline_lease_load brings it */
  THERMOCLINE_TIER_REMOTE = 4,
  THERMOCLINE_TIER_MAX =
      0x7fffffff /* no tier: with it any int can be refused as one that is none */
} thermocline_tier;

typedef struct thermocline_client thermocline_client;
typedef struct thermocline_space thermocline_space;
typedef struct thermocline_lease thermocline_lease;
typedef struct thermocline_reservation thermocline_reservation;
typedef struct thermocline_admin thermocline_admin;

/* The version of the library: "0.1.0". */
THERMOCLINE_API const char* thermocline_version(void);
/* "OK", "UNAVAILABLE"...; "UNKNOWN" for what is no code. */
THERMOCLINE_API const char* thermocline_code_name(thermocline_code code);

/* ---- Clients ---------------------------------------------------------------------------------
 * A session with the daemon of this machine, or, over TLS, with that of another. When the daemon
 * goes away every call returns THERMOCLINE_UNAVAILABLE at once, and what is leased stays readable
 * while still valid. The next call tries a new session, with backoff; leases and reservations of
 * before are dead. */

/* How to reach a daemon whose arena this process cannot map: every block travels then, a view is a
 * private copy, and a slot is sent by its commit. What is NULL or "" is taken from the environment:
 * THERMOCLINE_ADDRESS, _CA, _CERTIFICATE, _KEY, _CLIENT_TOKEN_FILE. */
typedef struct {
  const char* address;          /* "tls://HOST:PORT"; none, here or there: this machine's daemon */
  const char* ca_file;          /* PEM, as all of them: who signed the daemon's certificate */
  const char* certificate_file; /* of this client */
  const char* key_file;
  const char* token_file; /* the client's token, alone in its file */
} thermocline_remote;

/* All zeros is the default. */
typedef struct {
  const char* socket_path; /* NULL: $THERMOCLINE_SOCKET, else the daemon's default */
  const char* client_name; /* for the daemon's log; NULL: none */
  int64_t timeout_ms;      /* of calls that name none; 0: 5000 */
  bool no_auto_reconnect;  /* a lost daemon stays lost until thermocline_reconnect */
  bool verify_always;      /* sum every block of every lease before it is handed out */
  thermocline_remote remote;
} thermocline_options;

/* `options` may be NULL.
 * Errors: UNAVAILABLE when nobody listens; FAILED_PRECONDITION for a daemon of another protocol or
 *         layout version; PERMISSION_DENIED for another user's; UNAUTHENTICATED for a token that a
 *         remote daemon does not know; INVALID_ARGUMENT for an address or a file that is none. */
THERMOCLINE_API thermocline_code thermocline_connect(const thermocline_options* options,
                                                     thermocline_client** client,
                                                     thermocline_error* error);
THERMOCLINE_API void thermocline_client_free(thermocline_client* client);
/* A new session now, without backoff; nothing to do while the session is alive. */
THERMOCLINE_API thermocline_code thermocline_reconnect(thermocline_client* client,
                                                       thermocline_error* error);
/* Whether the session was alive a moment ago. */
THERMOCLINE_API bool thermocline_connected(const thermocline_client* client);
/* Owner: the client. */
THERMOCLINE_API const char* thermocline_socket_path(const thermocline_client* client);

/* The daemon's counters, as one line of JSON: what `thermoctl status --json` prints, without its
 * "socket" (docs/cli.md). `*json` is for thermocline_string_free. */
THERMOCLINE_API thermocline_code thermocline_stats_json(thermocline_client* client,
                                                        int64_t timeout_ms, char** json,
                                                        thermocline_error* error);
/* Of what was handed out for it; NULL too. */
THERMOCLINE_API void thermocline_string_free(char* string);

/* ---- Spaces ----------------------------------------------------------------------------------
 * Blocks that are interchangeable: one model, one layout, one tenant. Any difference in what
 * follows makes another space, and another space is a miss. */

/* One (layer group, tensor-parallel rank) of every block. */
typedef struct {
  const char* name;       /* the layer group, for people: "layers 0-29"; not empty */
  uint32_t rank;          /* tensor-parallel rank */
  uint64_t block_bytes;   /* of one block, a multiple of 16, at most 64 MiB */
  uint32_t window_tokens; /* sliding window; 0: full attention */
} thermocline_part;

/* Zero it, then set what is yours; NULL strings are "". */
typedef struct {
  const char* model;                                /* id, revision and quantisation */
  uint8_t weights_sha256[THERMOCLINE_SHA256_BYTES]; /* of the weights' content; zeros: unknown */
  const char* kv_dtype;                             /* "f32", "f16", "bf16", "int8"... */
  uint32_t layers;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t block_tokens; /* a multiple of 16; 0: 16 */
  const thermocline_part* parts;
  size_t part_count;  /* 1 to 8 */
  const char* layout; /* of the bytes in a block, with its version: "lkht.v1" */
  const char* rope;   /* canonical text of the RoPE parameters */
  const char* lora;   /* adapter id and content hash; "": none */
  const char* salt;   /* a secret: spaces of different salts have nothing in common */
  uint32_t key_bytes; /* 0: places are named by tokens; 1 to 64: by opaque keys of that length */
} thermocline_space_spec;

/* The names of consecutive places, in one of two forms; the other is left zero. */
typedef struct {
  const int32_t* tokens; /* 16 a place; a remainder of fewer is ignored */
  size_t token_count;
  const void* keys; /* [key_count][key_bytes of the space], without gaps, one a place */
  size_t key_count;
} thermocline_names;

/* Errors: INVALID_ARGUMENT when the specification is wrong or a block cannot fit the arena. */
THERMOCLINE_API thermocline_code thermocline_open_space(thermocline_client* client,
                                                        const thermocline_space_spec* spec,
                                                        int64_t timeout_ms,
                                                        thermocline_space** space,
                                                        thermocline_error* error);
THERMOCLINE_API void thermocline_space_free(thermocline_space* space);
/* As the daemon counts it: with the tenant, which it adds. */
THERMOCLINE_API void thermocline_space_fingerprint(const thermocline_space* space,
                                                   uint8_t fingerprint[THERMOCLINE_SHA256_BYTES]);

/* ---- Leases ----------------------------------------------------------------------------------
 * The right to read a path in place: pins everything from the root to its end, and is extended by
 * commits. Freeing it releases it. On a lease of a lost daemon or of an earlier session every call
 * is FAILED_PRECONDITION: match again. */

/* One block of a leased path. */
typedef struct {
  uint32_t depth; /* its last place, from the root, 0-based */
  uint32_t part;
  uint64_t id;                   /* the daemon's, never reused */
  thermocline_tier matched_tier; /* where the match (or the commit) found it */
  thermocline_tier tier;         /* where it is now */
  uint64_t bytes;
} thermocline_block;

/* Leases the longest prefix of `names` that some tier of this machine holds. Nothing found is a
 * lease of depth 0, behind which one can commit. */
THERMOCLINE_API thermocline_code thermocline_match(const thermocline_space* space,
                                                   const thermocline_names* names,
                                                   int64_t timeout_ms, thermocline_lease** lease,
                                                   thermocline_error* error);
THERMOCLINE_API void thermocline_lease_free(thermocline_lease* lease);

/* Usable places: the lease covers [0, depth). Cold ones among them are not readable yet. */
THERMOCLINE_API uint32_t thermocline_lease_depth(const thermocline_lease* lease);
/* Copies the first `capacity` blocks of the path, depth-major, then part; returns how many blocks
 * there are in all. `blocks` may be NULL when `capacity` is 0. */
THERMOCLINE_API size_t thermocline_lease_blocks(const thermocline_lease* lease,
                                                thermocline_block* blocks, size_t capacity);

/* The bytes of the block that ends at place `depth`, in the arena, and their number. A block that
 * the daemon has not verified since it lies there is summed at the first call.
 * Owner: valid until the lease is freed.
 * Errors: NULL, and 0 bytes, when the block is not readable in place: cold and not loaded, outside
 *         the window of its part, not there, or damaged (then the lease ends there from now on). */
THERMOCLINE_API const void* thermocline_lease_view(thermocline_lease* lease, uint32_t depth,
                                                   uint32_t part, size_t* bytes);

/* Makes the whole path readable: promotes its cold blocks, in prefix order, and verifies those that
 * need it. `on_ready`, which may be NULL, is called on this thread, with growing `places`, when
 * [0, places) is readable; of this lease it may use only thermocline_lease_view.
 * `*depth`, which may be NULL, is set to the depth that is readable, the lease's from now on:
 * shorter than before when a block could not be had. A time-out is no error: what is not there by
 * then is a miss.
 * Errors: UNAVAILABLE, FAILED_PRECONDITION: the lease is of no more use. */
THERMOCLINE_API thermocline_code thermocline_lease_load(
    thermocline_lease* lease, void (*on_ready)(void* context, uint32_t places), void* context,
    int64_t timeout_ms, uint32_t* depth, thermocline_error* error);

/* Moves the end back to `depth` places, so that the next commit goes behind them.
 * Errors: INVALID_ARGUMENT when the lease is not that deep. */
THERMOCLINE_API thermocline_code thermocline_lease_truncate(thermocline_lease* lease,
                                                            uint32_t depth, int64_t timeout_ms,
                                                            thermocline_error* error);

/* Whether everything read through this lease until now was read from blocks that were its own.
 * No message, no system call that waits. */
THERMOCLINE_API bool thermocline_lease_still_valid(const thermocline_lease* lease);

/* What another process of the tenant needs to lease the same path (thermocline_import), however
 * many do: `*exported_bytes` bytes at `*exported`, for thermocline_string_free. It promises
 * nothing: the lease must hold until the other has its own. Errors: FAILED_PRECONDITION as for
 * every call. */
THERMOCLINE_API thermocline_code thermocline_lease_export(const thermocline_lease* lease,
                                                          char** exported, size_t* exported_bytes,
                                                          thermocline_error* error);
/* Leases the path that another process exported and still holds: nothing is compared, and no prompt
 * travels, but back to a remote client.
 * Errors: INVALID_ARGUMENT for what no lease of this space exported; NOT_FOUND when its holder has
 *         let go of it, or the daemon was restarted: match instead. */
THERMOCLINE_API thermocline_code thermocline_import(const thermocline_space* space,
                                                    const void* exported, size_t exported_bytes,
                                                    int64_t timeout_ms, thermocline_lease** lease,
                                                    thermocline_error* error);

/* ---- Unordered keys --------------------------------------------------------------------------
 * For a space of opaque keys, one a block, that stand for themselves and in no order: a batch of
 * them costs no more than its cache misses. Such a block is committed behind a lease of depth 0, as
 * the only name of its path. */

/* Sets `tiers[i]` to the tier of key i, that of its slowest part; THERMOCLINE_TIER_NONE: it is not
 * here, or not all of it. Nothing is leased: it may be different by now.
 * Errors: INVALID_ARGUMENT for a space without such keys. */
THERMOCLINE_API thermocline_code thermocline_look_up(const thermocline_space* space,
                                                     const thermocline_names* keys,
                                                     int64_t timeout_ms, thermocline_tier* tiers,
                                                     thermocline_error* error);
/* Copies one part of each key that is here to `buffers[i]`, which has room for its block_bytes, and
 * sets `tiers[i]` to where it was found; THERMOCLINE_TIER_NONE: it could not be had, and its buffer
 * may hold anything. Nothing has to be asked afterwards. A time-out is no error: what was not
 * copied by then is none. Errors: INVALID_ARGUMENT for a space without such keys, or such a part.
 */
THERMOCLINE_API thermocline_code thermocline_read_keys(const thermocline_space* space,
                                                       const thermocline_names* keys, uint32_t part,
                                                       void* const* buffers, int64_t timeout_ms,
                                                       thermocline_tier* tiers,
                                                       thermocline_error* error);

/* ---- Reservations ----------------------------------------------------------------------------
 * A slot of the arena to fill. Freeing one that is not committed gives the slot back. */

/* Fills `slots[0 .. *granted)`: at least one and at most `count`, after waiting up to `wait_ms` for
 * room (beside `timeout_ms`). `slots` has room for `count`.
 * Errors: RESOURCE_EXHAUSTED: go on without the cache. */
THERMOCLINE_API thermocline_code thermocline_reserve(const thermocline_space* space, uint32_t count,
                                                     uint32_t part, int64_t wait_ms,
                                                     int64_t timeout_ms,
                                                     thermocline_reservation** slots,
                                                     uint32_t* granted, thermocline_error* error);
THERMOCLINE_API void thermocline_reservation_free(thermocline_reservation* reservation);
/* The payload: exactly the block_bytes of its part, at a page boundary, its content undefined.
 * NULL, and 0 bytes, in the child of a fork. After the daemon is lost the memory stays writable,
 * and what is written there reaches nobody.
 * Owner: valid until the reservation is freed or committed; do not write afterwards. */
THERMOCLINE_API void* thermocline_reservation_bytes(thermocline_reservation* reservation,
                                                    size_t* bytes);
THERMOCLINE_API uint32_t thermocline_reservation_part(const thermocline_reservation* reservation);

/* Publishes filled slots behind the lease's end, in order, and moves the end behind them. `names`
 * are those of the new places; `slots` holds, for each new block, one reservation of every part,
 * parts in order. Where another client was first its identical block takes the place of ours.
 * Owner: takes the slots, whatever the outcome, and leaves NULLs in their place.
 * Errors: INVALID_ARGUMENT when names and slots do not fit; FAILED_PRECONDITION when the slots are
 *         of another session; others: nothing was published, go on uncached. */
THERMOCLINE_API thermocline_code thermocline_lease_commit(thermocline_lease* lease,
                                                          const thermocline_names* names,
                                                          thermocline_reservation** slots,
                                                          size_t slot_count, int64_t timeout_ms,
                                                          thermocline_error* error);

/* As thermocline_lease_commit, without waiting for the daemon: blocks are published in the order in
 * which they were enqueued, and others find them then. The lease's end moves with
 * thermocline_lease_settle; what is enqueued before goes behind what was enqueued last. Freeing the
 * lease meanwhile publishes all the same. A lease whose path is not warm throughout, and that of a
 * remote client, waits.
 * Owner: as thermocline_lease_commit; the bytes may be read where they are until it is settled.
 * Errors: as thermocline_lease_commit; DEADLINE_EXCEEDED when so much is on its way already that
 *         this could not be enqueued, or not all of it. */
THERMOCLINE_API thermocline_code thermocline_lease_commit_async(
    thermocline_lease* lease, const thermocline_names* names, thermocline_reservation** slots,
    size_t slot_count, int64_t timeout_ms, thermocline_error* error);
/* Waits until all that was enqueued is answered, and moves the end behind what was published.
 * Errors: the first that a commit met: what came behind it was not published, and the lease ends
 *         before it; DEADLINE_EXCEEDED: call it again. */
THERMOCLINE_API thermocline_code thermocline_lease_settle(thermocline_lease* lease,
                                                          int64_t timeout_ms,
                                                          thermocline_error* error);
/* Whether thermocline_lease_settle would not have to wait. */
THERMOCLINE_API bool thermocline_lease_settled(const thermocline_lease* lease);

/* ---- Pins and prefetch ----------------------------------------------------------------------- */

typedef struct {
  uint64_t pin; /* for thermocline_unpin */
  uint8_t space[THERMOCLINE_SHA256_BYTES];
  uint32_t depth; /* places that are kept */
  int64_t expires_unix_ms;
  thermocline_tier tier; /* THERMOCLINE_TIER_NONE: kept in any tier of this machine */
} thermocline_pin_info;

/* Keeps what is here of a path for `ttl_ms`, across restarts of the daemon; THERMOCLINE_TIER_WARM
 * promotes it and keeps it warm. `info` may be NULL.
 * Errors: NOT_FOUND when nothing of it is here. */
THERMOCLINE_API thermocline_code thermocline_pin(const thermocline_space* space,
                                                 const thermocline_names* names, int64_t ttl_ms,
                                                 thermocline_tier tier, int64_t timeout_ms,
                                                 thermocline_pin_info* info,
                                                 thermocline_error* error);
/* Errors: NOT_FOUND. */
THERMOCLINE_API thermocline_code thermocline_unpin(thermocline_client* client, uint64_t pin,
                                                   int64_t timeout_ms, thermocline_error* error);
/* Copies the first `capacity` pins and sets `*count` to how many there are in all. */
THERMOCLINE_API thermocline_code thermocline_pins(thermocline_client* client, int64_t timeout_ms,
                                                  thermocline_pin_info* pins, size_t capacity,
                                                  size_t* count, thermocline_error* error);

/* Asks for the cold blocks of a path to be promoted, and returns at once. The out parameters, how
 * deep the path is here and how many blocks are on their way, may be NULL. */
THERMOCLINE_API thermocline_code thermocline_prefetch(const thermocline_space* space,
                                                      const thermocline_names* names,
                                                      int64_t timeout_ms, uint32_t* matched_depth,
                                                      uint32_t* promoting_blocks,
                                                      thermocline_error* error);

/* ---- Administration --------------------------------------------------------------------------
 * The verbs about all tenants and the destructive ones, for the daemon's own user on its machine.
 * Each first gives back what this process has released, by whichever client; what others release
 * reaches the daemon a little later. Thread: any. */

/* `options` may be NULL. Errors: as thermocline_connect; PERMISSION_DENIED for another user. */
THERMOCLINE_API thermocline_code thermocline_admin_connect(const thermocline_options* options,
                                                           thermocline_admin** admin,
                                                           thermocline_error* error);
THERMOCLINE_API void thermocline_admin_free(thermocline_admin* admin);

/* Deletes what lies at and behind a path; NULL names: the whole space. `*places`, which may be
 * NULL, is set to how many were deleted.
 * Errors: INVALID_ARGUMENT for names of no place, or with a remainder. */
THERMOCLINE_API thermocline_code thermocline_admin_delete(thermocline_admin* admin,
                                                          const thermocline_space* space,
                                                          const thermocline_names* names,
                                                          int64_t timeout_ms, uint64_t* places,
                                                          thermocline_error* error);
/* THERMOCLINE_TIER_WARM: everything to cold (dropped where there is no cold tier);
 * THERMOCLINE_TIER_COLD: dropped. `*blocks` is how many went, `*kept` how many stayed, leased or
 * pinned; both may be NULL. */
THERMOCLINE_API thermocline_code thermocline_admin_flush(thermocline_admin* admin,
                                                         thermocline_tier tier, int64_t timeout_ms,
                                                         uint64_t* blocks, uint64_t* kept,
                                                         thermocline_error* error);
/* Drops every block of the arena; `*blocks`, which may be NULL, is how many. */
THERMOCLINE_API thermocline_code thermocline_admin_drop_arena(thermocline_admin* admin,
                                                              int64_t timeout_ms, uint64_t* blocks,
                                                              thermocline_error* error);

/* Every tenant, and what it has and uses, as one line of JSON: what `thermoctl tenants --json`
 * prints (docs/cli.md). `*json` is for thermocline_string_free. */
THERMOCLINE_API thermocline_code thermocline_admin_tenants_json(thermocline_admin* admin,
                                                                int64_t timeout_ms, char** json,
                                                                thermocline_error* error);

#ifdef __cplusplus
} /* extern "C" */
#endif
