# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a worker counts of itself and sends along: it sits behind NAT, where no monitor reaches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orthanc_plugin import fields

Counters = Mapping[str, float]
"""By the names of `KNOWN`."""

_MOST = 1e18


@dataclass(frozen=True)
class Known:
    """How one of them is told to monitors."""

    metric: str
    kind: str
    help: str


KNOWN: Mapping[str, Known] = {
    "encode_s": Known("encode_seconds_total", "counter", "Seconds that a worker's encoder computed."),
    "tiles": Known("tiles_total", "counter", "Patches that a worker encoded."),
    "read_bytes": Known("read_bytes_total", "counter", "Bytes of slides that a worker read from Orthanc."),
    "memory_bytes": Known("memory_bytes", "gauge", "Memory that a worker's process holds."),
    "gpu_memory_bytes": Known("gpu_memory_bytes", "gauge", "Memory of its GPU that a worker holds."),
    "gpu_memory_total_bytes": Known("gpu_memory_total_bytes", "gauge", "All memory of a worker's GPU."),
}


def counters_of(body: Mapping[str, Any]) -> Counters:
    """Return the counters in a claim or a heartbeat; those that no name here stands for are a newer worker's.

    Raises
    ------
    ApiError
        400 naming a member that is no number.
    """
    given = fields.members(body, "counters")
    return {name: fields.number(given, name, low=0, high=_MOST, default=0) for name in given if name in KNOWN}
