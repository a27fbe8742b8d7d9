# SPDX-License-Identifier: Apache-2.0
"""A real run leaves DICOM objects in the slide's study, a re-run adds its own, withdraw removes them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import pytest

from tests.support.dicom_files import slide_folder
from tests.support.orthanc_server import OrthancServer, store_slide
from tests.support.worker_process import WorkerProcess, wait_until_ended
from worker.dicom_results import series_uid
from worker.result_kinds import ResultKind

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def server() -> Iterator[OrthancServer]:
    with OrthancServer() as running:
        yield running


def test_results_are_in_the_study_until_they_are_withdrawn(server: OrthancServer, tmp_path: Path) -> None:
    slide = store_slide(server, slide_folder())
    with WorkerProcess.at(server, tmp_path) as worker:
        first = analysed(server, {"series": slide}, worker)
        assert series_of(server, slide) == expected(first)
        second = analysed(server, {"series": slide, "force": True}, worker)
    assert series_of(server, slide) == expected(first) | expected(second)

    report = stored_report(server, second)
    (study,) = report.PredecessorDocumentsSequence
    (named,) = study.ReferencedSeriesSequence
    assert named.SeriesInstanceUID == series_uid(first["request_id"], ResultKind.SLIDE_REPORT)

    answer = server.post(f"/pathology/requests/{first['request_id']}/withdraw", json={"reason": "a test"})
    assert answer.status_code == 200, answer.text
    assert series_of(server, slide) == expected(second)


def analysed(server: OrthancServer, body: dict[str, Any], worker: WorkerProcess) -> dict[str, Any]:
    answer = server.post("/pathology/analyze", json=body)
    assert answer.status_code == 201, answer.text
    request = wait_until_ended(server.url, server.person, answer.json()["request_id"])
    assert request["status"] == "completed", (request["error"], worker.log())
    return request


def expected(request: dict[str, Any]) -> set[str]:
    """Return the series that a request's result names, which are those that follow from its id."""
    named = {entry["series_instance_uid"] for entry in request["result"]["dicom"]}
    assert named == {series_uid(request["request_id"], kind) for kind in ResultKind}
    return named


def series_of(server: OrthancServer, slide: str) -> set[str]:
    """Return the series of the slide's study but for the slide itself."""
    study = server.get(f"/series/{slide}").json()["ParentStudy"]
    others = [name for name in server.get(f"/studies/{study}").json()["Series"] if name != slide]
    return {server.get(f"/series/{name}").json()["MainDicomTags"]["SeriesInstanceUID"] for name in others}


def stored_report(server: OrthancServer, request: dict[str, Any]) -> hd.sr.Comprehensive3DSR:
    uid = series_uid(request["request_id"], ResultKind.SLIDE_REPORT)
    (found,) = server.post(
        "/tools/find", json={"Level": "Instance", "Query": {"SeriesInstanceUID": uid}}
    ).json()
    report = hd.sr.srread(BytesIO(server.get(f"/instances/{found}/file").content))
    assert isinstance(report, hd.sr.Comprehensive3DSR)
    return report
