# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script that Orthanc's `PythonScript` points at.

A site with a script of its own puts this folder's parent on `sys.path` and calls
``orthanc_plugin.registration.register(on_change=..., filter=..., explorer_js=...)`` from there instead.
"""

import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# Orthanc puts the script's own folder first, and our `http` and `queue` would hide Python's own.
sys.path[:] = [str(_PACKAGE.parent), *(entry for entry in sys.path if Path(entry).resolve() != _PACKAGE)]

from orthanc_plugin.registration import register  # noqa: E402 - only found from here on

register()
