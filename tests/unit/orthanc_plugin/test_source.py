# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plugin offers the source that it runs."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import orthanc_plugin
from orthanc_plugin.routes.source import serve_source

PACKAGE = Path(orthanc_plugin.__file__).parent


def members() -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(serve_source().body)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_every_module_that_runs_is_in_the_archive_as_it_is() -> None:
    found = members()
    for path in PACKAGE.rglob("*.py"):
        assert found[f"orthanc_plugin/{path.relative_to(PACKAGE)}"] == path.read_bytes()
    assert "orthanc_plugin/explorer.js" in found
    assert "LICENSES/AGPL-3.0-or-later.txt" in found


def test_nothing_else_is_in_the_archive() -> None:
    assert not [
        name
        for name in members()
        if "__pycache__" in name or not name.startswith(("orthanc_plugin/", "LICENSES/"))
    ]
