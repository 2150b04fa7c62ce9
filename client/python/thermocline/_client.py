"""The blocking client. Every call that waits does so without the GIL, and at most for its
`timeout`, in seconds; None stands for the client's."""
from __future__ import annotations

import time
from types import TracebackType
from typing import Callable, List, Optional, Sequence, Tuple, Type, Union

from . import _native
from ._errors import InvalidArgumentError
from ._native import Block, Reservation
from ._types import (BlockInfo, Buffer, DaemonStats, FlushResult, Names, PinInfo, PrefetchInfo,
                     RemoteOptions, SpaceInfo, SpaceSpec, TenantInfo, spec_of, stats_of)

_PLACE_TOKENS = 16


class Lease:
    """The right to read a path in place: it pins everything from the root to its end, and commits
    extend it. As a context manager it is released at the end; a view that outlives that keeps the
    lease until it goes itself.

    The rule: read, then ask still_valid(), then use what was computed. False means that what was
    read was a miss.

    Thread: any, one at a time; a second one waits.
    Errors: every call on a lease that was released, of a lost daemon, or of the parent process of a
            fork raises FailedPreconditionError; match again.
    """

    def __init__(self, native: _native.Lease) -> None:
        self._native = native

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.release()

    @property
    def depth(self) -> int:
        """Usable places: the lease covers [0, depth). Cold ones are not readable before load()."""
        return self._native.depth()

    @property
    def blocks(self) -> Tuple[BlockInfo, ...]:
        """The blocks of the path, depth-major, then part."""
        return tuple(BlockInfo(*block) for block in self._native.blocks())

    def view(self, depth: int, part: int = 0) -> Optional[Block]:
        """The bytes of the block that ends at place `depth`, in the arena, read-only; None when it
        is not readable in place: cold and not loaded, outside the window of its part, not there, or
        damaged (then the lease ends there from now on)."""
        return self._native.view(depth, part)

    def load(self, on_ready: Optional[Callable[[int], object]] = None,
             timeout: Optional[float] = None) -> int:
        """Makes the whole path readable: promotes its cold blocks, in prefix order, and verifies
        those that need it. `on_ready(n)` is called in this thread, with growing n, when the places
        [0, n) can be viewed; what it raises is raised here at the end.

        Returns the depth that is readable, the lease's from now on: less than before when a block
        could not be had. A time-out is no error: what is not there by then is a miss."""
        return self._native.load(on_ready, timeout)

    def truncate(self, depth: int, timeout: Optional[float] = None) -> None:
        """Moves the end back to `depth` places, so that the next commit goes behind them."""
        self._native.truncate(depth, timeout)

    def commit(self, names: Names, slots: Sequence[Reservation],
               timeout: Optional[float] = None, wait: bool = True) -> None:
        """Publishes filled slots behind the end, in order, and moves the end behind them.

        Without `wait` it only enqueues them: blocks are published in the order in which they were
        enqueued, and others find them then. The end moves with settle(); what is enqueued before
        goes behind what was enqueued last. A lease that is released meanwhile publishes all the
        same. One whose path is not warm throughout, and a remote client's, waits in any case.

        Shape:  names of the new places; slots [new blocks][parts], flat.
        Owner:  the slots are used up, also when it raises, except for InvalidArgumentError and
                ValueError about the arguments themselves. Do not write to their arrays any more.
        Errors: InvalidArgumentError when names and slots do not fit; FailedPreconditionError when
                the slots are of another session; others: nothing was published, go on uncached.
                Without `wait`, DeadlineExceededError: so much is on its way already that this could
                not be enqueued, or not all of it."""
        self._native.commit(names, slots, timeout, wait)

    def settle(self, timeout: Optional[float] = None) -> None:
        """Waits until all that commit(wait=False) enqueued is answered, and moves the end behind
        what was published.

        Errors: the first that a commit met: what came behind it was not published, and the lease
                ends before it; DeadlineExceededError: call it again."""
        self._native.settle(timeout)

    @property
    def settled(self) -> bool:
        """Whether settle() would not have to wait."""
        return self._native.settled()

    def export(self) -> bytes:
        """What another process of the tenant needs to lease the same path (Space.import_lease),
        however many do. It promises nothing: this lease must hold until the other has its own."""
        return self._native.export()

    def still_valid(self) -> bool:
        """Whether everything read through this lease until now was read from blocks that were its
        own. No message. Also after release(), while views keep the lease."""
        return self._native.still_valid()

    def release(self) -> None:
        """Ends the lease, or when there are views of it, lets it end with the last of them."""
        self._native.release()


