# SPDX-License-Identifier: Apache-2.0
"""The end of a request, a result with its artifacts or an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.api.contract import ArtifactRef, Claim, Lease

from .failures import Failure

DICOM_NOT_KEPT = "dicom_results_not_kept"
"""Flag of a result that had to wait on disk: its DICOM objects name the patient and did not wait with it."""

_HEADER_VALUES = frozenset({"container_id", "name"})
"""Members of a result's ``slide`` that laboratories make of accession numbers and names."""


@dataclass(frozen=True)
class Delivery:
    """What ``complete-request`` is told, whole and ready to be sent again.

    Attributes
    ----------
    request_id
        The request.
    lease
        The lease that the work was done under.
    body
        Body of ``complete-request``.
    artifacts
        Bytes of each artifact by name.
    """

    request_id: str
    lease: Lease
    body: Mapping[str, Any] = field(repr=False)
    artifacts: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Name of its own, as long as it waits."""
        return f"{self.request_id}-{self.lease.fence}"

    @property
    def size(self) -> int:
        """Bytes of the artifacts."""
        return sum(len(data) for data in self.artifacts.values())


def result_delivery(
    claim: Claim, worker_id: str, result: Mapping[str, Any], artifacts: Mapping[str, bytes]
) -> Delivery:
    """Make the delivery of a result."""
    body = {
        **_lease_fields(claim, worker_id),
        "fingerprint": claim.fingerprint,
        "artifacts": [ArtifactRef.of(name, data).as_json() for name, data in artifacts.items()],
        "result": dict(result),
    }
    return Delivery(claim.request_id, claim.lease, body, dict(artifacts))


def failure_delivery(claim: Claim, worker_id: str, failure: Failure) -> Delivery:
    """Make the delivery of an error."""
    body = {
        **_lease_fields(claim, worker_id),
        "fingerprint": claim.fingerprint,
        "error": failure.as_json(),
    }
    return Delivery(claim.request_id, claim.lease, body)


def without_patient_data(delivery: Delivery) -> Delivery:
    """Return the delivery without its DICOM objects, whose headers name the patient."""
    if not any(names_patient(item["name"]) for item in delivery.body.get("artifacts", [])):
        return delivery
    result = dict(delivery.body["result"])
    result["artifacts"] = [name for name in result["artifacts"] if not names_patient(name)]
    result["dicom"] = []
    quality = dict(result.get("quality") or {"status": "ok"})
    quality["flags"] = [*quality.get("flags", []), DICOM_NOT_KEPT]
    refs = [item for item in delivery.body["artifacts"] if not names_patient(item["name"])]
    return dataclasses.replace(
        delivery,
        body={**delivery.body, "artifacts": refs, "result": {**result, "quality": quality}},
        artifacts={name: data for name, data in delivery.artifacts.items() if not names_patient(name)},
    )


def without_header_values(delivery: Delivery) -> Delivery:
    """Return the delivery without what its result took from the slide's header, UIDs apart, or a file's name.

    Orthanc has the same values in the slide's own header, which its pages read.
    """
    result = delivery.body.get("result")
    if result is None or not isinstance(result.get("slide"), Mapping):
        return delivery
    slide = {name: value for name, value in result["slide"].items() if name not in _HEADER_VALUES}
    return dataclasses.replace(delivery, body={**delivery.body, "result": {**result, "slide": slide}})


def names_patient(artifact: str) -> bool:
    """Return whether an artifact names the patient, so that it must not lie on this machine's disk."""
    return artifact.endswith(".dcm")


def _lease_fields(claim: Claim, worker_id: str) -> dict[str, Any]:
    return {"worker_id": worker_id, "token": claim.lease.token, "fence": claim.lease.fence}
