"""What goes wrong, as exceptions: one class for each kind that a caller may want to tell apart.

A miss is no error. Everything here means that the cache could not be used; an engine that catches
ThermoclineError and computes without it is right.
"""
from __future__ import annotations

from typing import Dict, Type


class ThermoclineError(Exception):
    """Any failure of the client. The text says what was wrong, where, and what to do about it."""

    code: str = "UNKNOWN"  #: gRPC's name of the kind


class InvalidArgumentError(ThermoclineError, ValueError):
    """An argument, a specification, or names and slots that do not fit; the text names it."""

    code = "INVALID_ARGUMENT"


class NotFoundError(ThermoclineError, LookupError):
    """No such pin, or nothing of a path to pin."""

    code = "NOT_FOUND"


class DeadlineExceededError(ThermoclineError, TimeoutError):
    """No answer in time."""

    code = "DEADLINE_EXCEEDED"


class DaemonPermissionError(ThermoclineError, PermissionError):
    """The daemon is another user's, or does not let this process do that."""

    code = "PERMISSION_DENIED"


class ResourceExhaustedError(ThermoclineError):
    """No room in the arena, or too much at once: go on without the cache."""

    code = "RESOURCE_EXHAUSTED"


class FailedPreconditionError(ThermoclineError):
    """A lease or slot that is over: released, of a lost session, or of the parent process of a
    fork. Match again; after a fork, connect again."""

    code = "FAILED_PRECONDITION"


class AbortedError(ThermoclineError):
    """The path is not all there any more: match again."""

    code = "ABORTED"


class UnavailableError(ThermoclineError, ConnectionError):
    """No daemon; the text names the socket and how to start one."""

    code = "UNAVAILABLE"


class DataLossError(ThermoclineError):
    """Bytes that are not what they were; nothing was published."""

    code = "DATA_LOSS"


class InternalError(ThermoclineError):
    """An answer that cannot be right: a defect of the daemon or of this client."""

    code = "INTERNAL"


# By the numbers of gRPC's codes.
_CLASSES: Dict[int, Type[ThermoclineError]] = {
    3: InvalidArgumentError,
    4: DeadlineExceededError,
    5: NotFoundError,
    7: DaemonPermissionError,
    8: ResourceExhaustedError,
    9: FailedPreconditionError,
    10: AbortedError,
    13: InternalError,
    14: UnavailableError,
    15: DataLossError,
    16: DaemonPermissionError,
}


def error_of(code: int, message: str) -> ThermoclineError:
    """The exception for a status of the C++ client."""
    return _CLASSES.get(code, ThermoclineError)(message)
