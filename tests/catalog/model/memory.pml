/* Shared memory as a processor shows it, for a model checker that knows sequential consistency
 * only: a store waits in the buffer of its process until it leaves for the memory, at any later
 * step.
 *
 * Without RELAXED, stores leave in the order in which they were made: x86. With RELAXED, stores to
 * different locations overtake each other, unless the later one is a release. A fence waits until
 * the buffer is empty. Loads happen when and in the order in which they are written; no process
 * loads what it stores (the writer knows its own tree), so that none looks into its own buffer.
 *
 * The including model defines LOCATIONS and PROCESSES, and runs Buffers(). Initial memory is 0.
 */
#define BUFFERED 4 /* stores a buffer holds; one that finds it full waits */

typedef StoreBuffer {
  byte count;
  byte where[BUFFERED];
  byte what[BUFFERED];
  bool release[BUFFERED]
};

byte memory[LOCATIONS];
StoreBuffer buffer[PROCESSES];

inline Push(who, location, value, is_release) {
  atomic {
    buffer[who].count < BUFFERED ->
    buffer[who].where[buffer[who].count] = location;
    buffer[who].what[buffer[who].count] = value;
    buffer[who].release[buffer[who].count] = is_release;
    buffer[who].count++
  }
}
#define Store(who, location, value) Push(who, location, value, false)   /* memory_order_relaxed */
#define Release(who, location, value) Push(who, location, value, true)  /* memory_order_release */
#define Fence(who) buffer[who].count == 0                               /* memory_order_seq_cst */

#define ELSEWHERE(who, i, j) (buffer[who].where[i] != buffer[who].where[j])
#ifdef RELAXED
#define MAY_OVERTAKE(who, i) !buffer[who].release[i]
#else
#define MAY_OVERTAKE(who, i) false
#endif

/* The i-th store leaves; those behind it move up. */
inline Leave(who, i) {
  d_step {
    memory[buffer[who].where[i]] = buffer[who].what[i];
    gap = i;
    do
    :: gap + 1 < buffer[who].count ->
       buffer[who].where[gap] = buffer[who].where[gap + 1];
       buffer[who].what[gap] = buffer[who].what[gap + 1];
       buffer[who].release[gap] = buffer[who].release[gap + 1];
       gap++
    :: else -> break
    od;
    buffer[who].where[gap] = 0;
    buffer[who].what[gap] = 0;
    buffer[who].release[gap] = false;
    buffer[who].count--;
    gap = 0
  }
}

proctype Buffers(byte who) {
  byte gap;
end:
  do
  :: buffer[who].count > 0 -> Leave(who, 0)
  :: atomic { buffer[who].count > 1 && MAY_OVERTAKE(who, 1) && ELSEWHERE(who, 1, 0) ->
       Leave(who, 1) }
  :: atomic { buffer[who].count > 2 && MAY_OVERTAKE(who, 2) && ELSEWHERE(who, 2, 0) &&
              ELSEWHERE(who, 2, 1) -> Leave(who, 2) }
  :: atomic { buffer[who].count > 3 && MAY_OVERTAKE(who, 3) && ELSEWHERE(who, 3, 0) &&
              ELSEWHERE(who, 3, 1) && ELSEWHERE(who, 3, 2) -> Leave(who, 3) }
  od
}
