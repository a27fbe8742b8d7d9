# SPDX-License-Identifier: AGPL-3.0-or-later
"""The running plugin's own source, offered to whoever uses it over the network (AGPL, section 13)."""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
from pathlib import Path

from orthanc_plugin.http import Response

PATH = "/source.tar.gz"
ARCHIVE_TYPE = "application/gzip"
_PACKAGE = Path(__file__).resolve().parents[1]
_LICENCES = _PACKAGE.parent / "LICENSES"
_SUFFIXES = frozenset({".py", ".js", ".css", ".html", ".md", ".txt", ".png"})


def serve_source() -> Response:
    """Return the source of this plugin, as it runs, as an archive."""
    headers = {"Content-Disposition": 'attachment; filename="orthanc_plugin.tar.gz"'}
    return Response(200, source_archive(), ARCHIVE_TYPE, headers)


@functools.lru_cache(maxsize=1)
def source_archive() -> bytes:
    """Return the plugin's files, and the licences beside them, as a gzipped tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for root in (_PACKAGE, _LICENCES):
            for path in sorted(root.rglob("*")):
                if path.is_file() and path.suffix in _SUFFIXES:
                    archive.add(path, str(path.relative_to(root.parent)))
    return gzip.compress(packed.getvalue(), mtime=0)
