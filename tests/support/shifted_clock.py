# SPDX-License-Identifier: AGPL-3.0-or-later
"""The wall clock of the plugin in a real Orthanc, set from outside while it runs; time itself goes on."""

from __future__ import annotations

from pathlib import Path

from tests.support.orthanc_server import ROOT

_SCRIPT = """
import sys
import time
sys.path.insert(0, {root!r})
true_time = time.time
def shifted_time():
    with open({file!r}) as file:
        return true_time() + float(file.read())
time.time = shifted_time
from orthanc_plugin.registration import register
register()
"""


class ShiftedClock:
    """Sets the clock that a server sees whose `PythonScript` is `script`.

    Parameters
    ----------
    folder
        Where the script lies, and the shift, which is read anew at every look at the clock.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "shift"
        self.script = folder / "shifted.py"
        self.script.write_text(_SCRIPT.format(root=str(ROOT), file=str(self._file)), "utf-8")
        self.shift(0)

    def shift(self, seconds: float) -> None:
        """Set the clock so many seconds ahead of the machine's, or behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds), "ascii")
        new.replace(self._file)
