/* The catalog's protocol: a writer drops, moves and appends while a reader matches a path of two
 * nodes, pins it, and reads bytes in place. Claim: whatever a match calls usable are the bytes of
 * the path that was asked for, until the reader lets go. docs/catalog.md argues it; here every
 * interleaving is tried, under two memory models (memory.pml), and once more without each fence and
 * check: then the claim must fail (check.py).
 *
 * Reduced to what the argument speaks of: runs of one name, two nodes, names A and B, three slots,
 * one part. The bytes of a slot are the path that they belong to, and POISON once it is reused. The
 * reader does one of four things (its plan), the writer what it likes, a few times (TURNS).
 * Function names are those of catalog/reader.cc, writer.cc and writer_moves.cc; of Commit,
 * tiers/stack_shared.cc.
 */
#define NODES 3 /* 1 and 2; 0 is the root, or none */
#define A 1
#define B 2
#define PATH(above, name) (3 * (above) + (name)) /* the root's is 0 */
#define POISON 9

/* ---- shared memory: catalog/layout.h */
#define STATE(node) (0 + (node))  /* NodeState: version and length, one word */
#define PARENT(node) (3 + (node))
#define NAME(node) (6 + (node))
#define WORD(node) (9 + (node))   /* Word: slot and flag, one word */
#define BYTES(slot) (12 + (slot)) /* the arena: slots 1 to 3 */
#define PIN(number) (16 + (number))
#define REQUEST 18 /* to commit B behind the place that pin 1 holds: that place */
#define ANSWER 19  /* 4 * the new place + its slot */
#define ID(node) (19 + (node)) /* TOLD, of the place that the reader was told of; any other is 0 */
#define LOCATIONS 22
#define TOLD 1

#define NODE_STATE(version, length) (2 * (version) + (length))
#define VERSION(state) ((state) / 2)
#define LENGTH(state) ((state) % 2)
#define MOVING(slot) (2 * (slot) + 1)
#define RESTING(slot) (2 * (slot))
#define SLOT(word) ((word) / 2)
#define READABLE(word) ((word) != 0 && (word) % 2 == 0)

#define WRITER 0
#define READER 1
#define PROCESSES 2
#include "memory.pml"

/* ---- what is taken out: catalog/fences.h */
#ifdef WITHOUT_READER_FENCE
#define ReaderFence() skip
#else
#define ReaderFence() Fence(READER)
#endif
#ifdef WITHOUT_ADOPTER_FENCE
#define AdopterFence() skip
#else
#define AdopterFence() Fence(READER)
#endif
#ifdef WITHOUT_DROP_FENCE
#define DropFence() skip
#else
#define DropFence() Fence(WRITER)
#endif
#ifdef WITHOUT_MOVE_FENCE
#define MoveFence() skip
#else
#define MoveFence() Fence(WRITER)
#endif

#ifdef WITHOUT_VERSION
#define NEXT_VERSION(node) version[node]
#else
#define NEXT_VERSION(node) (version[node] + 1)
#endif
#ifdef WITHOUT_RELEASE_OF_WORD
#define Publish(location, value) Store(WRITER, location, value)
#else
#define Publish(location, value) Release(WRITER, location, value)
#endif
#ifdef WITHOUT_WORD_ZEROED
#define ZeroWord(node) skip
#else
#define ZeroWord(node) Store(WRITER, WORD(node), 0)
#endif
#ifdef WITHOUT_ANCESTORS
#define FIRST_CHECKED (depth - 1)
#else
#define FIRST_CHECKED 0
#endif

mtype = { MATCH, EXTEND, COMMIT, ADOPT };
mtype plan; /* what the reader does */
byte told;  /* the node of which it was told, by one who may have let go of it */
bool reader_done;

/* ================================================================ the writer */

byte turns; /* it has left */

/* Its own knowledge, in memory of its own. A node keeps its slot while it is free. */
bool live[NODES];
byte version[NODES], parent[NODES], path[NODES], slot[NODES];
bool filled[NODES]; /* whether its word names the slot */
byte spare;
bool marked[NODES];

