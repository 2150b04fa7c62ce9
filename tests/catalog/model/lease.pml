/* Leases in time: a client reads in place what it has pinned, and may be stopped for a minute
 * before or after any step, with all of its threads or without; its daemon may lose the socket, or
 * be killed at any step and started again. Claim: bytes that the client's last check lets pass are
 * those that it asked for. docs/catalog.md argues it.
 *
 * A stopped process is one that takes no step for a while, which interleaving gives for nothing,
 * and the clock moves whenever it likes. Reduced to one client, one place with one block, one pin.
 * Memory is sequentially consistent: whoever stores here, and then loads what the other side
 * stores, has a fence between, and those are the subject of catalog.pml. Function names are those
 * of client/connection.cc, daemon/session_server.cc and tiers/stack_clients.cc.
 */
#define LEASE 1 /* kLeaseMilliseconds, and the grace of a restarted daemon */
#define END 3   /* of time: enough for a silence and what was leased after it */
#define BEATS 1 /* of the heart, at most */

#define GOOD 1
#define POISON 2

#define NODE_STATE(version, length) (2 * (version) + (length))
#define LENGTH(state) ((state) % 2)

/* ---- shared memory: proto/shm_layout.h, catalog/layout.h, the arena */
byte lease_until = LEASE;
byte lease_generation;
byte heartbeat;
bool pin;
byte state = NODE_STATE(0, 1); /* NodeState of the place: version and length, one word */
byte slot = GOOD;              /* the bytes */

bool done;       /* the client's last check is over, and nothing matters any more */
byte now;        /* CLOCK_BOOTTIME: the same for all, at any moment */
bool dead;       /* the daemon was killed */
bool closed;     /* the session's socket has ended; the client's process has not */
bool superseded; /* within the client: Connection::superseded_ */
bool hello;      /* the client has come to the next daemon */

/* Between the session's thread and the strand: posted, so ordered. */
bool ending; /* ExpireLeases, and not done yet */
bool leave;  /* Leave */

/* What happens to all of them. */
proctype World() provided (!done) {
  do
  :: now < END -> now++
  :: !closed && !dead -> closed = true
  :: !dead -> dead = true
  od
}

/* ================================================================ the daemon */

byte until = LEASE; /* the server's own copy of lease_until */

#ifdef WITHOUT_WAITING_FOR_THE_STRAND
#define MAY_EXTEND true
#else
#define MAY_EXTEND !ending
#endif
#define EndLeases() lease_generation++ /* SessionControlArea::EndLeases */

/* SessionServer::Impl::TickSession, and OnEnd before it */
proctype Server() provided (!dead && !done) {
  byte time, heard;
  bool silent;
  do
  :: atomic { !closed && heartbeat != heard && MAY_EXTEND ->
       time = now;
       heard = heartbeat
     };
#ifndef WITHOUT_RAISE_ON_WAKING
     if :: silent -> EndLeases() :: else fi;
#endif
     atomic { silent = false; until = time + LEASE; time = 0; lease_until = until }
  :: atomic { !closed && heartbeat == heard && now > until && !silent -> silent = true };
#ifndef WITHOUT_RAISE_ON_SILENCE
     EndLeases();
#endif
     ending = true
  :: closed && now > until && !leave -> leave = true /* EndSession */
  od
}

/* What it does for others it does in turns; it evicts at any time, and once is enough. */
proctype Strand() provided (!dead && !done) {
  do
  :: ending -> /* StackCore::ExpireLeases */
     pin = false;
     ending = false
  :: state == NODE_STATE(0, 1) -> /* Writer::Drop, then the slot is used again */
     state = NODE_STATE(1, 0);
     if
     :: pin && !leave -> state = NODE_STATE(1, 1)
     :: else -> slot = POISON
     fi
  od
}

/* The next daemon knows no pin of the one before: it adopts the slots, and reuses none until all
 * old clients are back, or dead, or a lease's time has passed. */
proctype NextDaemon() provided (!done) {
  byte start;
  dead;
  start = now;
#ifndef WITHOUT_GRACE
  hello || now >= start + LEASE;
#endif
  slot = POISON;
  false /* it stays */
}

/* ================================================================ the client */

/* Its heartbeat, and its way back to the next daemon (Connection::SupersedeLost). */
proctype Heart() provided (!done) {
  byte beats;
  do
  :: beats < BEATS -> atomic { beats++; heartbeat++ }
  :: dead ->
#ifdef WITH_HELLO_FIRST
     hello = true;
     superseded = true;
#else
     superseded = true;
     hello = true;
#endif
     break
  od
}

/* Connection::LeaseHolds, each load one step. Lease_until comes first: whoever sees it extended
 * after a silence sees the generation that was raised before. */
#define TIME_IS_LEFT(answer) until_seen = lease_until; answer = answer && now < until_seen
#ifdef WITHOUT_GENERATION
#define GENERATION_STANDS(answer) skip
#else
#define GENERATION_STANDS(answer) answer = answer && lease_generation == generation
#endif

inline LeaseHolds(answer) {
  answer = !superseded;
#ifdef WITH_GENERATION_FIRST
  GENERATION_STANDS(answer);
  TIME_IS_LEFT(answer)
#else
#ifndef WITHOUT_UNTIL
  TIME_IS_LEFT(answer);
#endif
  GENERATION_STANDS(answer)
#endif
}

proctype Client() {
  byte generation, seen, bytes, until_seen;
  bool holds;
  generation = lease_generation; /* Connection::LeaseGeneration, before the match */
  seen = state;                  /* Reader::MatchAndPin */
  pin = true;
  if
  :: LENGTH(seen) == 1 && state == seen ->
#ifdef WITH_CHECK_BEFORE_READ
     LeaseHolds(holds);
     bytes = slot;
#else
     bytes = slot;
     LeaseHolds(holds);
#endif
     assert(!holds || bytes == GOOD)
  :: else
  fi;
  pin = false;
  done = true
}

init {
  atomic {
    run World(); run Server(); run Strand(); run NextDaemon(); run Heart(); run Client()
  }
}
