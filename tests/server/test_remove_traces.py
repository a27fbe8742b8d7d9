# SPDX-License-Identifier: AGPL-3.0-or-later
"""Uninstalling: what the plugin has stored in a real Orthanc goes, and the slides stay as they were."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.install.page import commands
from tests.support.orthanc_server import ROOT, OrthancServer, free_port, parse_configuration
from tests.support.queue_client import PNG, Queue, named
from tests.support.sites import ServerSite, Slide
from tests.support.tiny_dicom import tiny_result

pytestmark = pytest.mark.server

SCRIPT = ROOT / "docker/uninstall/remove_traces.py"


@dataclass
class Used:
    """An Orthanc with one slide that was analysed and one that waits, both of one study."""

    site: ServerSite
    analysed: Slide
    waiting: Slide

    @property
    def server(self) -> OrthancServer:
        return self.site.server

    def remove(self, *options: str, user: str = "admin") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPT), "--url", self.server.url, "--user", user, *options],
            env={**os.environ, "ORTHANC_PASSWORD": self.server.person[1]},
            capture_output=True,
            text=True,
            check=False,
        )

    def switch_the_plugin_off(self) -> None:
        path = self.server.configuration
        configuration = parse_configuration(path.read_text("utf-8"))
        configuration["Pathology"] = {"Enabled": False}
        path.write_text(json.dumps(configuration), "utf-8")
        self.server.restart()

    def _names(self, series: str, kind: str) -> list[str]:
        return list(self.server.get(f"/series/{series}/{kind}").json())

    def _own_attachments(self, series: str) -> list[str]:
        # Orthanc's DICOMweb plugin keeps what it has computed in one below ours, 4301.
        return [name for name in self._names(series, "attachments") if name.isdigit() and int(name) >= 5000]

    def kept(self) -> dict[str, tuple[object, object]]:
        """Return what lies at each series: numbered metadata and attachments."""
        return {
            series: (
                [
                    name
                    for name in self.server.get(f"/series/{series}/metadata").json()
                    if "Pathology" in name or name.isdigit()
                ],
                self._own_attachments(series),
            )
            for series in self.server.get("/series").json()
        }


@pytest.fixture
def used() -> Iterator[Used]:
    site = ServerSite(slides=2)
    site.start()
    try:
        queue = Queue(site)
        analysed, waiting = site.new_slide(), site.new_slide()
        report = tiny_result(analysed.study_uid)
        queue.submitted(analysed)
        lease = queue.claim()
        lease.put("heatmap.png", PNG)
        lease.put("sr.dcm", report, "application/dicom")
        assert lease.complete(named("heatmap.png", PNG), named("sr.dcm", report)).status == 200
        queue.submitted(waiting)
        yield Used(site, analysed, waiting)
    finally:
        site.stop()


def test_everything_goes_but_the_slides(used: Used) -> None:
    assert len(used.kept()) == 3
    before = {
        slide.series: used.server.get(f"/series/{slide.series}").json()
        for slide in (used.analysed, used.waiting)
    }
    used.switch_the_plugin_off()
    used.server.request(
        "PUT", f"/series/{used.analysed.series}/attachments/5002", data=b"a damaged archive"
    ).raise_for_status()

    said = used.remove()
    assert (said.returncode, "would remove" in said.stdout, len(used.kept())) == (0, True, 3)

    done = used.remove("--yes")
    assert done.returncode == 0, done.stderr
    assert used.kept() == {used.analysed.series: ([], []), used.waiting.series: ([], [])}
    for series, was in before.items():
        assert used.server.get(f"/series/{series}").json()["Instances"] == was["Instances"]
    assert used.remove("--yes").stdout == "0 trace(s) removed.\n"


def properties(index: Path) -> set[int]:
    """Return the numbers of the plugin's properties in the database of an Orthanc that is stopped."""
    with closing(sqlite3.connect(index)) as database:
        rows = database.execute("SELECT property FROM GlobalProperties WHERE property >= 1024")
        return {number for (number,) in rows}


def test_the_commands_of_the_page_empty_the_plugins_properties_and_no_other(used: Used) -> None:
    used.switch_the_plugin_off()
    used.server.stop()
    index = used.server.folder / "storage/index"
    with closing(sqlite3.connect(index)) as database, database:
        database.executemany(
            "INSERT OR REPLACE INTO GlobalProperties VALUES (?, 'x')", [(4999,), (5067,), (5068,)]
        )
    before = properties(index)
    assert before >= {4999, 5000, 5067, 5068}
    (line,) = re.findall(r"^python3 .*$", "\n".join(commands("operate.md", "Uninstall")), re.MULTILINE)
    command = line.replace("/var/lib/orthanc/db-v6/index", str(index)).replace("python3", sys.executable)
    subprocess.run(["sh", "-c", command], check=True)
    assert properties(index) == before - set(range(5000, 5068))
    used.server.start()
    assert set(used.server.get("/series").json()) >= {used.analysed.series, used.waiting.series}


def test_while_the_plugin_runs_it_lets_nobody(used: Used) -> None:
    refused = used.remove("--yes")
    assert refused.returncode == 2
    assert '"Enabled": false' in refused.stderr
    assert used.kept()[used.waiting.series][0]


def test_a_wrong_password_or_address_is_named(used: Used) -> None:
    assert "check --user and ORTHANC_PASSWORD" in used.remove(user="nobody").stderr
    elsewhere = used.remove("--url", f"http://127.0.0.1:{free_port()}")
    assert (elsewhere.returncode, "cannot be reached" in elsewhere.stderr) == (2, True)