#define IS_LEAF(node) (live[node] && !(live[3 - (node)] && parent[3 - (node)] == (node)))
#define HAS_CHILD(place, name) ((live[1] && parent[1] == (place) && path[1] % 3 == (name) % 3) || \
                                (live[2] && parent[2] == (place) && path[2] % 3 == (name) % 3))

/* MarkPins, MarkUpwards. One look at a pin is one step. */
#ifdef WITH_PINS_DESCENDING
#define NTH(pin) (1 - (pin))
#else
#define NTH(pin) (pin)
#endif
#ifdef WITHOUT_CLIMB
#define NEXT_MARKED(place) 0
#else
#define NEXT_MARKED(place) parent[place]
#endif

inline MarkPins() {
  d_step { marked[1] = false; marked[2] = false; pin = 0 };
  do
  :: atomic { pin < 2 ->
       place = memory[PIN(NTH(pin))];
       pin++;
       do
       :: place != 0 -> marked[place] = true; place = NEXT_MARKED(place)
       :: else -> break
       od
     }
  :: else -> pin = 0; break
  od
}

/* FillHoles: somebody fills a slot, then it is published. SetWord. */
inline Fill(node) {
  Store(WRITER, BYTES(slot[node]), path[node]);
  atomic { filled[node] = true; Publish(WORD(node), RESTING(slot[node])) }
}

inline Append(node, at, name) {
  atomic {
    live[node] = true; parent[node] = at; path[node] = PATH(path[at], name);
    Store(WRITER, NAME(node), name)
  };
  if :: plan == ADOPT -> Store(WRITER, ID(node), 0) :: else fi;
  Store(WRITER, PARENT(node), at);
  Release(WRITER, STATE(node), NODE_STATE(version[node], 1));
  Fill(node)
}

/* Drop, CutTail: of a leaf. */
inline Drop(node) {
  atomic {
    version[node] = NEXT_VERSION(node);
    Store(WRITER, STATE(node), NODE_STATE(version[node], 0))
  };
  DropFence();
  MarkPins();
  if
  :: atomic { marked[node] -> Release(WRITER, STATE(node), NODE_STATE(version[node], 1)) }
  :: atomic { !marked[node] -> ZeroWord(node) };
     atomic { live[node] = false; filled[node] = false; Store(WRITER, BYTES(slot[node]), POISON) }
  fi
}

/* BeginMove, FinishMove: to another slot, or to none (demotion, a hole behind a window). */
inline Move(node) {
  Store(WRITER, WORD(node), MOVING(slot[node]));
  MoveFence();
  MarkPins();
  if
  :: atomic { marked[node] -> Release(WRITER, WORD(node), RESTING(slot[node])) }
  :: atomic { !marked[node] -> Store(WRITER, BYTES(slot[node]), POISON) };
     if
     :: d_step { pin = slot[node]; slot[node] = spare; spare = pin; pin = 0 };
        Fill(node)
     :: atomic { filled[node] = false; Release(WRITER, WORD(node), 0) }
     fi
  fi
}

/* StackCore::Commit: behind a pinned place only; then the pin goes deeper, before anything else. */
inline Commit() {
  d_step { place = memory[REQUEST]; memory[REQUEST] = 0 };
  if
  :: memory[PIN(1)] != place -> skip /* refused: the pin is gone */
  :: else ->
     node = 3 - place;
     if
     :: !live[node] -> Append(node, place, B)
     :: live[node] && parent[node] == place && path[node] == PATH(path[place], B) ->
        if :: filled[node] -> skip :: else -> Fill(node) fi
     :: else -> node = 0 /* refused: no node is free */
     fi;
#ifdef WITH_CLIENT_PINNING_LATE
     skip
#else
     Fence(WRITER); /* a read-modify-write with release */
#ifdef WITH_PIN_STORED
     if :: node != 0 -> memory[PIN(1)] = node :: else fi
#else
     atomic { if :: node != 0 && memory[PIN(1)] == place -> memory[PIN(1)] = node :: else fi }
#endif
#endif
  fi;
  if :: node != 0 -> Release(WRITER, ANSWER, 4 * node + slot[node]) :: else fi
}

