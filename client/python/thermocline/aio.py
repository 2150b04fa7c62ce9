"""The client for asyncio: the calls of thermocline.Client that wait are coroutines here, which wait
in a thread of the client's pool, without the GIL.

A call whose task is cancelled goes on in its thread to its end or time-out, and what it would have
returned is released there: nothing is leased or reserved for nobody.
"""
from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Callable, List, Optional, Sequence, Tuple, Type, TypeVar, Union

from . import _client
from ._native import Block, Reservation
from ._types import (BlockInfo, Buffer, DaemonStats, FlushResult, Names, PinInfo, PrefetchInfo,
                     RemoteOptions, SpaceInfo, SpaceSpec, TenantInfo)

_T = TypeVar("_T")

MAX_THREADS = 32  #: calls of one client that wait at a time; more wait for these


class _Pool:
    """The threads of a client, which its spaces and leases use too."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="thermocline")

    async def run(self, call: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(call, *arguments))

    def close(self) -> None:
        self._threads.shutdown(wait=False)


class Lease:
    """thermocline.Lease for asyncio. view(), export(), still_valid() and release() do not wait for
    the daemon, so they are plain calls."""

    def __init__(self, blocking: _client.Lease, pool: _Pool) -> None:
        self._blocking, self._pool = blocking, pool

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        self.release()

    @property
    def depth(self) -> int:
        return self._blocking.depth

    @property
    def blocks(self) -> Tuple[BlockInfo, ...]:
        return self._blocking.blocks

    def view(self, depth: int, part: int = 0) -> Optional[Block]:
        """As thermocline.Lease.view; after load() nothing is left to be verified here."""
        return self._blocking.view(depth, part)

    async def load(self, timeout: Optional[float] = None) -> int:
        return await self._pool.run(self._blocking.load, None, timeout)

    async def truncate(self, depth: int, timeout: Optional[float] = None) -> None:
        await self._pool.run(self._blocking.truncate, depth, timeout)

    async def commit(self, names: Names, slots: Sequence[Reservation],
                     timeout: Optional[float] = None, wait: bool = True) -> None:
        """As thermocline.Lease.commit."""
        await self._pool.run(self._blocking.commit, names, slots, timeout, wait)

    async def settle(self, timeout: Optional[float] = None) -> None:
        await self._pool.run(self._blocking.settle, timeout)

    @property
    def settled(self) -> bool:
        return self._blocking.settled

    def export(self) -> bytes:
        """As thermocline.Lease.export."""
        return self._blocking.export()

    def still_valid(self) -> bool:
        return self._blocking.still_valid()

    def release(self) -> None:
        self._blocking.release()


class Space:
    """thermocline.Space for asyncio."""

    def __init__(self, blocking: _client.Space, pool: _Pool) -> None:
        self._blocking, self._pool = blocking, pool

    @property
    def spec(self) -> SpaceSpec:
        return self._blocking.spec

    @property
    def fingerprint(self) -> bytes:
        return self._blocking.fingerprint

    async def match(self, names: Names, timeout: Optional[float] = None) -> Lease:
        return Lease(await self._pool.run(self._blocking.match, names, timeout), self._pool)

    async def import_lease(self, exported: bytes, timeout: Optional[float] = None) -> Lease:
        """As thermocline.Space.import_lease."""
        return Lease(await self._pool.run(self._blocking.import_lease, exported, timeout), self._pool)

    async def look_up(self, keys: Sequence[bytes], timeout: Optional[float] = None) -> List[str]:
        return await self._pool.run(self._blocking.look_up, keys, timeout)

    async def read_into(self, keys: Sequence[bytes], buffers: Sequence[Buffer], part: int = 0,
                        timeout: Optional[float] = None) -> List[str]:
        """As thermocline.Space.read_into; the buffers are written to in a thread of the pool."""
        return await self._pool.run(self._blocking.read_into, keys, buffers, part, timeout)

    async def reserve(self, count: int, part: int = 0, wait: float = 0.0,
                      timeout: Optional[float] = None) -> List[Reservation]:
        return await self._pool.run(self._blocking.reserve, count, part, wait, timeout)

    async def put(self, names: Names,
                  blocks: Union[Sequence[Buffer], Callable[[int, int, Block], object]],
                  wait: float = 0.0, timeout: Optional[float] = None) -> int:
        """As thermocline.Space.put; a callable runs in a thread of the pool."""
        return await self._pool.run(self._blocking.put, names, blocks, wait, timeout)

    async def pin(self, names: Names, ttl: float, tier: str = "none",
                  timeout: Optional[float] = None) -> PinInfo:
        return await self._pool.run(self._blocking.pin, names, ttl, tier, timeout)

    async def prefetch(self, names: Names, timeout: Optional[float] = None) -> PrefetchInfo:
        return await self._pool.run(self._blocking.prefetch, names, timeout)


class Client:
    """thermocline.Client for asyncio; made by connect()."""

    def __init__(self, blocking: _client.Client, pool: _Pool) -> None:
        self._blocking, self._pool = blocking, pool

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()

    async def open_space(self, spec: SpaceSpec, timeout: Optional[float] = None) -> Space:
        return Space(await self._pool.run(self._blocking.open_space, spec, timeout), self._pool)

    async def spaces(self, timeout: Optional[float] = None) -> List[SpaceInfo]:
        return await self._pool.run(self._blocking.spaces, timeout)

    async def pins(self, timeout: Optional[float] = None) -> List[PinInfo]:
        return await self._pool.run(self._blocking.pins, timeout)

    async def unpin(self, pin: int, timeout: Optional[float] = None) -> None:
        await self._pool.run(self._blocking.unpin, pin, timeout)

    async def stats(self, timeout: Optional[float] = None) -> DaemonStats:
        return await self._pool.run(self._blocking.stats, timeout)

    async def reconnect(self) -> None:
        await self._pool.run(self._blocking.reconnect)

    @property
    def connected(self) -> bool:
        return self._blocking.connected

    @property
    def socket_path(self) -> str:
        return self._blocking.socket_path

    async def close(self) -> None:
        """Lets go of the session; no call of this client or of its spaces and leases can follow."""
        await self._pool.run(self._blocking.close)
        self._pool.close()


class AdminClient:
    """thermocline.AdminClient for asyncio; made by connect_admin()."""

    def __init__(self, blocking: _client.AdminClient, pool: _Pool) -> None:
        self._blocking, self._pool = blocking, pool

    async def __aenter__(self) -> AdminClient:
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()

    async def delete(self, space: Union[Space, SpaceInfo], names: Optional[Names] = None,
                     timeout: Optional[float] = None) -> int:
        named = space._blocking if isinstance(space, Space) else space
        return await self._pool.run(self._blocking.delete, named, names, timeout)

    async def flush(self, tier: str, timeout: Optional[float] = None) -> FlushResult:
        return await self._pool.run(self._blocking.flush, tier, timeout)

    async def tenants(self, timeout: Optional[float] = None) -> List[TenantInfo]:
        return await self._pool.run(self._blocking.tenants, timeout)

    async def drop_arena(self, timeout: Optional[float] = None) -> int:
        return await self._pool.run(self._blocking.drop_arena, timeout)

    async def close(self) -> None:
        await self._pool.run(self._blocking.close)
        self._pool.close()


async def _connected(make: Callable[..., _T], *arguments: Any) -> Tuple[_T, _Pool]:
    pool = _Pool()
    try:
        return await pool.run(make, *arguments), pool
    except BaseException:
        pool.close()
        raise


async def connect(socket_path: Optional[str] = None, client_name: str = "python",
                  timeout: float = 5.0, auto_reconnect: bool = True,
                  remote: Optional[RemoteOptions] = None, verify_always: bool = False) -> Client:
    """As thermocline.Client(...)."""
    return Client(*await _connected(_client.Client, socket_path, client_name, timeout,
                                    auto_reconnect, remote, verify_always))


async def connect_admin(socket_path: Optional[str] = None, timeout: float = 5.0) -> AdminClient:
    """As thermocline.AdminClient(...)."""
    return AdminClient(*await _connected(_client.AdminClient, socket_path, timeout))
