"""What travels between a program and the daemon, besides bytes."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Mapping, Sequence, Tuple, Union

if TYPE_CHECKING:
    #: Whatever memoryview() takes: bytes, bytearray, array.array, numpy arrays, Block.
    from typing_extensions import Buffer as Buffer
else:
    Buffer = Any


#: The names of consecutive places: token ids, 16 a place (a remainder of fewer is ignored), as a
#: sequence or, without a copy, an array of 32-bit integers; or opaque keys of bytes, one a place.
Names = Union[Sequence[int], Sequence[bytes], Buffer]


@dataclass(frozen=True)
class Part:
    """One (layer group, tensor-parallel rank) of every block."""

    block_bytes: int  #: of one block, a multiple of 16, at most 64 MiB
    name: str = "all"  #: the layer group, for people: "layers 0-29"
    rank: int = 0  #: tensor-parallel rank
    window_tokens: int = 0  #: sliding window; 0: full attention


@dataclass(frozen=True)
class SpaceSpec:
    """Everything that must be equal for KV bytes to be interchangeable. Any difference makes
    another space, and another space is a miss."""

    model: str  #: id, revision and quantisation
    kv_dtype: str  #: "f32", "f16", "bf16", "int8"...
    layers: int
    kv_heads: int
    head_dim: int
    parts: Sequence[Part]  #: 1 to 8
    layout: str  #: of the bytes in a block, with its version: "lkht.v1"
    block_tokens: int = 16  #: a multiple of 16
    weights_sha256: bytes = b""  #: of the weights' content, 32 bytes; b"": unknown
    rope: str = ""  #: canonical text of the RoPE parameters
    lora: str = ""  #: adapter id and content hash; "": none
    salt: str = field(default="", repr=False)  #: a secret that sets spaces apart
    key_bytes: int = 0  #: 0: names are token ids; 1 to 64: opaque keys of that length

    @property
    def block_places(self) -> int:
        """Places of one block."""
        return max(self.block_tokens // 16, 1)


@dataclass(frozen=True)
class RemoteOptions:
    """How to reach a daemon whose arena this process cannot map: every block travels then, a view
    is a private copy, and a slot is sent by its commit. What is empty is taken from the
    environment: THERMOCLINE_ADDRESS, _CA, _CERTIFICATE, _KEY, _CLIENT_TOKEN_FILE."""

    address: str = ""  #: "tls://HOST:PORT"; none, here or there: the daemon of this machine
    ca_file: str = ""  #: PEM, as all of them: who signed the daemon's certificate
    certificate_file: str = ""  #: of this client
    key_file: str = ""
    token_file: str = ""  #: the client's token, alone in its file


@dataclass(frozen=True)
class BlockInfo:
    """One block of a leased path."""

    depth: int  #: its last place, from the root, 0-based
    part: int
    id: int  #: the daemon's, never reused
    matched_tier: str  #: where the match (or the commit) found it: "warm", "cold"...
    tier: str  #: where it is now
    bytes: int


@dataclass(frozen=True)
class PinInfo:
    """A path that is kept until a time."""

    pin: int  #: for Client.unpin
    space: bytes  #: fingerprint
    depth: int  #: places that are kept
    expires_unix_ms: int
    tier: str  #: "none": kept in any tier of this machine


@dataclass(frozen=True)
class PrefetchInfo:
    """What a prefetch set going."""

    matched_depth: int  #: places that are here
    promoting_blocks: int  #: on their way into the arena


@dataclass(frozen=True)
class FlushResult:
    """What a flush did."""

    blocks: int  #: moved or dropped
    kept: int  #: leased or pinned


@dataclass(frozen=True)
class SpaceInfo:
    """A space that the daemon holds."""

    fingerprint: bytes
    spec: SpaceSpec  #: without its salt
    places: int
    warm_bytes: int
    cold_bytes: int


@dataclass(frozen=True)
class TierUse:
    """One tier, since the daemon started."""

    tier: str
    state: str  #: "ok", or what is wrong
    capacity_bytes: int
    used_bytes: int
    blocks: int
    hits: int  #: blocks
    evictions: int
    promotions: int  #: into this tier
    demotions: int  #: out of this tier, downwards
    share_bytes: int  #: where tenants share it: of the capacity what no other gets for long
    lent_bytes: int  #: and what it may use now
    ttl_pinned_bytes: int  #: what TTL pins hold there, or may


@dataclass(frozen=True)
class DaemonStats:
    """The daemon's state and counters."""

    version: str
    epoch: int
    uptime_ms: int
    sessions: int
    leases: int
    reservations: int
    spaces: int
    places: int
    pins: int
    lookups: int
    misses: int  #: blocks asked for and not usable
    misses_by_reason: Mapping[str, int]
    corrupt_blocks: int
    tiers: Tuple[TierUse, ...]


@dataclass(frozen=True)
class TenantInfo:
    """A tenant of the daemon."""

    name: str
    stats: DaemonStats  #: its own


def spec_of(fields: Dict[str, Any]) -> SpaceSpec:
    return SpaceSpec(**dict(fields, parts=tuple(Part(**part) for part in fields["parts"])))


def stats_of(fields: Dict[str, Any]) -> DaemonStats:
    return DaemonStats(**dict(fields, tiers=tuple(TierUse(**tier) for tier in fields["tiers"])))
