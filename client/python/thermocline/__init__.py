"""The client of Thermocline: match a prompt's prefix, read its KV blocks in place, commit new ones.

    with thermocline.connect() as client:
        space = client.open_space(spec)                     # what makes KV interchangeable
        with space.match(prompt) as lease:                  # the longest prefix that is here
            cached = lease.load()                           # places readable now, verified
            for place in range(cached):
                attend(lease.view(place).numpy("f16", shape))   # where it lies: no copy
            slots = space.reserve(len(prompt) // 16 - cached)   # memory of the arena to fill
            for slot in slots:
                fill(slot.array.numpy("f16", shape))
            lease.commit(new_tokens, slots)
            if not lease.still_valid(): ...                 # compute again without the cache

thermocline.aio has the same for asyncio. Units: a place is 16 tokens or one opaque key; sizes are in
bytes, times in seconds unless a name says otherwise.
"""
from . import aio
from ._client import AdminClient, Client, Lease, Space, connect
from ._errors import (AbortedError, DaemonPermissionError, DataLossError, DeadlineExceededError,
                      FailedPreconditionError, InternalError, InvalidArgumentError, NotFoundError,
                      ResourceExhaustedError, ThermoclineError, UnavailableError)
from ._native import Block, Reservation
from ._types import (BlockInfo, DaemonStats, FlushResult, Names, Part, PinInfo, PrefetchInfo,
                     RemoteOptions, SpaceInfo, SpaceSpec, TenantInfo, TierUse)

__version__ = "0.1.0"

__all__ = [
    "AbortedError", "AdminClient", "Block", "BlockInfo", "Client", "DaemonPermissionError",
    "DaemonStats", "DataLossError", "DeadlineExceededError", "FailedPreconditionError",
    "FlushResult", "InternalError", "InvalidArgumentError", "Lease", "Names", "NotFoundError",
    "Part", "PinInfo", "PrefetchInfo", "RemoteOptions", "Reservation", "ResourceExhaustedError",
    "Space", "SpaceInfo", "SpaceSpec", "TenantInfo", "ThermoclineError", "TierUse",
    "UnavailableError", "aio", "connect",
]
