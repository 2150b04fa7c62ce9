/* A C99 program against a real daemon: program SOCKET. Every function of the header is called, its
 * errors included; exits with 0 when all was as the header says. */
#include "client/c/thermocline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLACES 40
#define BLOCK_BYTES (64 * 1024)
#define KEY_BYTES 8

static int failures = 0;

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      ++failures;                                                            \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                        \
  } while (0)
#define CHECK_OK(call)                                                                     \
  do {                                                                                     \
    if ((call) != THERMOCLINE_OK) {                                                        \
      ++failures;                                                                          \
      fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call,                    \
              thermocline_code_name(error.code), error.message);                           \
    }                                                                                      \
  } while (0)
#define CHECK_CODE(call, expected)                                                         \
  do {                                                                                     \
    memset(&error, 0xee, sizeof error);                                                    \
    const thermocline_code got = (call);                                                   \
    if (got != (expected) || error.code != got || strlen(error.message) == 0) {            \
      ++failures;                                                                          \
      fprintf(stderr, "%s:%d: %s: %s (%.60s)\n", __FILE__, __LINE__, #call,                \
              thermocline_code_name(got), error.message);                                  \
    }                                                                                      \
  } while (0)

static thermocline_error error;

static unsigned char byte_of(uint32_t place) { return (unsigned char)(place * 7 + 1); }

static bool holds(const void* view, size_t bytes, uint32_t place) {
  const unsigned char* at = view;
  if (at == NULL || bytes != BLOCK_BYTES) return false;
  for (size_t i = 0; i < bytes; ++i) {
    if (at[i] != byte_of(place)) return false;
  }
  return true;
}

static thermocline_space_spec spec_of(const char* model, const thermocline_part* part) {
  thermocline_space_spec spec;
  memset(&spec, 0, sizeof spec);
  spec.model = model;
  spec.kv_dtype = "f16";
  spec.layers = 2;
  spec.kv_heads = 2;
  spec.head_dim = 8;
  spec.parts = part;
  spec.part_count = 1;
  spec.layout = "lkht.v1";
  return spec;
}

typedef thermocline_code commit_call(thermocline_lease*, const thermocline_names*,
                                     thermocline_reservation**, size_t, int64_t,
                                     thermocline_error*);

/* Reserves, fills and commits the places [from, to) of `names`, whose first is place 0. */
static thermocline_code extend_by(commit_call* commit, const thermocline_space* space,
                                  thermocline_lease* lease, const thermocline_names* names,
                                  uint32_t from, uint32_t to) {
  thermocline_reservation* slots[PLACES];
  uint32_t granted = 0;
  CHECK_OK(thermocline_reserve(space, to - from, 0, 1000, -1, slots, &granted, &error));
  CHECK(granted == to - from);
  for (uint32_t i = 0; i < granted; ++i) {
    size_t bytes = 0;
    void* slot = thermocline_reservation_bytes(slots[i], &bytes);
    CHECK(slot != NULL && bytes == BLOCK_BYTES && (uintptr_t)slot % 4096 == 0);
    CHECK(thermocline_reservation_part(slots[i]) == 0);
    memset(slot, byte_of(from + i), bytes);
  }
  thermocline_names rest;
  memset(&rest, 0, sizeof rest);
  if (names->tokens != NULL) {
    rest.tokens = names->tokens + 16 * from;
    rest.token_count = 16 * (to - from);
  } else {
    rest.keys = (const char*)names->keys + KEY_BYTES * from;
    rest.key_count = to - from;
  }
  const thermocline_code code = commit(lease, &rest, slots, granted, -1, &error);
  for (uint32_t i = 0; i < granted; ++i) CHECK(slots[i] == NULL);
  return code;
}

static thermocline_code extend(const thermocline_space* space, thermocline_lease* lease,
                               const thermocline_names* names, uint32_t from, uint32_t to) {
  return extend_by(thermocline_lease_commit, space, lease, names, from, to);
}

struct progress {
  thermocline_lease* lease;
  uint32_t ready;
};

