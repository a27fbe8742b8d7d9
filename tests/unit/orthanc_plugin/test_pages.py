# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plugin's own pages as files: what is served, under which policy, and that nothing inline slips in."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import pytest

from clam_core.heatmap import ScoreMap, paint
from orthanc_plugin.errors import ApiError
from orthanc_plugin.routes.pages import APP, POLICY, explorer_script, first_page, serve_page
from orthanc_plugin.settings import Settings

DOCS = APP.parents[1] / "docs"
PAGES = ("result.html", "worklist.html")
OWN_FILES = sorted(
    path for path in APP.rglob("*") if path.suffix in {".html", ".css", ".js"} and "vendor" not in path.parts
)


def catalogue(language: str) -> dict[str, str]:
    text = (APP / f"messages.{language}.js").read_text("utf-8")
    return dict(re.findall(r'^    "([^"]+)":\s+("(?:[^"\\]|\\.)*"),$', text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("result.html", "text/html; charset=utf-8"),
        ("worklist.html", "text/html; charset=utf-8"),
        ("base.css", "text/css; charset=utf-8"),
        ("result.js", "text/javascript; charset=utf-8"),
        ("vendor/openseadragon/LICENSE.txt", "text/plain; charset=utf-8"),
    ],
)
def test_a_page_and_its_parts_are_served_with_their_types(path: str, content_type: str) -> None:
    response = serve_page(path)
    assert response.status == 200
    assert response.content_type == content_type
    assert response.body == (APP / path).read_bytes()


def test_every_answer_carries_the_policy_and_forbids_guessing_types() -> None:
    headers = serve_page("result.html").headers
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-cache"


def test_the_policy_allows_no_inline_code_and_no_other_host() -> None:
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert POLICY.startswith("default-src 'none'")


def test_a_browser_that_has_the_file_gets_304() -> None:
    etag = serve_page("base.css").headers["ETag"]
    response = serve_page("base.css", if_none_match=f'"other", {etag}')
    assert (response.status, response.body) == (304, b"")
    assert serve_page("base.css", if_none_match='"other"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        "",
        "nothing.html",
        "../application.py",
        "vendor/../../application.py",
        "/etc/passwd",
        "vendor/openseadragon",
        "vendor/openseadragon/VENDORED.md",
        "result.html\x00.js",
    ],
)
def test_anything_else_is_404(path: str) -> None:
    with pytest.raises(ApiError) as error:
        serve_page(path)
    assert error.value.status == 404


@pytest.mark.parametrize("page", PAGES)
def test_a_page_holds_no_inline_script_and_no_inline_style(page: str) -> None:
    text = (APP / page).read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)


@pytest.mark.parametrize("page", PAGES)
def test_everything_a_page_names_is_served(page: str) -> None:
    text = (APP / page).read_text("utf-8")
    for reference in re.findall(r'(?:src|href)="([^"#]+)"', text):
        assert serve_page(reference).status == 200, reference


def test_every_module_that_is_imported_is_served() -> None:
    for path in OWN_FILES:
        for name in re.findall(r'(?:from|import) "(\.{1,2}/[^"]+)"', path.read_text("utf-8")):
            found = (path.parent / name).resolve().relative_to(APP).as_posix()
            assert serve_page(found).status == 200, (path, name)


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.name)
def test_no_file_parses_text_as_html_or_reaches_another_host(path: Path) -> None:
    text = path.read_text("utf-8")
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://"
    assert not re.search(forbidden, text)


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.name)
def test_every_file_names_its_licence(path: Path) -> None:
    assert "SPDX-License-Identifier: Apache-2.0" in path.read_text("utf-8")[:200]


def test_both_languages_have_the_same_messages_with_the_same_places() -> None:
    english, korean = catalogue("en"), catalogue("ko")
    assert english, "the catalogue was not read"
    assert english.keys() == korean.keys()
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", korean[key])), key


def test_every_message_that_is_asked_for_exists() -> None:
    known = catalogue("en").keys()
    for path in OWN_FILES:
        text = path.read_text("utf-8")
        asked = re.findall(r'\bt\("([^"]+)"', text) + re.findall(r'data-t(?:-[a-z-]+)?="([^"]+)"', text)
        assert set(asked) <= known, path


def test_the_legend_has_the_colours_that_the_worker_paints() -> None:
    shown = re.findall(r'"#(\w{6})"', (APP / "legend.js").read_text("utf-8"))
    steps = np.linspace(0, 100, 1001, dtype=np.float32)[None]
    heights, widths = np.ones(1, dtype=np.int64), np.ones(1001, dtype=np.int64)
    everywhere = np.ones(steps.shape, dtype=np.bool_)
    scores = ScoreMap(steps, everywhere, heights, widths, everywhere, (1.0, 1.0))
    overlay = np.asarray(paint(scores).convert("RGB"))[0]
    stops = np.array([list(bytes.fromhex(colour)) for colour in shown])
    places = np.linspace(0, 1, len(stops))
    ramp = np.stack([np.interp(steps[0] / 100, places, channel) for channel in stops.T], axis=1)
    assert np.abs(ramp - overlay).max() < 10


def codes_in(page: str) -> set[str]:
    """Return the codes in the first column of a document's tables of codes and flags."""
    tables = re.findall(
        r"^\| (?:code|flag) \|.*\n((?:\|.*\n)+)", (DOCS / page).read_text("utf-8"), flags=re.MULTILINE
    )
    cells = [row.split("|")[1] for table in tables for row in table.splitlines()]
    return {code for cell in cells for code in re.findall(r"`([a-z_0-9]+)`", cell)}


def test_every_flag_and_failure_that_the_documents_name_has_words() -> None:
    known = catalogue("en").keys()
    codes = codes_in("troubleshooting.md") | codes_in("dicom-results.md")
    assert {"no_tissue", "out_of_memory", "dicom_results_failed", "dicom_size_differs"} <= codes
    assert {code for code in codes if f"error.{code}" not in known and f"flag.{code}" not in known} == set()


def test_every_flag_that_has_words_is_explained_in_the_documents() -> None:
    flags = {key.removeprefix("flag.") for key in catalogue("en") if key.startswith("flag.")}
    documented = codes_in("troubleshooting.md") | codes_in("dicom-results.md")
    assert flags - documented == set()


def test_every_message_is_plain_text() -> None:
    for language in ("en", "ko"):
        for key, text in catalogue(language).items():
            assert "<" not in json.loads(text), key


@pytest.mark.parametrize("address", ["/pathology/app", "/pathology/app/", "/behind/a/proxy/pathology/app/"])
def test_the_folder_of_the_pages_leads_to_the_worklist_with_or_without_a_slash(address: str) -> None:
    folder = address[: address.index("/app")] + "/app/"
    response = first_page()
    while response.status == 302:
        address = urljoin(address, response.headers["Location"])
        response = serve_page(address.removeprefix(folder))
    assert address == f"{folder}worklist.html"
    assert response.status == 200


def test_the_explorers_script_knows_the_numbers_of_our_attachments_and_follows_the_sites_own() -> None:
    settings = Settings(archive_number=2000, first_attachment=2001)
    script = explorer_script("site()", settings)
    assert script.startswith("site()\n;// SPDX-License-Identifier: Apache-2.0\n")
    assert script.endswith('})({"archive": 2000, "first": 2001});\n')


def test_the_vendored_viewer_is_the_file_that_its_note_names() -> None:
    folder = APP / "vendor" / "openseadragon"
    digest = hashlib.sha256((folder / "openseadragon.min.js").read_bytes()).hexdigest()
    assert digest in (folder / "VENDORED.md").read_text("utf-8")
