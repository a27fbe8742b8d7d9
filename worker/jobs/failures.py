# SPDX-License-Identifier: Apache-2.0
"""From an exception to the error that a request ends with: a code, a sentence, and whether to try again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from clam_core.errors import ClamCoreError
from worker.errors import ModelError, RefusedError, ServerError, SettingsError
from worker.sources.errors import WayMissingError

_MAX_MESSAGE = 500

_RETRYABLE_CODES = frozenset({"out_of_memory", "source_unreachable", "changed_in_mid_read"})
"""Codes of clam_core and of the slide sources that another time or another machine may mend."""


@dataclass(frozen=True)
class Failure:
    """Why a request has no result.

    Attributes
    ----------
    code
        Stable identifier.
    message
        The sentence for the user.
    retryable
        Whether another attempt may succeed.
    """

    code: str
    message: str
    retryable: bool

    def as_json(self) -> dict[str, Any]:
        """Return the shape of ``complete-request``'s ``error``."""
        return {"code": self.code, "message": self.message[:_MAX_MESSAGE], "retryable": self.retryable}


def failure_of(error: BaseException) -> Failure:
    """Decide what a request is told about an exception.

    The text of exceptions that are not ours is not passed on: it may quote a file's name or a tag.
    """
    for kind, decide in _DECISIONS:
        if isinstance(error, kind):
            return decide(error)
    return _internal()


def _internal() -> Failure:
    return Failure(
        "internal",
        "The worker met a fault of its own: its log names the place, please report it.",
        retryable=True,
    )


def _of_core(error: Any) -> Failure:
    return Failure(error.code, str(error), retryable=error.code in _RETRYABLE_CODES)


def _of_missing_way(error: Any) -> Failure:
    """Tell of a server that offered a way when the slide was opened, and does not any more."""
    return Failure("source_unreachable", str(error), retryable=True)


def _of_model(error: Any) -> Failure:
    return Failure(error.code, str(error), retryable=False)


def _of_settings(error: Any) -> Failure:
    return Failure("worker_settings", str(error), retryable=False)


def _of_refusal(error: Any) -> Failure:
    return Failure(error.code, str(error), retryable=True)


def _of_server(error: Any) -> Failure:
    return Failure("network", str(error), retryable=True)


def _of_runtime(error: Any) -> Failure:
    """Tell a device that is full, which PyTorch says by this kind of error only, from all else."""
    # Commands that compute nothing use this module too, and PyTorch takes seconds to load.
    from clam_core.encoding import is_out_of_memory  # noqa: PLC0415 - see above

    return _of_memory(error) if is_out_of_memory(error) else _internal()


def _of_recursion(_: Any) -> Failure:
    """Tell of data nested deeper than Python goes, which no other attempt makes flatter."""
    return replace(_internal(), retryable=False)


def _of_memory(_: Any) -> Failure:
    return Failure("out_of_memory", "The worker has too little memory for this slide.", retryable=True)


def _of_system(error: Any) -> Failure:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Failure(
            "disk_full",
            "The worker's disk is full: free space there, then retry the request.",
            retryable=True,
        )
    reason = error.strerror or type(error).__name__
    return Failure("worker_io", f"The worker could not read or write a file ({reason}).", retryable=True)


_DECISIONS: tuple[tuple[type[BaseException], Callable[[Any], Failure]], ...] = (
    (ClamCoreError, _of_core),
    (WayMissingError, _of_missing_way),
    (ModelError, _of_model),
    (SettingsError, _of_settings),
    (RefusedError, _of_refusal),
    (ServerError, _of_server),
    (MemoryError, _of_memory),
    (RecursionError, _of_recursion),
    (RuntimeError, _of_runtime),
    (OSError, _of_system),
)