static void on_ready(void* context, uint32_t places) {
  struct progress* progress = context;
  CHECK(places > progress->ready);
  for (; progress->ready < places; ++progress->ready) {
    size_t bytes = 0;
    const void* view = thermocline_lease_view(progress->lease, progress->ready, 0, &bytes);
    CHECK(holds(view, bytes, progress->ready));
  }
}

static void test_tokens(thermocline_client* client, thermocline_space* space) {
  int32_t tokens[16 * PLACES + 3];
  for (int i = 0; i < 16 * PLACES + 3; ++i) tokens[i] = 1000 + i;
  const thermocline_names prompt = {tokens, 16 * PLACES + 3, NULL, 0};

  thermocline_lease* lease = NULL;
  CHECK_OK(thermocline_match(space, &prompt, 5000, &lease, &error));
  CHECK(error.code == THERMOCLINE_OK && error.message[0] == '\0');
  CHECK(thermocline_lease_depth(lease) == 0);
  CHECK_CODE(thermocline_pin(space, &prompt, 1000, THERMOCLINE_TIER_NONE, -1, NULL, &error),
             THERMOCLINE_NOT_FOUND);
  CHECK(extend(space, lease, &prompt, 0, 10) == THERMOCLINE_OK);
  CHECK(extend(space, lease, &prompt, 10, PLACES) == THERMOCLINE_OK);
  CHECK(thermocline_lease_still_valid(lease));
  thermocline_lease_free(lease);

  CHECK_OK(thermocline_match(space, &prompt, -1, &lease, &error));
  CHECK(thermocline_lease_depth(lease) == PLACES);
  thermocline_block blocks[3];
  CHECK(thermocline_lease_blocks(lease, blocks, 3) == PLACES);
  CHECK(thermocline_lease_blocks(lease, NULL, 0) == PLACES);
  CHECK(blocks[2].depth == 2 && blocks[2].part == 0 && blocks[2].bytes == BLOCK_BYTES);
  CHECK(blocks[2].matched_tier == THERMOCLINE_TIER_WARM);
  struct progress progress = {lease, 0};
  uint32_t depth = 0;
  CHECK_OK(thermocline_lease_load(lease, on_ready, &progress, -1, &depth, &error));
  CHECK(depth == PLACES && progress.ready == PLACES);
  size_t bytes = 1;
  CHECK(thermocline_lease_view(lease, PLACES, 0, &bytes) == NULL && bytes == 0);
  CHECK_CODE(thermocline_lease_truncate(lease, PLACES + 1, -1, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK_OK(thermocline_lease_truncate(lease, 7, -1, &error));
  CHECK(thermocline_lease_depth(lease) == 7);
  CHECK(thermocline_lease_still_valid(lease));

  /* One slot for two places; a foreign NULL; the slots are taken all the same. */
  thermocline_reservation* slots[2] = {NULL, NULL};
  uint32_t granted = 0;
  CHECK_OK(thermocline_reserve(space, 1, 0, 0, -1, slots, &granted, &error));
  const thermocline_names two = {tokens, 32, NULL, 0};
  CHECK_CODE(thermocline_lease_commit(lease, &two, slots, 1, -1, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK(slots[0] == NULL);
  CHECK_CODE(thermocline_lease_commit(lease, &two, slots, 2, -1, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK_CODE(thermocline_reserve(space, 1, 1, 0, -1, slots, &granted, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK_OK(thermocline_reserve(space, 1, 0, 0, -1, slots, &granted, &error));
  thermocline_reservation_free(slots[0]);

  const thermocline_names both = {tokens, 16, "12345678", 1}, keys = {NULL, 0, "12345678", 1},
                          nothing = {NULL, 16, NULL, 0};
  thermocline_lease* none = NULL;
  CHECK_CODE(thermocline_match(space, &both, -1, &none, &error), THERMOCLINE_INVALID_ARGUMENT);
  CHECK_CODE(thermocline_match(space, &keys, -1, &none, &error), THERMOCLINE_INVALID_ARGUMENT);
  CHECK_CODE(thermocline_match(space, &nothing, -1, &none, &error), THERMOCLINE_INVALID_ARGUMENT);
  CHECK_CODE(thermocline_match(space, NULL, -1, &none, &error), THERMOCLINE_INVALID_ARGUMENT);
  CHECK(none == NULL);
  CHECK(thermocline_match(space, &keys, -1, &none, NULL) == THERMOCLINE_INVALID_ARGUMENT);

  thermocline_pin_info pin, pins[2];
  size_t count = 0;
  CHECK_OK(thermocline_pin(space, &prompt, 60000, THERMOCLINE_TIER_WARM, -1, &pin, &error));
  CHECK(pin.depth == PLACES && pin.tier == THERMOCLINE_TIER_WARM);
  CHECK_OK(thermocline_pins(client, -1, pins, 2, &count, &error));
  uint8_t fingerprint[THERMOCLINE_SHA256_BYTES];
  thermocline_space_fingerprint(space, fingerprint);
  CHECK(count == 1 && pins[0].pin == pin.pin);
  CHECK(memcmp(pins[0].space, fingerprint, sizeof fingerprint) == 0);
  CHECK_OK(thermocline_unpin(client, pin.pin, -1, &error));
  CHECK_CODE(thermocline_unpin(client, pin.pin, -1, &error), THERMOCLINE_NOT_FOUND);
  CHECK_CODE(thermocline_pin(space, &prompt, 1000, (thermocline_tier)7, -1, NULL, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  uint32_t promoting = 1;
  CHECK_OK(thermocline_prefetch(space, &prompt, -1, &depth, &promoting, &error));
  CHECK(depth == PLACES && promoting == 0);

  char* json = NULL;
  CHECK_OK(thermocline_stats_json(client, -1, &json, &error));
  CHECK(json != NULL && strstr(json, "\"places\":40,") != NULL);
  thermocline_string_free(json);

  /* A child has nothing of its parent's but may free it. */
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    failures = 0;
    CHECK_CODE(thermocline_match(space, &prompt, -1, &none, &error),
               THERMOCLINE_FAILED_PRECONDITION);
    CHECK_CODE(thermocline_stats_json(client, -1, &json, &error), THERMOCLINE_FAILED_PRECONDITION);
    CHECK(!thermocline_lease_still_valid(lease) && !thermocline_connected(client));
    CHECK(thermocline_lease_view(lease, 0, 0, &bytes) == NULL);
    thermocline_lease_free(lease);
    thermocline_space_free(space);
    thermocline_client_free(client);
    _exit(failures == 0 ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  const void* view = thermocline_lease_view(lease, 6, 0, &bytes);
  CHECK(holds(view, bytes, 6));
  CHECK(thermocline_lease_still_valid(lease));
  thermocline_lease_free(lease);
}

static void test_keys(thermocline_client* client) {
  const thermocline_part part = {"all", 0, BLOCK_BYTES, 0};
  thermocline_space_spec spec = spec_of("keys", &part);
  spec.key_bytes = KEY_BYTES;
  spec.salt = "secret";
  thermocline_space* space = NULL;
  CHECK_OK(thermocline_open_space(client, &spec, -1, &space, &error));
  char keys[KEY_BYTES * 5];
  for (int i = 0; i < KEY_BYTES * 5; ++i) keys[i] = (char)(i * 31); /* zeros and all */
  const thermocline_names path = {NULL, 0, keys, 5};
  thermocline_lease* lease = NULL;
  CHECK_OK(thermocline_match(space, &path, -1, &lease, &error));
  CHECK(extend(space, lease, &path, 0, 5) == THERMOCLINE_OK);
  thermocline_lease_free(lease);
  CHECK_OK(thermocline_match(space, &path, -1, &lease, &error));
  CHECK(thermocline_lease_depth(lease) == 5);
  for (uint32_t place = 0; place < 5; ++place) {
    size_t bytes = 0;
    const void* view = thermocline_lease_view(lease, place, 0, &bytes);
    CHECK(holds(view, bytes, place));
  }
  thermocline_lease_free(lease);
  int32_t tokens[16] = {0};
  const thermocline_names wrong = {tokens, 16, NULL, 0};
  CHECK_CODE(thermocline_match(space, &wrong, -1, &lease, &error), THERMOCLINE_INVALID_ARGUMENT);
  thermocline_space_free(space);
}

/* Keys that stand for themselves, in any order. */
static void test_unordered(thermocline_client* client) {
  const thermocline_part part = {"all", 0, BLOCK_BYTES, 0};
  thermocline_space_spec spec = spec_of("unordered", &part);
  spec.key_bytes = KEY_BYTES;
  thermocline_space* space = NULL;
  CHECK_OK(thermocline_open_space(client, &spec, -1, &space, &error));
  char keys[KEY_BYTES * 5];
  for (int i = 0; i < KEY_BYTES * 5; ++i) keys[i] = (char)('a' + i / KEY_BYTES);
  thermocline_lease* lease = NULL;
  for (uint32_t key = 0; key < 4; ++key) { /* the fifth is never put */
    const thermocline_names one = {NULL, 0, keys + KEY_BYTES * key, 1};
    CHECK_OK(thermocline_match(space, &one, -1, &lease, &error));
    CHECK(extend(space, lease, &one, 0, 1) == THERMOCLINE_OK);
    thermocline_lease_free(lease);
  }
  const thermocline_names all = {NULL, 0, keys, 5};
  thermocline_tier tiers[5];
  CHECK_OK(thermocline_look_up(space, &all, -1, tiers, &error));
  for (int i = 0; i < 5; ++i) CHECK(tiers[i] == (i < 4 ? THERMOCLINE_TIER_WARM : 0));
  static char bytes[5][BLOCK_BYTES];
  void* const buffers[5] = {bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]};
  CHECK_OK(thermocline_read_keys(space, &all, 0, buffers, -1, tiers, &error));
  for (int i = 0; i < 4; ++i) {
    CHECK(tiers[i] == THERMOCLINE_TIER_WARM && holds(bytes[i], BLOCK_BYTES, 0));
  }
  CHECK(tiers[4] == THERMOCLINE_TIER_NONE);
  CHECK_CODE(thermocline_read_keys(space, &all, 1, buffers, -1, tiers, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  thermocline_space_free(space);
}

static void test_async(const thermocline_space* space) {
  int32_t tokens[16 * PLACES];
  for (int i = 0; i < 16 * PLACES; ++i) tokens[i] = 5000 + i;
  const thermocline_names prompt = {tokens, 16 * PLACES, NULL, 0};
  thermocline_lease* lease = NULL;
  CHECK_OK(thermocline_match(space, &prompt, -1, &lease, &error));
  CHECK(thermocline_lease_settled(lease));
  CHECK_OK(thermocline_lease_settle(lease, -1, &error));
  for (uint32_t place = 0; place < PLACES; place += 8) {
    CHECK(extend_by(thermocline_lease_commit_async, space, lease, &prompt, place, place + 8) ==
          THERMOCLINE_OK);
    CHECK(thermocline_lease_depth(lease) == 0); /* moves when it is settled */
  }
  CHECK_OK(thermocline_lease_settle(lease, -1, &error));
  CHECK(thermocline_lease_settled(lease));
  CHECK(thermocline_lease_depth(lease) == PLACES);
  for (uint32_t place = 0; place < PLACES; ++place) {
    size_t bytes = 0;
    const void* view = thermocline_lease_view(lease, place, 0, &bytes);
    CHECK(holds(view, bytes, place));
  }
  thermocline_reservation* none[1] = {NULL};
  CHECK_CODE(thermocline_lease_commit_async(lease, &prompt, none, 1, -1, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  thermocline_lease_free(lease);
}

/* The lease stands for another process: what is exported are bytes. */
static void test_export(const thermocline_options* options, const thermocline_space* space) {
  int32_t tokens[16 * 6];
  for (int i = 0; i < 16 * 6; ++i) tokens[i] = 8000 + i;
  const thermocline_names prompt = {tokens, 16 * 6, NULL, 0};
  thermocline_lease *lease = NULL, *imported = NULL;
  CHECK_OK(thermocline_match(space, &prompt, -1, &lease, &error));
  CHECK(extend(space, lease, &prompt, 0, 6) == THERMOCLINE_OK);
  char* exported = NULL;
  size_t exported_bytes = 0;
  CHECK_OK(thermocline_lease_export(lease, &exported, &exported_bytes, &error));
  CHECK(exported != NULL && exported_bytes > 0);

  thermocline_client* client = NULL;
  thermocline_space *same = NULL, *another = NULL;
  CHECK_OK(thermocline_connect(options, &client, &error));
  const thermocline_part part = {"all", 0, BLOCK_BYTES, 0};
  thermocline_space_spec spec = spec_of("tokens", &part);
  CHECK_OK(thermocline_open_space(client, &spec, -1, &same, &error));
  spec.model = "another";
  CHECK_OK(thermocline_open_space(client, &spec, -1, &another, &error));
  CHECK_CODE(thermocline_import(another, exported, exported_bytes, -1, &imported, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK_CODE(thermocline_import(same, "nonsense", 8, -1, &imported, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK_OK(thermocline_import(same, exported, exported_bytes, -1, &imported, &error));
  CHECK(imported != NULL && thermocline_lease_depth(imported) == 6);
  thermocline_lease_free(lease);
  for (uint32_t place = 0; place < 6; ++place) {
    size_t bytes = 0;
    const void* view = thermocline_lease_view(imported, place, 0, &bytes);
    CHECK(holds(view, bytes, place));
  }
  CHECK(thermocline_lease_still_valid(imported));
  thermocline_lease_free(imported);
  thermocline_string_free(exported);
  thermocline_string_free(NULL);
  thermocline_space_free(another);
  thermocline_space_free(same);
  thermocline_client_free(client);
}

/* A byte of a block that is already verified is changed; who verifies always is not shown it. */
static void test_verify_always(const thermocline_options* options, const thermocline_space* space) {
  int32_t tokens[16];
  for (int i = 0; i < 16; ++i) tokens[i] = 8500 + i;
  const thermocline_names prompt = {tokens, 16, NULL, 0};
  thermocline_lease* lease = NULL;
  CHECK_OK(thermocline_match(space, &prompt, -1, &lease, &error));
  CHECK(extend(space, lease, &prompt, 0, 1) == THERMOCLINE_OK);
  size_t bytes = 0;
  unsigned char* block = (unsigned char*)thermocline_lease_view(lease, 0, 0, &bytes);
  CHECK(holds(block, bytes, 0));
  block[bytes / 2] ^= 1; /* against all rules, but clients of one tenant can */

  thermocline_client* client = NULL;
  thermocline_options careful = *options;
  careful.verify_always = true;
  CHECK_OK(thermocline_connect(&careful, &client, &error));
  const thermocline_part part = {"all", 0, BLOCK_BYTES, 0};
  const thermocline_space_spec spec = spec_of("tokens", &part);
  thermocline_space* same = NULL;
  thermocline_lease* found = NULL;
  CHECK_OK(thermocline_open_space(client, &spec, -1, &same, &error));
  CHECK_OK(thermocline_match(same, &prompt, -1, &found, &error));
  CHECK(thermocline_lease_view(found, 0, 0, &bytes) == NULL && bytes == 0);
  CHECK(thermocline_lease_depth(found) == 0);
  block[BLOCK_BYTES / 2] ^= 1;
  thermocline_lease_free(found);
  thermocline_lease_free(lease);
  thermocline_space_free(same);
  thermocline_client_free(client);
}

static uint32_t depth_of(const thermocline_space* space, const thermocline_names* names) {
  thermocline_lease* lease = NULL;
  CHECK_OK(thermocline_match(space, names, -1, &lease, &error));
  if (lease == NULL) return 0;
  const uint32_t depth = thermocline_lease_depth(lease);
  thermocline_lease_free(lease);
  return depth;
}

static void test_admin(const thermocline_options* options, thermocline_client* client) {
  thermocline_admin* admin = NULL;
  const thermocline_options nowhere = {.socket_path = "/nonexistent/t.sock"};
  CHECK_CODE(thermocline_admin_connect(&nowhere, &admin, &error), THERMOCLINE_UNAVAILABLE);
  CHECK_OK(thermocline_admin_connect(options, &admin, &error));
  if (admin == NULL) return;
  const thermocline_part part = {"all", 0, BLOCK_BYTES, 0};
  const thermocline_space_spec spec = spec_of("admin", &part);
  thermocline_space* space = NULL;
  CHECK_OK(thermocline_open_space(client, &spec, -1, &space, &error));
  int32_t tokens[16 * 10];
  for (int i = 0; i < 16 * 10; ++i) tokens[i] = 9000 + i;
  const thermocline_names path = {tokens, 16 * 10, NULL, 0}, upper = {tokens, 16 * 4, NULL, 0},
                          crooked = {tokens, 17, NULL, 0}, empty = {tokens, 0, NULL, 0};
  thermocline_lease* lease = NULL;
  CHECK_OK(thermocline_match(space, &path, -1, &lease, &error));
  CHECK(extend(space, lease, &path, 0, 10) == THERMOCLINE_OK);
  thermocline_lease_free(lease);

  uint64_t count = 0, kept = 1;
  CHECK_CODE(thermocline_admin_delete(admin, space, &empty, -1, &count, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK_CODE(thermocline_admin_delete(admin, space, &crooked, -1, &count, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK(depth_of(space, &path) == 10);
  CHECK_OK(thermocline_admin_delete(admin, space, &upper, -1, &count, &error));
  CHECK(count == 7); /* the fourth place and what is behind it */
  CHECK(depth_of(space, &path) == 3);
  CHECK_OK(thermocline_admin_delete(admin, space, NULL, -1, &count, &error));
  CHECK(count == 3 && depth_of(space, &path) == 0);

  CHECK_OK(thermocline_match(space, &path, -1, &lease, &error));
  CHECK(extend(space, lease, &path, 0, 10) == THERMOCLINE_OK);
  CHECK_OK(thermocline_admin_flush(admin, THERMOCLINE_TIER_WARM, -1, &count, &kept, &error));
  CHECK(kept == 10); /* leased */
  thermocline_lease_free(lease);
  CHECK_CODE(thermocline_admin_flush(admin, (thermocline_tier)9, -1, NULL, NULL, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK_OK(thermocline_admin_flush(admin, THERMOCLINE_TIER_WARM, -1, &count, &kept, &error));
  CHECK(count == 10 && kept == 0);
  CHECK_OK(thermocline_match(space, &path, -1, &lease, &error));
  CHECK_OK(thermocline_lease_load(lease, NULL, NULL, -1, NULL, &error));
  thermocline_lease_free(lease);
  char* json = NULL;
  CHECK_OK(thermocline_admin_tenants_json(admin, -1, &json, &error));
  CHECK(json != NULL && strstr(json, "\"tenant\":\"default\"") != NULL);
  CHECK(json != NULL && strstr(json, "\"warm_share_bytes\":") != NULL);
  CHECK(json != NULL && strstr(json, "\"warm_ttl_pinned_bytes\":0") != NULL);
  thermocline_string_free(json);
  CHECK_OK(thermocline_admin_drop_arena(admin, -1, &count, &error));
  CHECK(count == 10);
  thermocline_space_free(space);
  thermocline_admin_free(admin);
  thermocline_admin_free(NULL);
}

/* `remote` is complete, and its daemon the one of `here`. */
static void test_remote(const thermocline_remote* remote, const thermocline_space* here) {
  thermocline_client* client = NULL;
  thermocline_options options = {.socket_path = "/nonexistent/t.sock", .remote = *remote};
  options.remote.address = "tls://nobody";
  CHECK_CODE(thermocline_connect(&options, &client, &error), THERMOCLINE_INVALID_ARGUMENT);
  options.remote = *remote;
  options.remote.token_file = "/nonexistent/token";
  CHECK(thermocline_connect(&options, &client, &error) != THERMOCLINE_OK);
  options.remote = *remote;
  CHECK_OK(thermocline_connect(&options, &client, &error));
  if (client == NULL) return;
  thermocline_admin* admin = NULL;
  CHECK_CODE(thermocline_admin_connect(&options, &admin, &error), THERMOCLINE_PERMISSION_DENIED);
  const thermocline_part part = {"all", 0, BLOCK_BYTES, 0};
  const thermocline_space_spec spec = spec_of("tokens", &part);
  thermocline_space* space = NULL;
  CHECK_OK(thermocline_open_space(client, &spec, -1, &space, &error));
  int32_t tokens[16 * 4];
  for (int i = 0; i < 16 * 4; ++i) tokens[i] = 7000 + i;
  const thermocline_names path = {tokens, 16 * 4, NULL, 0};
  thermocline_lease* lease = NULL;
  CHECK_OK(thermocline_match(space, &path, -1, &lease, &error));
  CHECK(extend_by(thermocline_lease_commit_async, space, lease, &path, 0, 4) == THERMOCLINE_OK);
  CHECK_OK(thermocline_lease_settle(lease, -1, &error));
  CHECK(thermocline_lease_depth(lease) == 4);
  thermocline_lease_free(lease);
  CHECK(depth_of(here, &path) == 4);
  thermocline_space_free(space);
  thermocline_client_free(client);
}

/* program SOCKET [ADDRESS CA CERTIFICATE KEY TOKEN_FILE] */
int main(int argc, char** argv) {
  if (argc != 2 && argc != 7) return 2;
  thermocline_client* client = NULL;
  const thermocline_options nowhere = {.socket_path = "/nonexistent/t.sock", .timeout_ms = 200};
  CHECK_CODE(thermocline_connect(&nowhere, &client, &error), THERMOCLINE_UNAVAILABLE);
  CHECK(client == NULL && strstr(error.message, "/nonexistent/t.sock") != NULL);

  const thermocline_options options = {.socket_path = argv[1], .client_name = "a C program"};
  CHECK_OK(thermocline_connect(&options, &client, &error));
  if (client == NULL) return 1;
  CHECK(strcmp(thermocline_socket_path(client), argv[1]) == 0);
  CHECK(thermocline_connected(client));
  CHECK_OK(thermocline_reconnect(client, &error));
  CHECK(strchr(thermocline_version(), '.') != NULL);
  CHECK(strcmp(thermocline_code_name((thermocline_code)31), "UNKNOWN") == 0);

  const thermocline_part part = {"all", 0, BLOCK_BYTES, 0};
  thermocline_space_spec spec = spec_of("tokens", &part);
  thermocline_space* space = NULL;
  spec.block_tokens = 17;
  CHECK_CODE(thermocline_open_space(client, &spec, -1, &space, &error),
             THERMOCLINE_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "17") != NULL);
  spec.block_tokens = 0;
  CHECK_OK(thermocline_open_space(client, &spec, -1, &space, &error));
  if (space == NULL) return 1;
  test_tokens(client, space);
  test_keys(client);
  test_unordered(client);
  test_async(space);
  test_export(&options, space);
  test_verify_always(&options, space);
  if (argc == 7) {
    const thermocline_remote remote = {argv[2], argv[3], argv[4], argv[5], argv[6]};
    test_remote(&remote, space);
  }
  test_admin(&options, client);
  thermocline_client_free(client);
  thermocline_space_free(space); /* in any order */
  thermocline_lease_free(NULL);
  thermocline_reservation_free(NULL);
  if (failures == 0) puts("all as the header says");
  return failures == 0 ? 0 : 1;
}