proctype Writer() {
  byte node, pin, place;
  do
  :: atomic { turns > 0 && !reader_done -> turns-- };
     if
     :: IS_LEAF(1) -> Drop(1)
     :: IS_LEAF(2) -> Drop(2)
     :: live[1] && filled[1] -> Move(1)
     :: live[2] && filled[2] -> Move(2)
     :: live[1] && !filled[1] -> Fill(1)
     :: live[2] && !filled[2] -> Fill(2)
     :: !live[1] && !HAS_CHILD(0, A) -> Append(1, 0, A)
     :: !live[1] && !HAS_CHILD(0, B) -> Append(1, 0, B)
     :: !live[2] && !HAS_CHILD(0, A) -> Append(2, 0, A)
     :: !live[2] && live[1] && parent[1] == 0 -> Append(2, 1, A)
     :: !live[2] && live[1] && parent[1] == 0 -> Append(2, 1, B)
     :: !live[1] && live[2] && parent[2] == 0 -> Append(1, 2, B)
     :: memory[REQUEST] != 0 -> Commit()
     fi;
     node = 0; place = 0
  :: break
  od;
  /* Nothing stays pinned for ever. */
  reader_done && buffer[READER].count == 0 && buffer[WRITER].count == 0;
  assert(memory[PIN(0)] == 0 && memory[PIN(1)] == 0)
}

/* ================================================================ the reader */

#define WANTED(level) (1 + (level))                    /* A, then B below it */
#define WANTED_PATH(level) ((level) == 0 -> 1 : 5)     /* PATH(0, A), PATH(PATH(0, A), B) */
#define ABOVE(level) ((level) == 0 -> 0 : step[0])

/* Walk: compares names under the states read before. The hint or the table names any node. */
inline Walk(limit) {
  depth = 0;
  do
  :: atomic { depth < limit ->
       if :: node = 1 :: node = 2 fi;
       seen[depth] = memory[STATE(node)];
       if :: LENGTH(seen[depth]) == 0 -> break :: else fi
     };
     if :: memory[PARENT(node)] != ABOVE(depth) -> break :: else fi;
     atomic {
       if :: memory[NAME(node)] != WANTED(depth) -> break :: else fi;
       step[depth] = node;
       depth++
     }
  :: else -> break
  od;
  node = 0
}

/* No node of the path lost a name since it was compared. */
inline Untouched() {
  d_step { right = true; level = FIRST_CHECKED };
  do
  :: atomic { right && level < depth ->
       right = VERSION(memory[STATE(step[level])]) == VERSION(seen[level]);
       level++
     }
  :: else -> break
  od;
  atomic { seen[0] = 0; seen[1] = 0; level = 0 }
}

/* The end of the path is there, under a visible pin: compare once more, upwards, without a race. */
inline Frozen() {
  d_step { right = true; level = depth };
  do
  :: atomic { right && level > 0 ->
       level--;
       right = LENGTH(memory[STATE(step[level])]) > 0
     };
     atomic { right = right && memory[PARENT(step[level])] == ABOVE(level) };
     atomic { right = right && memory[NAME(step[level])] == WANTED(level) }
  :: else -> break
  od;
  level = 0
}

inline ReadWords() {
  level = 0;
  do
  :: atomic { level < depth -> word[level] = memory[WORD(step[level])]; level++ }
  :: else -> break
  od;
  level = 0
}

inline Unpin(number) {
  Release(READER, PIN(number), 0)
}

inline MatchAndPin(number, limit) {
  tries = 0;
  do
  :: atomic { tries < ATTEMPTS -> tries++ };
     Walk(limit);
     if :: depth == 0 -> break :: else fi;
#ifdef WITH_EARLY_WORDS
     ReadWords();
#endif
     Release(READER, PIN(number), step[depth - 1]);
     ReaderFence();
#ifdef WITHOUT_REVALIDATION
     right = true;
#else
     Untouched();
     if :: !right -> Frozen() :: else fi;
#endif
     if
     :: right ->
#ifndef WITH_EARLY_WORDS
        ReadWords();
#endif
        break
     :: else -> Unpin(number); depth = 0
     fi
  :: else -> break
  od
}

