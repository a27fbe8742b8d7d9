# SPDX-License-Identifier: Apache-2.0
"""``clam-core``: what a person reads where a file is not there or may not be touched."""

import errno
from pathlib import Path

import pytest

from clam_core.cli import main

TRAIN = ["train", "--classes", "a,b", "--encoder", "resnet50-trunc", "--patch-px", "256", "--mpp", "0.5",
         "--intended-use", "Tests.", "--licence-checkpoint", "MIT", "--licence-data", "MIT"]  # fmt: skip


def test_a_table_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "nope.csv"
    out = tmp_path / "out"
    assert main([*TRAIN, "--features", str(tmp_path), "--labels", str(table), "--out", str(out)]) == 2
    assert f"There is no {table}: check the path." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "/data/out may not be read or written: check its rights"),
        (errno.EROFS, "/data/out may not be read or written: check its rights"),
        (errno.ENOSPC, "The disk is full: free some"),
        (errno.EIO, "/data/out cannot be read or written (Input/output error)"),
    ],
)
def test_what_the_system_refuses_is_a_sentence_that_advises(
    number: int,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, "Input/output error", "/data/out")

    monkeypatch.setattr(Path, "mkdir", refused)
    assert main(["predict", "slide.svs", "--model", "demo", "--out", str(tmp_path / "out")]) == 2
    assert advice in capsys.readouterr().err
