# SPDX-License-Identifier: Apache-2.0
"""The values that cross the HTTP contract of ``docs/rest.md``, read strictly into frozen dataclasses."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.errors import ServerError

OPEN_STATES = frozenset({"pending", "processing", "publishing"})
"""States of a request that still change by themselves."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Ids become parts of paths, here and in addresses: one that could lead elsewhere is refused."""


def new_token() -> str:
    """Make a lease token: 128 random bits as 32 lower-case hexadecimal digits."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class Lease:
    """The right to work on one request.

    Attributes
    ----------
    token
        Made by this worker; proves the lease, so never printed.
    fence
        Number of this grant; a later grant has a higher one.
    duration_s
        Seconds that the lease lasts after each heartbeat.
    heartbeat_s
        Seconds between heartbeats that the server wants.
    confirm_s
        Seconds within which the first heartbeat must arrive.
    prefetch
        Whether the slide is leased ahead of its turn, so that an idle worker may still take it.
    """

    token: str = field(repr=False)
    fence: int
    duration_s: float
    heartbeat_s: float
    confirm_s: float
    prefetch: bool = False


@dataclass(frozen=True)
class InstanceRef:
    """One stored DICOM instance of the slide's series.

    Attributes
    ----------
    id
        Orthanc's id of the instance.
    sop_instance_uid
        The instance's UID.
    uuid
        Name of the stored file; changes whenever the file is overwritten.
    size
        Bytes of the stored file.
    image_type
        Values of ImageType (0008,0008).
    """

    id: str
    sop_instance_uid: str
    uuid: str
    size: int
    image_type: tuple[str, ...]

    @property
    def is_volume(self) -> bool:
        """Whether this is a pyramid level; labels and overviews (which carry names) are never read."""
        return "VOLUME" in self.image_type


@dataclass(frozen=True)
class Claim:
    """A claimed request.

    Attributes
    ----------
    request
        The request as the server described it.
    lease
        The right to work on it.
    instances
        Every instance of the series.
    """

    request: Mapping[str, Any]
    lease: Lease
    instances: tuple[InstanceRef, ...]

    @property
    def request_id(self) -> str:
        """Identifier of the request."""
        return str(self.request["request_id"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the series' content as of the claim."""
        return str(self.request["fingerprint"])

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the request asks of the analysis."""
        return self.request.get("parameters") or {}


@dataclass(frozen=True)
class ClaimAnswer:
    """What a claim came to.

    Attributes
    ----------
    claim
        The claimed request, or None where there is nothing to do.
    pause_s
        Seconds that the server wants to pass before the next claim, or None.
    drained
        Whether there is nothing to do because a person lets this worker take nothing more.
    shares_name
        Whether another worker goes by this one's name.
    """

    claim: Claim | None
    pause_s: float | None
    drained: bool = False
    shares_name: bool = False


@dataclass(frozen=True)
class ModelOffer:
    """A model that this worker can run."""

    name: str
    version: str
    sha256: str

    def as_json(self) -> dict[str, str]:
        """Return the offer in the shape of a claim's ``models``."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}


@dataclass(frozen=True)
class HeartbeatAnswer:
    """What the server answers to a heartbeat."""

    cancel: bool
    drain: bool
    heartbeat_s: float | None


@dataclass(frozen=True)
class ArtifactRef:
    """An artifact as ``complete-request`` names it."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, data: bytes) -> ArtifactRef:
        """Describe the bytes of an artifact."""
        return cls(name, len(data), hashlib.sha256(data).hexdigest())

    def as_json(self) -> dict[str, Any]:
        """Return the shape of ``complete-request``'s ``artifacts``."""
        return {"name": self.name, "size": self.size, "sha256": self.sha256}


def parse_claim(body: Mapping[str, Any], token: str) -> Claim:
    """Read the 200 answer of a claim.

    Parameters
    ----------
    body
        The decoded JSON.
    token
        The token that the claim was made with.

    Raises
    ------
    ServerError
        If the answer is not what the contract says.
    """
    try:
        lease = body["lease"]
        return Claim(
            request=_request(body["request"]),
            lease=Lease(
                token=token,
                fence=int(lease["fence"]),
                duration_s=float(lease["duration_s"]),
                heartbeat_s=float(lease["heartbeat_s"]),
                confirm_s=float(lease["confirm_s"]),
                prefetch=lease.get("prefetch") is True,
            ),
            instances=tuple(_instance(item) for item in body["instances"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(
            f"The answer to a claim lacks or garbles {error}: plugin and worker differ in version, "
            "upgrade the older one."
        ) from error


def parse_heartbeat(body: Mapping[str, Any]) -> HeartbeatAnswer:
    """Read the 200 answer of a heartbeat; absent fields mean "go on"."""
    lease = body.get("lease") or {}
    seconds = lease.get("heartbeat_s")
    return HeartbeatAnswer(
        cancel=bool(body.get("cancel")),
        drain=bool(body.get("drain")),
        heartbeat_s=float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None,
    )


def _request(item: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(item["fingerprint"], str):
        raise TypeError("fingerprint")
    return {**item, "request_id": _id(item["request_id"])}


def _instance(item: Mapping[str, Any]) -> InstanceRef:
    return InstanceRef(
        id=_id(item["id"]),
        sop_instance_uid=str(item["sop_instance_uid"]),
        uuid=str(item["uuid"]),
        size=int(item["size"]),
        image_type=tuple(str(value) for value in item["image_type"]),
    )


def _id(value: object) -> str:
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise ValueError("an id")
    return value