/* Pinned, it stands and is the one: then what is above it stands too. */
inline Adopt() {
  Release(READER, PIN(1), told);
  AdopterFence();
#ifdef WITHOUT_ADOPTER_LOOK
  right = true;
#else
  right = LENGTH(memory[STATE(told)]) > 0;
  atomic { right = right && memory[ID(told)] == TOLD };
#endif
  if
  :: atomic { right && told == 1 -> step[0] = 1; depth = 1 }
  :: atomic { right && told == 2 && memory[PARENT(2)] == 1 -> step[0] = 1; step[1] = 2; depth = 2 }
  :: else -> depth = 0
  fi;
  ReadWords()
}

/* In place, at any later time. Usable ends at the first word that cannot be read. */
inline UseBytes() {
  level = 0;
  do
  :: atomic { level < depth && READABLE(word[level]) ->
       assert(memory[BYTES(SLOT(word[level]))] == WANTED_PATH(level));
       level++
     }
  :: else -> break
  od
}

proctype Reader() {
  byte depth, node, level, tries;
  byte step[2], seen[2], word[2];
  bool right;
  if
  :: plan == ADOPT -> Adopt()
  :: else -> MatchAndPin(1, (plan == MATCH -> 2 : 1))
  fi;
  if
  :: plan == EXTEND && depth > 0 -> /* pin 0 first, then copied up */
     MatchAndPin(0, 2);
     if :: depth > 0 -> Release(READER, PIN(1), step[depth - 1]) :: else fi;
     Unpin(0)
  :: plan == COMMIT && depth > 0 ->
     memory[REQUEST] = step[0];
     if
     :: atomic { memory[ANSWER] != 0 ->
          step[1] = memory[ANSWER] / 4;
          word[1] = RESTING(memory[ANSWER] % 4);
          depth = 2
        };
#ifdef WITH_CLIENT_PINNING_LATE
        Release(READER, PIN(1), step[1])
#endif
     :: true -> skip /* does not wait for it */
     fi
  :: else
  fi;
  UseBytes();
  Unpin(1);
  d_step { level = 0; depth = 0; node = 0; tries = 0; right = false; step[0] = 0; step[1] = 0;
           seen[0] = 0; seen[1] = 0; word[0] = 0; word[1] = 0; reader_done = true }
}

/* ================================================== A is there, perhaps B below it */

init {
  d_step {
    live[1] = true; parent[1] = 0; path[1] = PATH(0, A); slot[1] = 1; filled[1] = true;
    slot[2] = 2; spare = 3;
    memory[STATE(1)] = NODE_STATE(0, 1); memory[NAME(1)] = A; memory[WORD(1)] = RESTING(1);
    memory[BYTES(1)] = path[1]; memory[BYTES(2)] = POISON; memory[BYTES(3)] = POISON;
    told = 1
  };
  if
  :: true
  :: d_step {
       live[2] = true; parent[2] = 1; path[2] = PATH(path[1], B); filled[2] = true;
       memory[STATE(2)] = NODE_STATE(0, 1); memory[NAME(2)] = B; memory[PARENT(2)] = 1;
       memory[WORD(2)] = RESTING(2); memory[BYTES(2)] = path[2];
       told = 2
     }
  fi;
  if
  :: d_step { plan = MATCH; turns = TURNS }
  :: d_step { plan = EXTEND; turns = TURNS - 1 }
  :: d_step { plan = COMMIT; turns = TURNS - 1 }
  :: d_step { plan = ADOPT; turns = TURNS; memory[ID(told)] = TOLD }
  fi;
  atomic { run Writer(); run Reader(); run Buffers(WRITER); run Buffers(READER) }
}
