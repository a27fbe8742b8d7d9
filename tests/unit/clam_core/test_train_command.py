# SPDX-License-Identifier: Apache-2.0
"""``clam-core train`` turns a table and features into a measured package, and goes on where it stopped."""

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from clam_core.cli import main
from clam_core.package import load_package
from clam_core.training import crossval, plots

DIM = 1024


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 18 slides of 9 patients, whose class is easy to tell."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["patient", "slide", "label"])
        for number in range(18):
            label = (number // 2) % 2
            table.writerow([f"P{number // 2}", f"s{number}", ["normal", "tumour"][label]])
            vectors = rng.standard_normal((int(rng.integers(3, 12)), DIM)).astype(np.float32)
            vectors[:, :200] += 1.5 * label
            write_features(folder / f"s{number}", vectors, h5=bool(number % 2))
    return folder


def write_features(stem: Path, vectors: np.ndarray, *, h5: bool) -> None:
    if h5:
        with h5py.File(f"{stem}.h5", "w") as file:
            file["features"] = vectors
    else:
        torch.save(torch.from_numpy(vectors), f"{stem}.pt")


def train(cohort: Path, out: Path, *more: str) -> int:
    return main(
        [
            "train", "--features", str(cohort), "--labels", str(cohort / "labels.csv"), "--out", str(out),
            "--classes", "normal,tumour", "--encoder", "resnet50-trunc", "--patch-px", "256", "--mpp", "0.5",
            "--intended-use", "Tests.", "--licence-checkpoint", "MIT", "--licence-data", "CC-BY-NC-4.0",
            "--folds", "3", "--max-epochs", "4", "--min-epochs", "1", *more,
        ]
    )  # fmt: skip


def test_a_package_comes_out_measured_and_loadable(cohort: Path, tmp_path: Path) -> None:
    assert train(cohort, tmp_path / "model") == 0
    package = load_package(tmp_path / "model")
    assert package.use == "non-commercial"
    assert len(package.performance["folds"]) == 3
    auc = package.performance["auc"]
    assert 0.8 < auc["value"] <= 1
    assert auc["low"] <= auc["value"] <= auc["high"]
    assert np.sum(package.performance["confusion"]) == 18
    assert package.load_aggregator().embed_dim == DIM
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "18 slides of 9 patients" in card
    assert "CC-BY-NC-4.0" in card


def test_a_second_run_takes_the_finished_folds_from_the_first(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(cohort, tmp_path / "model") == 0
    first = load_package(tmp_path / "model").sha256
    monkeypatch.setattr(crossval, "_run_fold", lambda *_: pytest.fail("a finished fold was trained again"))
    assert train(cohort, tmp_path / "model") == 0
    assert load_package(tmp_path / "model").sha256 == first


def test_other_settings_never_resume_from_these_folds(cohort: Path, tmp_path: Path) -> None:
    assert train(cohort, tmp_path / "model") == 0
    assert train(cohort, tmp_path / "model", "--seed", "2") == 0
    assert len(list((tmp_path / "model.work").iterdir())) == 2


def test_other_features_of_the_same_size_never_resume_from_these_folds(cohort: Path, tmp_path: Path) -> None:
    features = shutil.copytree(cohort, tmp_path / "features")
    assert train(features, tmp_path / "model") == 0
    first = load_package(tmp_path / "model").performance
    for path in features.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["features"][:] = -np.asarray(file["features"])
    assert train(features, tmp_path / "model") == 0
    assert len(list((tmp_path / "model.work").iterdir())) == 2
    assert load_package(tmp_path / "model").performance != first


def test_a_multi_branch_model_with_svm_losses_trains(cohort: Path, tmp_path: Path) -> None:
    assert (
        train(cohort, tmp_path / "model", "--aggregator", "clam_mb", "--bag-loss", "svm", "--subtyping") == 0
    )
    weights = load_package(tmp_path / "model").load_aggregator()
    features = np.zeros((3, DIM), np.float32)
    assert weights.predict(features).attention_raw.shape == (2, 3)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("patient,slide\na,s0\n", "no column 'label'"),
        ("patient,slide,label\na,s0,benign\n", "'benign', which is none of normal, tumour"),
        ("patient,slide,label\na,s99,normal\n", "no features of s99"),
        ("patient,slide,label\na,s0,normal\na,s0,normal\n", "lists s0 twice"),
        ("patient,slide,label\na,s0,normal\na,s1,tumour\n", "patient a two labels"),
        ("patient,slide,label\n", "lists no slides"),
        ("patient,slide,label\na,s0,normal\nb,s1,tumour\n", "fewer than the 3 folds"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused(
    rows: str, sentence: str, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(rows)
    assert train(cohort, tmp_path / "model", "--labels", str(table)) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_plots_lie_beside_the_card_that_shows_them(cohort: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[train]'")
    assert train(cohort, tmp_path / "model", "--max-epochs", "1") == 0
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    for name in ("roc.png", "confusion.png"):
        assert f"({name})" in card
        assert (tmp_path / "model" / name).read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_sentence_says_how_to_get_plots(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    assert train(cohort, tmp_path / "model", "--max-epochs", "1") == 0
    assert "pip install '.[train]'" in capsys.readouterr().out
    assert not (tmp_path / "model" / "roc.png").exists()


def test_a_licence_that_nobody_states_is_asked_for(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(cohort, tmp_path / "model", "--licence-data", "") == 2
    assert "--licence-data" in capsys.readouterr().err


def test_results_are_the_same_from_json_as_from_memory(cohort: Path, tmp_path: Path) -> None:
    assert train(cohort, tmp_path / "a") == 0
    assert train(cohort, tmp_path / "b", "--name", "a") == 0
    first, second = (json.loads((tmp_path / name / "model.json").read_text()) for name in "ab")
    assert first == second
