# SPDX-License-Identifier: Apache-2.0
"""From a click to a result: a real Orthanc, a real slide, and the worker as its own process."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.dicom_files import another_slide, slide_folder
from tests.support.orthanc_server import OrthancServer, store_file, store_slide
from tests.support.worker_process import WorkerProcess, wait_until_ended

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def orthanc() -> Iterator[OrthancServer]:
    with OrthancServer() as server:
        yield server


def worker_for(server: OrthancServer, folder: Path, name: str = "lab-1", **environment: str) -> WorkerProcess:
    return WorkerProcess.at(server, folder / name, worker_id=name, environment=environment)


def submit(server: OrthancServer, series: str) -> str:
    answer = server.post("/pathology/analyze", json={"series": series})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["request_id"])


def artifact(server: OrthancServer, request_id: str, name: str) -> bytes:
    answer = server.get(f"/pathology/requests/{request_id}/artifacts/{name}")
    answer.raise_for_status()
    return answer.content


def read_request(server: OrthancServer, request_id: str) -> dict[str, Any]:
    """Return a request; a server that has just started may say 503 `starting` for a moment."""
    deadline = time.monotonic() + 10
    while True:
        answer = server.get(f"/pathology/requests/{request_id}")
        if answer.status_code != 503 or time.monotonic() > deadline:
            answer.raise_for_status()
            request: dict[str, Any] = answer.json()["request"]
            return request
        assert answer.json()["code"] == "starting"
        time.sleep(0.1)


def check_result(result: dict[str, Any]) -> None:
    probabilities = result["probabilities"]
    assert set(probabilities) == {"normal", "oscc"}
    assert math.isclose(sum(probabilities.values()), 1.0, abs_tol=1e-4)
    assert result["predicted_class"] == max(probabilities, key=lambda name: probabilities[name])
    assert result["patches"]["count"] > 10
    width, height = result["slide"]["width"], result["slide"]["height"]
    assert (width, height) == (2220, 2967)
    assert result["slide"]["mpp"] == pytest.approx([0.499, 0.499])
    assert 0 < len(result["top_patches"]) <= 100
    for patch in result["top_patches"]:
        assert 0 <= patch["x"] < width
        assert 0 <= patch["y"] < height
    assert {"queue", "open", "tissue", "encode", "predict"} <= set(result["timings_s"])
    assert result["quality"]["status"] in {"ok", "abstained", "limited"}
    assert result["model"]["use"] == "demonstration"


def test_an_analysis_of_a_real_slide_survives_a_restart(orthanc: OrthancServer, tmp_path: Path) -> None:
    series = store_slide(orthanc, slide_folder())
    with worker_for(orthanc, tmp_path) as worker:
        request = wait_until_ended(orthanc.url, orthanc.person, submit(orthanc, series))
    assert request["status"] == "completed", (request["error"], worker.log())
    result = request["result"]
    assert isinstance(result, dict)
    check_result(result)

    request_id = str(request["request_id"])
    heatmap = artifact(orthanc, request_id, "heatmap.png")
    with Image.open(io.BytesIO(heatmap)) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # A heatmap over tissue is colourful; a grey or empty picture would be a failure that looks like success.
    saturation = pixels.max(axis=2) - pixels.min(axis=2)
    assert (saturation > 60).mean() > 0.05

    orthanc.restart()
    after = read_request(orthanc, request_id)
    assert after["result"] == result
    assert after["status"] == "completed"
    kept = artifact(orthanc, request_id, "heatmap.png")
    named = {entry["name"]: entry["sha256"] for entry in after["artifacts"]}
    assert hashlib.sha256(kept).hexdigest() == named["heatmap.png"] == hashlib.sha256(heatmap).hexdigest()


def test_two_workers_do_six_slides_exactly_once(orthanc: OrthancServer, tmp_path: Path) -> None:
    files = [another_slide(tmp_path, container_id=f"S-{number}") for number in range(6)]
    series = [str(store_file(orthanc, path)["ParentSeries"]) for path in files]
    identifiers = [submit(orthanc, one) for one in series]
    with ExitStack() as stack:
        for name in ("lab-1", "lab-2"):
            stack.enter_context(worker_for(orthanc, tmp_path, name))
        ended = [
            wait_until_ended(orthanc.url, orthanc.person, identifier, seconds=400)
            for identifier in identifiers
        ]
    assert [request["status"] for request in ended] == ["completed"] * 6
    assert [request["attempts"] for request in ended] == [1] * 6
    assert {request["worker_id"] for request in ended} == {"lab-1", "lab-2"}
    for request, path in zip(ended, files, strict=True):
        history: Any = request["history"]
        assert [entry["event"] for entry in history].count("completed") == 1
        result: Any = request["result"]
        assert result["slide"]["container_id"] == path.stem
    first: Any = ended[0]["result"]
    for request in ended[1:]:
        result = request["result"]
        assert result["probabilities"] == first["probabilities"], "the same pixels, the same answer"
