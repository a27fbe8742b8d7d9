# SPDX-License-Identifier: Apache-2.0
"""Run the converter on one slide file and follow what it says."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from clam_core.slides import damage_of

from .errors import IngestError
from .progress import Progress, Report, Stage, silent

SCRIPT = Path(__file__).with_name("convert_script.py")


@dataclass(frozen=True)
class Conversion:
    """What the converter made of a slide.

    Attributes
    ----------
    files
        DICOM files, one for each level (and label or macro).
    reader
        The library that read the slide.
    mpp
        Micrometres per pixel of the largest level.
    """

    files: tuple[Path, ...]
    reader: str
    mpp: float


def run_converter(
    python: Path, slide: Path, out: Path, *, mpp: float | None, labels: bool, report: Report
) -> Conversion:
    """Convert a slide's own levels to DICOM.

    Parameters
    ----------
    python
        Interpreter of the converter's environment.
    slide
        The file.
    out
        An existing folder to write to.
    mpp
        Micrometres per pixel of the largest level, or None for what the file says.
    labels
        Whether label and macro are converted too.
    report
        Is told how many tiles are done.

    Raises
    ------
    IngestError
        If the file cannot be converted.
    """
    job = {"slide": str(slide.resolve()), "out": str(out.resolve()), "mpp": mpp, "labels": labels}
    return _run(python, slide, {**job, "check": False}, report)


def check_convertible(python: Path, slide: Path, *, mpp: float | None) -> None:
    """See that the converter can open a slide; nothing is written.

    Raises
    ------
    IngestError
        If it cannot, or nobody says how large a pixel is.
    """
    job = {"slide": str(slide.resolve()), "out": None, "mpp": mpp, "labels": False, "check": True}
    _run(python, slide, job, silent)


def _run(python: Path, slide: Path, job: Mapping[str, Any], report: Report) -> Conversion:
    with (
        tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(  # noqa: S603 - our own script, no shell
            [str(python), str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        ) as process,
    ):
        try:
            conversion = _follow(process, slide, job, report)
        except BaseException:
            process.kill()
            raise
        if conversion is None:
            raise _died(slide, process.wait(), stderr)
    return conversion


def _follow(
    process: subprocess.Popen[str], slide: Path, job: Mapping[str, Any], report: Report
) -> Conversion | None:
    """Read events until the converter ends; None where it ended without a last word."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process needs pipes")
    try:
        with process.stdin as stdin:
            json.dump(job, stdin)
    except BrokenPipeError:
        return None
    reader, mpp = "", 0.0
    for line in process.stdout:
        event = _event(line)
        match event.get("event"):
            case "opened":
                reader, mpp = str(event["reader"]), float(event["mpp"])
                report(Progress(Stage.CONVERT, 0, int(event["tiles"])))
            case "notice":
                report(Progress(Stage.CONVERT, note=str(event["message"])))
            case "progress":
                report(Progress(Stage.CONVERT, int(event["done"]), int(event["total"])))
            case "error":
                raise _told(slide, str(event["code"]), str(event["message"]))
            case "done":
                return Conversion(tuple(Path(file) for file in event["files"]), reader, mpp)
            case _:
                continue
    return None


def _told(slide: Path, code: str, message: str) -> IngestError:
    """Return the converter's error; its readers take a damaged slide for a file of another kind."""
    damage = damage_of(slide) if code == "unknown_format" else None
    return (
        IngestError(code, message) if damage is None else IngestError("unreadable", f"{slide.name} {damage}.")
    )


def _event(line: str) -> Mapping[str, Any]:
    """Read one line; libraries may print lines of their own, which are none of ours."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _died(slide: Path, code: int, stderr: IO[str]) -> IngestError:
    stderr.seek(0)
    lines = [line.strip() for line in stderr if line.strip()]
    reason = f"signal {-code}, often too little memory" if code < 0 else f"code {code}"
    last = f" ({lines[-1]})" if lines else ""
    return IngestError(
        "converter_failed", f"The converter ended with {reason} on {slide.name}{last}: is the file complete?"
    )
