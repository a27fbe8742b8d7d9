# SPDX-License-Identifier: AGPL-3.0-or-later
"""A result's patches as files for other programs, by route."""

from __future__ import annotations

import io
import json

import h5py
import pytest

from orthanc_plugin.service import export
from tests.support.analysed_slide import attention_h5, attention_npz, result_for, top_patches
from tests.support.queue_client import Queue, named
from tests.support.sites import WORKER, MemorySite

FILES = {
    "attention.npz": (attention_npz, "application/octet-stream"),
    "attention.h5": (attention_h5, "application/x-hdf5"),
}


@pytest.fixture
def delivered(queue: Queue) -> str:
    """The id of a request whose result brought its patches."""
    return deliver(queue, tuple(FILES))


def deliver(queue: Queue, names: tuple[str, ...]) -> str:
    queue.submitted()
    lease = queue.claim()
    sent = []
    for name in names:
        make, kind = FILES[name]
        content = make()
        assert lease.put(name, content, kind).status == 200
        sent.append(named(name, content))
    result = result_for(lease.claimed["request"], "S26-1042-A1")
    assert lease.send(lease.body(*sent, result=result)).status == 200
    return lease.request_id


def test_geojson_and_csv_are_made_of_what_the_worker_brought(queue: Queue, delivered: str) -> None:
    geojson = queue.site.call("GET", f"/pathology/requests/{delivered}/export/geojson")
    assert geojson.status == 200
    assert geojson.headers["content-type"] == "application/geo+json"
    features = json.loads(geojson.body)["features"]
    assert len(features) == 2 * len(top_patches())
    assert features[0]["properties"]["metadata"]["Request"] == delivered
    csv = queue.site.call("GET", f"/pathology/requests/{delivered}/export/csv")
    assert len(csv.body.decode().splitlines()) == 1 + len(top_patches())


def test_an_export_is_saved_and_never_shown_by_a_browser(queue: Queue, delivered: str) -> None:
    for form in ("geojson", "csv", "h5"):
        answer = queue.site.call("GET", f"/pathology/requests/{delivered}/export/{form}")
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_saved_file_is_named_by_slide_model_and_analysis(queue: Queue, delivered: str) -> None:
    digits = queue.get(delivered)["series_instance_uid"].replace(".", "")
    for form in ("geojson", "csv", "h5"):
        answer = queue.site.call("GET", f"/pathology/requests/{delivered}/export/{form}")
        name = f"slide-{digits[-8:]}-{queue.model}-{delivered[:8]}.{form}"
        assert f'filename="{name}"' in answer.headers["content-disposition"]


def test_h5_is_the_workers_own_file_in_the_layout_of_clam(queue: Queue, delivered: str) -> None:
    answer = queue.site.call("GET", f"/pathology/requests/{delivered}/export/h5")
    with h5py.File(io.BytesIO(answer.body)) as file:
        assert file["coords"].shape == (len(top_patches()), 2)
        assert file["attention_scores"].shape == (len(top_patches()), 1)


def test_one_export_is_written_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_LONGEST_WAIT_S", 0.05)
    site = MemorySite()
    request_id = deliver(Queue(site), ("attention.npz",))
    path = f"/pathology/requests/{request_id}/export/geojson"
    with site.application.core.exporting:
        answer = site.call("GET", path)
    assert (answer.status, answer.json["code"]) == (429, "too_busy")
    assert answer.headers["retry-after"] == "5"
    assert site.call("GET", path).status == 200


def test_only_persons_export(queue: Queue, delivered: str) -> None:
    answer = queue.site.call("GET", f"/pathology/requests/{delivered}/export/csv", user=WORKER)
    assert (answer.status, answer.json["code"]) == (403, "forbidden_role")


def test_a_result_without_patches_an_unknown_form_and_an_open_request_are_404(queue: Queue) -> None:
    open_request = queue.submitted()
    for request_id, form in ((open_request, "csv"), (open_request, "xlsx"), ("nobody", "csv")):
        assert queue.site.call("GET", f"/pathology/requests/{request_id}/export/{form}").status == 404
    queue.decide(open_request, "cancel")
    without = deliver(queue, ())
    answer = queue.site.call("GET", f"/pathology/requests/{without}/export/geojson")
    assert (answer.status, answer.json["code"]) == (404, "unknown_artifact")


def test_a_withdrawn_result_is_exported_no_more(queue: Queue, delivered: str) -> None:
    assert queue.decide(delivered, "withdraw", reason="wrong stain").status == 200
    assert queue.site.call("GET", f"/pathology/requests/{delivered}/export/csv").status == 404
