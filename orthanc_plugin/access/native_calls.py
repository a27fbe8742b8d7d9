# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which of Orthanc's own calls may store something in it.

By what Orthanc 1.10.1 writes of its routes (``Orthanc --openapi=FILE``), what later versions added to them
(``/tools/count-resources``), and the routes of its DICOMweb plugin. What is not known here, of another plugin
for instance, may.
"""

from __future__ import annotations

import re

_ONE = "[^/]+"
_POSTS_THAT_READ = (
    "/tools/(?:bulk-content|count-resources|create-archive|create-media|create-media-extended|find|lookup)",
    "/tools/dicom-echo",
    f"/(?:patients|studies|series)/{_ONE}/(?:archive|media)",
    f"/instances/{_ONE}/(?:anonymize|modify)",  # for download, unlike those of whole series
    f"/(?:patients|studies|series|instances)/{_ONE}/attachments/{_ONE}/verify-md5",
    f"/modalities/{_ONE}/(?:echo|find|find-(?:instance|patient|series|study|worklist)|query)",
    f"/queries/{_ONE}/answers/{_ONE}/query-(?:instances|series|studies)",
    f"(?:/{_ONE})+/servers/{_ONE}/(?:get|qido)",
)
_POSTS_THAT_SEND = (
    f"/modalities/{_ONE}/(?:storage-commitment|store|store-straight)",
    f"/peers/{_ONE}/(?:store|store-straight)",
    f"(?:/{_ONE})+/servers/{_ONE}/stow",
)
_STORE_NOTHING = re.compile(f"(?:{'|'.join((*_POSTS_THAT_READ, *_POSTS_THAT_SEND))})/?")


def may_store(method: str, path: str) -> bool:
    """Tell whether a call of one of Orthanc's routes may store something in it."""
    return method != "GET" and not (method == "POST" and _STORE_NOTHING.fullmatch(path))
