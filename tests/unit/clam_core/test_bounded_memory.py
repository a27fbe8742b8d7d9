# SPDX-License-Identifier: Apache-2.0
"""A slide of 100,000 x 100,000 pixels is analysed in bounded memory, whatever lies on it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def analysed(patches: int) -> dict[str, float]:
    """Analyse a slide that is a function in a process of its own; return what it measured of itself."""
    command = [sys.executable, str(ROOT / "bench" / "endless_slide.py"), str(patches)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is told by POSIX systems")
def test_a_slide_of_ten_gigapixels_takes_less_than_two_gigabytes_and_more_tissue_hardly_more() -> None:
    little, much = analysed(190), analysed(3_000)
    assert much["patches"] > 12 * little["patches"]
    assert much["peak_memory_mb"] < 2048
    assert much["peak_memory_mb"] < little["peak_memory_mb"] + 128
