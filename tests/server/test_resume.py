# SPDX-License-Identifier: Apache-2.0
"""A worker that is killed late in a slide is gone on from by another one on the same machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.made_slides import write_tissue
from clam_core.features.segment import chunks_in
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.wait import wait_until
from tests.support.worker_process import WorkerProcess, wait_until_ended

pytestmark = [pytest.mark.server, pytest.mark.slow]

SOON_GIVEN_OUT_AGAIN = {"LeaseSeconds": 5, "HeartbeatSeconds": 1, "ConfirmSeconds": 3, "RetrySeconds": 0.2}
BATCHES, BATCH = 7, 64
"""So many of the slide's nine batches are encoded when the worker is killed."""
VALUES = 1280
"""Of a patch, by the encoder of the demonstration model."""


@pytest.fixture
def orthanc() -> Iterator[OrthancServer]:
    with OrthancServer(overrides={"Pathology": SOON_GIVEN_OUT_AGAIN}) as server:
        yield server


@pytest.fixture
def series(orthanc: OrthancServer, tmp_path: Path) -> str:
    slide = write_tissue(tmp_path / "tissue.dcm", tiles=12, tile_px=512, quality=60)
    return str(store_file(orthanc, slide)["ParentSeries"])


def worker_for(server: OrthancServer, folder: Path, name: str, cache: Path, *options: str) -> WorkerProcess:
    return WorkerProcess.at(
        server,
        folder / name,
        worker_id=name,
        environment={"FEATURE_CACHE_DIR": str(cache), "DICOM_RESULTS": "none"},
        options=options,
    )


def submit(server: OrthancServer, series: str) -> str:
    answer = server.post("/pathology/analyze", json={"series": series, "force": True})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["request_id"])


def completed(server: OrthancServer, request_id: str) -> dict[str, Any]:
    request = wait_until_ended(server.url, server.person, request_id, seconds=120)
    assert request["status"] == "completed", request
    return request


def kept(cache: Path) -> dict[str, int]:
    """Return how many patches each file of a feature cache holds: every worker writes one of its own."""
    return {path.name: rows_in(path) for path in cache.glob("*/*.features")}


def rows_in(path: Path) -> int:
    with path.open("rb") as file:
        return sum(len(chunk.coordinates) for chunk in chunks_in(file, path.parent.name, VALUES))


def wait_for_batches(cache: Path, seconds: float = 90) -> None:
    wait_until(
        lambda: sum(kept(cache).values()) >= BATCHES * BATCH,
        seconds,
        told=lambda: f"only {kept(cache)} patches were encoded",
    )


def claimed_by(server: OrthancServer, request_ids: list[str], worker: str) -> str:
    requests = [server.get(f"/pathology/requests/{one}").json()["request"] for one in request_ids]
    (found,) = [request["request_id"] for request in requests if request["worker_id"] == worker]
    return str(found)


def test_a_worker_killed_late_is_gone_on_from_to_the_same_result(
    orthanc: OrthancServer, series: str, tmp_path: Path
) -> None:
    both = [submit(orthanc, series), submit(orthanc, series)]
    cache = tmp_path / "features"
    with worker_for(orthanc, tmp_path, "undisturbed", tmp_path / "its-own", "--once"):
        killed = worker_for(orthanc, tmp_path, "killed", cache)
        killed.start()
        wait_for_batches(cache)
        killed.stop(signal.SIGKILL)
        left = kept(cache)
        cut_off = claimed_by(orthanc, both, "killed")
        with worker_for(orthanc, tmp_path, "successor", cache) as successor:
            resumed = completed(orthanc, cut_off)
        (other,) = {*both} - {cut_off}
        whole = completed(orthanc, other)
    assert (whole["worker_id"], resumed["worker_id"]) == ("undisturbed", "successor")

    count, known = whole["result"]["patches"]["count"], sum(left.values())
    assert 0.8 * count <= known < count, "killed late, and before the end"
    assert f"taking over patches of an earlier run ({BATCH} of {count} patches so far)" in successor.log()
    after = kept(cache)
    assert left.items() <= after.items()
    assert sum(after.values()) == count, "no patch was encoded twice"

    for part in ("predicted_class", "probabilities", "top_patches", "patches", "quality"):
        assert resumed["result"][part] == whole["result"][part]
    assert hashes(resumed) == hashes(whole)


def hashes(request: dict[str, Any]) -> dict[str, str]:
    return {artifact["name"]: artifact["sha256"] for artifact in request["artifacts"]}
