# SPDX-License-Identifier: Apache-2.0
"""The figures of `make bench-gpu`, taken on the CPU: its code is tried where there is no GPU as well."""

from pathlib import Path

import pytest
import torch

from bench import bench_gpu
from clam_core.encoders import Precision


def test_an_encoder_is_timed_and_its_deviation_measured_in_each_precision(tmp_path: Path) -> None:
    weights = bench_gpu.drawn_weights("resnet50-trunc", tmp_path)
    cpu = torch.device("cpu")
    figures = bench_gpu.encoder_figures("resnet50-trunc", weights, cpu, bench_gpu.supported(cpu), 0.01, 2)
    assert figures["resnet50-trunc_float32_deviation"] == 0
    assert 1e-4 < figures["resnet50-trunc_bfloat16_deviation"] < 0.1
    assert all(rate > 0 for name, rate in figures.items() if name.endswith("per_s"))


def test_a_cpu_is_not_asked_for_float16() -> None:
    assert bench_gpu.supported(torch.device("cpu")) == [Precision.FLOAT32, Precision.BFLOAT16]


def test_without_a_gpu_it_says_that_nothing_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_gpu.main() == 2
    assert "nothing was measured" in capsys.readouterr().err
