# SPDX-License-Identifier: Apache-2.0
"""Nothing of a patient and no password gets into logs, disks, messages and errors."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

import pydicom
import pytest

from tests.support.canary_slide import canaries_in, canary_slide
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.receiver import Receiver
from tests.support.watched_line import ONLY_WHOLE_FILES, WatchedLine
from tests.support.worker_process import WorkerProcess, wait_until_ended

pytestmark = [pytest.mark.server, pytest.mark.slow]

SOON_GIVEN_OUT_AGAIN = {"LeaseSeconds": 5, "HeartbeatSeconds": 1, "ConfirmSeconds": 3, "RetrySeconds": 0.2}
SECRET = base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True)
class Site:
    """An Orthanc with a patient's slide, the line to it, and who is told by webhook."""

    orthanc: OrthancServer
    series: str
    line: WatchedLine
    receiver: Receiver

    def worker(self, folder: Path, **environment: str) -> WorkerProcess:
        """Return a worker at its chattiest, which keeps everything in one folder."""
        kept_here = {
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "FEATURE_CACHE_DIR": str(folder / "features"),
        }
        return WorkerProcess(
            self.line.url,
            worker=self.orthanc.worker,
            person=self.orthanc.person,
            folder=folder,
            environment={**kept_here, "LOG_LEVEL": "DEBUG", **environment},
        )

    def submit(self) -> str:
        """Ask for an analysis; return the request's id."""
        answer = self.orthanc.post("/pathology/analyze", json={"series": self.series})
        answer.raise_for_status()
        return str(answer.json()["request_id"])

    def completed(self, request_id: str) -> dict[str, object]:
        """Wait for the result."""
        request = wait_until_ended(self.orthanc.url, self.orthanc.person, request_id)
        assert request["status"] == "completed", request
        return request

    def passwords(self) -> list[bytes]:
        return [self.orthanc.worker[1].encode(), self.orthanc.person[1].encode()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Receiver() as receiver:
        webhook = {"Url": receiver.url, "Secret": SECRET}
        overrides = {"Pathology": {"Webhook": webhook, **SOON_GIVEN_OUT_AGAIN}}
        with OrthancServer(overrides=overrides) as orthanc, WatchedLine(orthanc.url) as line:
            series = store_file(orthanc, canary_slide(tmp_path))["ParentSeries"]
            yield Site(orthanc, series, line, receiver)


def on_disk(folder: Path) -> bytes:
    """Return names and contents of everything in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)


@pytest.mark.parametrize(("log_format", "way"), [("text", "plugin_ranges"), ("json", "download")])
def test_neither_side_tells_of_the_patient_however_the_slide_is_read(
    site: Site, tmp_path: Path, log_format: str, way: str
) -> None:
    if way == "download":
        site.line.withheld = (ONLY_WHOLE_FILES, 404)
    with site.worker(tmp_path / "worker", LOG_FORMAT=log_format) as worker:
        request_id = site.submit()
        request = site.completed(request_id)
    assert request["result"]["slide"]["source"]["kind"] == way  # type: ignore[index]
    assert request_id[:8] in worker.log()
    kept = on_disk(tmp_path / "worker")
    assert canaries_in(kept) == []
    assert [password for password in site.passwords() if password in kept] == []
    assert_nothing_told(site)


def assert_nothing_told(site: Site) -> None:
    """Look at what the worker reported, and at what Orthanc's side wrote and sent."""
    reports = site.line.sent_to("/claim") + site.line.sent_to("/update-status/")
    assert any(b'"counters"' in sent.body for sent in reports)
    assert canaries_in(b"".join(sent.head + sent.body for sent in reports)) == []
    assert canaries_in(b"".join(sent.head for sent in site.line.sent)) == []
    (message,) = site.receiver.wait_for(1)
    assert canaries_in(message.body + str(message.headers).encode()) == []
    audit = (site.orthanc.folder / "storage" / "pathology-audit.log").read_bytes()
    assert audit.count(b"\n") >= 3
    for told in (
        audit,
        site.orthanc.log().encode(),
        site.orthanc.get("/pathology/metrics").content,
        site.orthanc.get("/pathology/workers").content,
    ):
        assert canaries_in(told) == []


def test_a_worker_that_is_killed_leaves_a_downloaded_slide_only_until_it_starts_again(
    site: Site, tmp_path: Path
) -> None:
    site.line.withheld = (ONLY_WHOLE_FILES, 404)
    folder = tmp_path / "worker"
    features = folder / "features"
    request_id = site.submit()
    with site.worker(folder) as worker:
        worker.wait_until(lambda: any(path.stat().st_size for path in features.rglob("*") if path.is_file()))
        worker.stop(SIGKILL)
    scratch = folder / "spool" / "test-worker.scratch"
    assert canaries_in(on_disk(scratch)), "nothing was downloaded"
    assert canaries_in(on_disk(features)) == []
    with site.worker(folder) as worker:
        site.completed(request_id)
    assert on_disk(scratch) == b""
    assert canaries_in(on_disk(folder)) == []


def test_a_result_that_waits_for_the_line_knows_no_patient(site: Site, tmp_path: Path) -> None:
    site.line.withheld = ("/complete-request/", 503)
    folder = tmp_path / "worker"
    request_id = site.submit()
    with site.worker(folder) as worker:
        worker.wait_until(lambda: any(folder.glob("spool/test-worker/*/delivery.json")))
        assert canaries_in(on_disk(folder)) == []
        site.line.withheld = None
        site.completed(request_id)


def test_a_failure_over_the_slides_header_quotes_nothing_of_it(site: Site, tmp_path: Path) -> None:
    path = canary_slide(tmp_path)
    header = pydicom.dcmread(path)
    del header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    header.save_as(path)
    series = store_file(site.orthanc, path)["ParentSeries"]
    with site.worker(tmp_path / "worker"):
        answer = site.orthanc.post("/pathology/analyze", json={"series": series})
        request = wait_until_ended(site.orthanc.url, site.orthanc.person, answer.json()["request_id"])
    assert (request["status"], request["error"]["code"]) == ("failed", "mpp_missing")  # type: ignore[index]
    assert canaries_in(json.dumps([request["error"], request["history"]]).encode()) == []
    assert canaries_in(on_disk(tmp_path / "worker")) == []
    assert_nothing_told(site)


def stored_with(site: Site, path: Path, **members: object) -> pydicom.Dataset:
    """Store a slide's file with other members in its header; return the header."""
    dataset = pydicom.dcmread(path)
    for keyword, value in members.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(path)
    store_file(site.orthanc, path)
    return dataset


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "LABEL", "CANARY"]}, "no_volume"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not_a_slide"),
    ],
)
def test_the_refusal_of_a_slide_tells_nothing_of_its_header(
    site: Site, tmp_path: Path, members: dict[str, object], code: str
) -> None:
    (tmp_path / "other").mkdir()
    header = stored_with(site, canary_slide(tmp_path / "other"), **members)
    asked = {"series_instance_uid": str(header.SeriesInstanceUID)}
    answer = site.orthanc.post("/pathology/analyze", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert canaries_in(answer.content) == []


def test_two_patients_who_share_a_slides_uid_are_not_named(site: Site, tmp_path: Path) -> None:
    header = stored_with(site, tmp_path / "CANARY-GLASS.dcm", PatientID="CANARY-OTHER")
    answer = site.orthanc.post(
        "/pathology/analyze", json={"series_instance_uid": str(header.SeriesInstanceUID)}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous_series")
    assert canaries_in(answer.content) == []
