# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script that Orthanc's `PythonScript` points at.

A site with a script of its own puts this folder's parent on `sys.path` and calls
``orthanc_plugin.registration.register(on_change=..., filter=..., explorer_js=...)`` from there instead.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orthanc_plugin.registration import register

register()
