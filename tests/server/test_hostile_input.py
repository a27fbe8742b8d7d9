# SPDX-License-Identifier: AGPL-3.0-or-later
"""What would end a real Orthanc: it answers on threads with a stack of 100 kB, too little to nest deep."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator

import pytest

from tests.support.queue_client import Queue, named
from tests.support.sites import PERSON, ServerSite, running
from tests.support.tiny_dicom import nested_result

pytestmark = pytest.mark.server

DEEP = "[" * 2000 + "]" * 2000


@pytest.fixture(scope="module")
def site() -> Iterator[ServerSite]:
    with running(slides=2) as site:
        yield site


@pytest.fixture(autouse=True)
def _it_goes_on(site: ServerSite) -> Iterator[None]:
    yield
    assert site.server.exit_code() is None
    assert site.call("GET", "/pathology/health").status == 200


def test_a_deep_body_is_a_400(site: ServerSite) -> None:
    body = f'{{"series": {DEEP}}}'.encode()
    answer = site.call("POST", "/pathology/analyze", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.json["code"]) == (400, "bad_json")


@pytest.mark.parametrize(
    "path", ["/pathology/analyze", "/api/pathology/analyze/", "/pathology/workers/a/drain"]
)
def test_a_form_with_files_is_refused_and_not_said_to_be_done(site: ServerSite, path: str) -> None:
    person = (PERSON, site.passwords[PERSON])
    files = {"body": ("body.json", b"{}", "application/json")}
    assert site.server.post(path, auth=person, files=files).status_code == 403


def test_a_head_that_is_no_text_is_refused_and_spoils_no_other_request(site: ServerSite) -> None:
    person = (PERSON, site.passwords[PERSON])
    for _ in range(60):  # more than Orthanc has threads
        assert not site.server.get("/system", auth=person, headers={"Cookie": b"\xff"}).ok
    assert {site.server.get("/system", auth=person).status_code for _ in range(120)} == {200}


def test_a_deep_cursor_is_a_400(site: ServerSite) -> None:
    cursor = base64.urlsafe_b64encode(DEEP.encode()).decode()
    answer = site.call("GET", "/pathology/requests/", query={"cursor": cursor})
    assert (answer.status, answer.json["field"]) == (400, "cursor")


def test_a_deep_dicom_result_costs_no_more_than_itself(site: ServerSite) -> None:
    slide, queue = site.new_slide(), Queue(site)
    request_id = queue.submitted(slide)
    lease = queue.claim()
    content = nested_result(slide.study_uid, 2000, ends=True)
    assert lease.put("sr.dcm", content, "application/dicom").status == 200
    assert lease.complete(named("sr.dcm", content)).status == 200
    request = queue.get(request_id)
    assert (request["dicom"], request["flags"][-1]) == ([], "dicom_results_refused")
    assert "too deep" in request["history"][-1]["detail"]


def test_deep_attention_is_not_exported(site: ServerSite) -> None:
    form = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {'-' * 3000}1}}".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("coords.npy", b"\x93NUMPY\x01\x00" + len(form).to_bytes(2, "little") + form)
    queue = Queue(site)
    queue.submitted()
    lease = queue.claim()
    assert lease.put("attention.npz", buffer.getvalue(), "application/octet-stream").status == 200
    assert lease.complete(named("attention.npz", buffer.getvalue())).status == 200
    answer = site.call("GET", f"/pathology/requests/{lease.request_id}/export/csv")
    assert (answer.status, answer.json["code"]) == (404, "unknown_artifact")