class Space:
    """Blocks that are interchangeable. It outlives restarts of the daemon.

    Thread: any.
    """

    def __init__(self, native: _native.Space, spec: SpaceSpec) -> None:
        self._native = native
        self.spec = spec

    @property
    def fingerprint(self) -> bytes:
        """32 bytes, as the daemon counts it: with the tenant, which it adds."""
        return self._native.fingerprint()

    def match(self, names: Names, timeout: Optional[float] = None) -> Lease:
        """Leases the longest prefix of `names` that some tier of this machine holds. Nothing found
        is a lease of depth 0, behind which one can commit."""
        return Lease(self._native.match(names, timeout))

    def import_lease(self, exported: bytes, timeout: Optional[float] = None) -> Lease:
        """Leases the path that another process exported and still holds: no prompt travels, and
        nothing is compared.

        Errors: InvalidArgumentError for what no lease of this space exported; NotFoundError when
                its holder has let go of it, or the daemon was restarted: match instead."""
        return Lease(self._native.import_lease(exported, timeout))

    def look_up(self, keys: Sequence[bytes], timeout: Optional[float] = None) -> List[str]:
        """In which tier each of these keys is, "none" for one that is not here; for a space with
        key_bytes whose keys stand for themselves, in no order (one is put as a path of its own:
        put([key], ...)). Nothing is leased: it may be different by now."""
        return self._native.look_up(keys, timeout)

    def read_into(self, keys: Sequence[bytes], buffers: Sequence[Buffer], part: int = 0,
                  timeout: Optional[float] = None) -> List[str]:
        """Copies one part of each key that is here into the writable buffer of the same number,
        which has its block_bytes, and returns where each was found; "none": it could not be had
        (in time), and its buffer may hold anything. Nothing has to be asked afterwards."""
        return self._native.read_into(keys, buffers, part, timeout)

    def reserve(self, count: int, part: int = 0, wait: float = 0.0,
                timeout: Optional[float] = None) -> List[Reservation]:
        """Slots to fill, at least one and at most `count` (none for 0), after waiting up to `wait`
        seconds for room. Raises ResourceExhaustedError: go on without the cache."""
        return self._native.reserve(count, part, wait, timeout)

    def put(self, names: Names, blocks: Union[Sequence[Buffer], Callable[[int, int, Block], object]],
            wait: float = 0.0, timeout: Optional[float] = None) -> int:
        """Makes a whole path cached: matches it, and reserves, fills and commits what is not there.

        Shape:  blocks [block][part], flat, all of the path's, those that are there included, each
                exactly the block_bytes of its part; or `fill(block, part, array)`, which is called
                for those alone that are missing.
        Returns the places that are cached afterwards: fewer than asked for when the arena has no
                room for all.
        Errors: as match, reserve and commit; InvalidArgumentError when blocks do not fit."""
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> Optional[float]:
            return None if deadline is None else max(deadline - time.monotonic(), 0.0)

        step, parts = self.spec.block_places, len(self.spec.parts)
        tokens_or_keys = names if isinstance(names, Sequence) else memoryview(names)
        per_block = step if self.spec.key_bytes else step * _PLACE_TOKENS
        count = len(tokens_or_keys) // per_block
        if not callable(blocks) and len(blocks) != count * parts:
            raise InvalidArgumentError(f"{len(blocks)} blocks were given for a path of {count}, with "
                                       f"{parts} parts each")
        with self.match(names, left()) as lease:
            first = lease.depth // step
            by_part: List[List[Reservation]] = []
            missing = count - first
            for part in range(parts):
                if missing > 0:
                    by_part.append(self.reserve(missing, part, wait, left()))
                    missing = len(by_part[-1])
            if missing <= 0:
                return lease.depth
            slots = [of_part[i] for i in range(missing) for of_part in by_part]
            for i, slot in enumerate(slots):
                if callable(blocks):
                    blocks(first + i // parts, slot.part, slot.array)
                else:
                    slot.write(blocks[first * parts + i])
            new = tokens_or_keys[first * per_block:(first + missing) * per_block]
            lease.commit(new, slots, left())
            return lease.depth

    def pin(self, names: Names, ttl: float, tier: str = "none",
            timeout: Optional[float] = None) -> PinInfo:
        """Keeps what is here of a path for `ttl` seconds, across restarts of the daemon; tier
        "warm" promotes it and keeps it warm. Raises NotFoundError when nothing of it is here."""
        return PinInfo(**self._native.pin(names, ttl, tier, timeout))

    def prefetch(self, names: Names, timeout: Optional[float] = None) -> PrefetchInfo:
        """Asks for the cold blocks of a path to be promoted, and returns at once."""
        return PrefetchInfo(*self._native.prefetch(names, timeout))


class Client:
    """A session with the daemon of this machine or, with `remote`, of another.

    When the daemon goes away every call raises UnavailableError at once, and what is leased stays
    readable while still_valid(). The next call tries a new session, with backoff; leases and slots
    of before are dead. In the child of a fork the client is dead (FailedPreconditionError): connect
    there anew, or use multiprocessing's "spawn".

    Thread: any.
    """

    def __init__(self, socket_path: Optional[str] = None, client_name: str = "python",
                 timeout: float = 5.0, auto_reconnect: bool = True,
                 remote: Optional[RemoteOptions] = None, verify_always: bool = False) -> None:
        """
        socket_path:    None: $THERMOCLINE_SOCKET, else the daemon's default
        client_name:    for the daemon's log
        timeout:        seconds, of calls that name none
        auto_reconnect: False: a lost daemon stays lost until reconnect()
        remote:         how to reach a daemon elsewhere; None: as the environment says
        verify_always:  sum every block of every lease before it is viewed

        Raises UnavailableError, naming the socket and how to start the daemon, when nobody listens;
        FailedPreconditionError for a daemon of another version; DaemonPermissionError for another
        user's, and for a token that a remote one does not know; InvalidArgumentError for an address
        or a file that is none.
        """
        self._native = _native.Client(socket_path or "", client_name, timeout, verify_always,
                                      auto_reconnect, remote)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def open_space(self, spec: SpaceSpec, timeout: Optional[float] = None) -> Space:
        """Raises InvalidArgumentError when the specification is wrong (the text names the field) or
        a block cannot fit the arena."""
        return Space(self._native.open_space(spec, timeout), spec)

    def spaces(self, timeout: Optional[float] = None) -> List[SpaceInfo]:
        return [SpaceInfo(fingerprint, spec_of(spec), places, warm_bytes, cold_bytes)
                for fingerprint, spec, places, warm_bytes, cold_bytes in self._native.spaces(timeout)]

    def pins(self, timeout: Optional[float] = None) -> List[PinInfo]:
        return [PinInfo(**pin) for pin in self._native.pins(timeout)]

    def unpin(self, pin: int, timeout: Optional[float] = None) -> None:
        """Raises NotFoundError."""
        self._native.unpin(pin, timeout)

    def stats(self, timeout: Optional[float] = None) -> DaemonStats:
        return stats_of(self._native.stats(timeout))

    def reconnect(self) -> None:
        """Opens a new session now, without backoff; nothing to do while the session is alive."""
        self._native.reconnect()

    @property
    def connected(self) -> bool:
        """Whether the session was alive a moment ago."""
        return self._native.connected()

    @property
    def socket_path(self) -> str:
        return self._native.socket_path()

    def close(self) -> None:
        """Lets go of the session, which ends once no space, lease or slot of it is left."""
        self._native.close()


def connect(socket_path: Optional[str] = None, client_name: str = "python", timeout: float = 5.0,
            auto_reconnect: bool = True, remote: Optional[RemoteOptions] = None,
            verify_always: bool = False) -> Client:
    """Client(...), for `with thermocline.connect() as client:`."""
    return Client(socket_path, client_name, timeout, auto_reconnect, remote, verify_always)


class AdminClient:
    """The verbs about all tenants and the destructive ones, for the daemon's own user on its machine.
    Each first gives back what this process has released, by whichever client; what others release
    reaches the daemon a little later.

    Thread: any.
    """

    def __init__(self, socket_path: Optional[str] = None, timeout: float = 5.0) -> None:
        """As Client; raises DaemonPermissionError unless this process runs as the daemon's user."""
        self._native = _native.AdminClient(socket_path or "", timeout)

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def delete(self, space: Union[Space, SpaceInfo], names: Optional[Names] = None,
               timeout: Optional[float] = None) -> int:
        """Deletes what lies at and behind a path, or the whole space, and returns how many places
        that were. Raises ValueError for names of no place, or with a remainder."""
        return self._native.delete(space.fingerprint, names, space.spec.key_bytes != 0, timeout)

    def flush(self, tier: str, timeout: Optional[float] = None) -> FlushResult:
        """"warm": everything to cold (dropped where there is no cold tier); "cold": dropped."""
        return FlushResult(*self._native.flush(tier, timeout))

    def tenants(self, timeout: Optional[float] = None) -> List[TenantInfo]:
        """Every tenant, and what it has and uses."""
        return [TenantInfo(name, stats_of(stats)) for name, stats in self._native.tenants(timeout)]

    def drop_arena(self, timeout: Optional[float] = None) -> int:
        """Drops every block of the arena, and returns how many those were."""
        return self._native.drop_arena(timeout)

    def close(self) -> None:
        """Ends the session."""
        self._native.close()
