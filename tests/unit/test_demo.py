# SPDX-License-Identifier: Apache-2.0
"""The demo, as far as it needs no Orthanc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_slide_that_is_not_there_is_one_sentence_and_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--slide", "/nowhere/slide.svs"],
        cwd=ROOT,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "There is no slide /nowhere/slide.svs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_slide_with_a_quote_in_its_name_reaches_the_demo_whole() -> None:
    done = subprocess.run(
        ["make", "-s", "-o", ".venv/.ready", "demo", "SLIDE=/nowhere/o'brien 1.svs", f"RUN={sys.executable}"],
        cwd=ROOT,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "There is no slide /nowhere/o'brien 1.svs" in done.stderr
