# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which of Orthanc's own calls may store something: every POST that it documents is known."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from orthanc_plugin.access.native_calls import may_store

LEVELS = ("patients", "studies", "series", "instances")
STORE_NOTHING = {
    "/tools/bulk-content",
    "/tools/create-archive",
    "/tools/create-media",
    "/tools/create-media-extended",
    "/tools/dicom-echo",
    "/tools/find",
    "/tools/lookup",
    *(f"/{level}/{{id}}/{what}" for level in LEVELS[:3] for what in ("archive", "media")),
    *(f"/{level}/{{id}}/attachments/{{name}}/verify-md5" for level in LEVELS),
    "/instances/{id}/anonymize",
    "/instances/{id}/modify",
    *(f"/modalities/{{id}}/{what}" for what in ("echo", "find", "query", "storage-commitment")),
    *(f"/modalities/{{id}}/find-{what}" for what in ("instance", "patient", "series", "study", "worklist")),
    *(f"/queries/{{id}}/answers/{{index}}/query-{what}" for what in ("instances", "series", "studies")),
    *(f"/{whom}/{{id}}/{what}" for whom in ("modalities", "peers") for what in ("store", "store-straight")),
}
MAY_STORE = {
    "/instances",
    *(f"/{level}/{{id}}/{what}" for level in LEVELS[:3] for what in ("anonymize", "modify")),
    *(f"/{level}/{{id}}/reconstruct" for level in LEVELS),
    *(f"/{level}/{{id}}/attachments/{{name}}/{what}ompress" for level in LEVELS for what in ("c", "unc")),
    *(f"/jobs/{{id}}/{what}" for what in ("cancel", "pause", "resubmit", "resume")),
    "/modalities/{id}/move",
    "/queries/{id}/answers/{index}/retrieve",
    "/queries/{id}/retrieve",
    "/storage-commitment/{id}/remove",
    "/studies/{id}/merge",
    "/studies/{id}/split",
    *(f"/tools/bulk-{what}" for what in ("anonymize", "delete", "modify")),
    "/tools/create-dicom",
    "/tools/execute-script",
    "/tools/invalidate-tags",
    "/tools/reconstruct",
    "/tools/reset",
    "/tools/shutdown",
}


def filled(path: str) -> str:
    """Return a path with names in the place of its parameters."""
    return path.format(id="66c8e41e-ac3a9029-0b85e42a-8195ee0a-92c2e62e", name="dicom", index="0")


@pytest.mark.parametrize("path", sorted(STORE_NOTHING))
def test_what_reads_or_sends_stores_nothing(path: str) -> None:
    assert not may_store("POST", filled(path))
    assert not may_store("POST", filled(path) + "/")
    assert may_store("PUT", filled(path))


@pytest.mark.parametrize("path", sorted(MAY_STORE))
def test_what_brings_or_changes_something_may_store(path: str) -> None:
    assert may_store("POST", filled(path))


@pytest.mark.parametrize(
    ("path", "stores"),
    [
        ("/tools/count-resources", False),  # of Orthanc 1.12.5
        ("/dicom-web/servers/pacs/get", False),
        ("/dicom-web/servers/pacs/qido", False),
        ("/dicom-web/servers/pacs/stow", False),
        ("/dicom-web/servers/pacs/retrieve", True),
        ("/dicom-web/servers/pacs/wado", True),
        ("/dicom-web/studies", True),
        ("/another-plugin/find", True),
        ("/tools/find/more", True),
        ("/tools/find\n", True),
    ],
)
def test_newer_routes_and_those_of_plugins(path: str, stores: bool) -> None:
    assert may_store("POST", path) is stores


def test_a_get_stores_nothing_and_a_deletion_is_a_change() -> None:
    assert not may_store("GET", "/instances")
    assert may_store("DELETE", "/series/x")


def test_every_post_that_orthanc_1_10_documents_is_known(tmp_path: Path) -> None:
    orthanc = shutil.which("Orthanc")
    if orthanc is None:
        pytest.skip("needs Orthanc: apt-get install orthanc")
    file = tmp_path / "openapi.json"
    subprocess.run([orthanc, f"--openapi={file}"], capture_output=True, check=True, timeout=60)
    document = json.loads(file.read_text())
    if not document["info"]["version"].startswith("1.10."):
        pytest.skip("the lists are of Orthanc 1.10")
    posts = {path for path, operations in document["paths"].items() if "post" in operations}
    assert posts == STORE_NOTHING | MAY_STORE
