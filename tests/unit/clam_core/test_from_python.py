# SPDX-License-Identifier: Apache-2.0
"""The lines of Python in docs/models.md do what they say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from clam_core.package import demo_package_path
from tests.support.shared_data import shared_path

ROOT = Path(__file__).resolve().parents[3]


def python_lines() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/models.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def test_the_documented_lines_analyse_a_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slide.svs").symlink_to(shared_path("slides/CMU-1-Small-Region.svs"))
    (tmp_path / "clam_core").mkdir()
    (tmp_path / "clam_core/demo_model").symlink_to(demo_package_path())
    exec(compile(python_lines(), "docs/models.md", "exec"), {})
    result = json.loads((tmp_path / "result/result.json").read_text("utf-8"))
    abstained = result["quality"]["status"] == "abstained"
    assert capsys.readouterr().out.startswith("no answer: " if abstained else result["predicted_class"])
    assert {path.name for path in (tmp_path / "result").iterdir()} >= {"result.json", *result["artifacts"]}
    hashes = (result["slide"]["fingerprint"], result["model"]["sha256"], result["model"]["encoder"]["sha256"])
    assert [len(digits) for digits in hashes] == [64, 64, 64]
    assert result["software"].keys() >= {"clam_core", "torch", "device", "encoder"}
    assert f"numpy {np.__version__}" in result["software"]["libraries"]
