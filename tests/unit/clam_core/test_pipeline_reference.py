# SPDX-License-Identifier: Apache-2.0
"""The whole way on one slide, equal to the reference's own run (golden/e2e)."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from clam_core.heatmap import SampleMode, sample
from clam_core.model import load_model
from clam_core.options import AnalysisOptions, Reference
from clam_core.package import BareCheckpoint, load_package
from clam_core.pipeline import analyze_slide
from clam_core.slides import open_slide
from tests.support.recipe_weights import recipe_weights, with_counters
from tests.support.shared_data import shared_path

NAME = "cmu1_small_sb_small_d1024_c2"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def expected() -> Any:
    return dict(np.load(shared_path(f"golden/e2e/{NAME}.npz")))


@pytest.fixture(scope="module")
def described() -> Any:
    return json.loads(shared_path(f"golden/e2e/{NAME}.json").read_text())


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    weights = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    save_file(with_counters(recipe_weights("resnet50_trunc")), weights)
    bare = BareCheckpoint("resnet50-trunc", classes=("LUAD", "LSCC"), tissue_preset="bwh_biopsy")
    package = load_package(shared_path("golden/models/sb_small_d1024_c2.pt"), bare)
    options = AnalysisOptions(reference=Reference.HEATMAP, overlap=0.5, batch_size=32)
    with open_slide(shared_path("slides/CMU-1-Small-Region.svs")) as slide:
        return analyze_slide(slide, load_model(package, "cpu", weights), options=options)


def test_patches_are_the_same(analysis: Any, expected: Any) -> None:
    assert np.array_equal(analysis.coordinates, expected["coords"])


def test_features_are_the_same(analysis: Any, expected: Any) -> None:
    largest = np.abs(expected["features"]).max()
    assert np.abs(analysis.features - expected["features"]).max() / largest < 2e-5


def test_attention_is_the_same(analysis: Any, expected: Any) -> None:
    assert np.allclose(analysis.prediction.attention, expected["block_attention_raw"][:, 0], atol=5e-5)


def test_prediction_is_the_same(analysis: Any, described: Any) -> None:
    result = analysis.to_result()
    said = described["prediction"]
    assert result["predicted_class"] == said["Pred_0"]
    assert result["probabilities"]["LUAD"] == pytest.approx(said["p_0"], abs=1e-5)
    assert result["probabilities"]["LSCC"] == pytest.approx(said["p_1"], abs=1e-5)


def test_finer_heatmap_is_the_same_up_to_one_rank_where_scores_tie(analysis: Any, expected: Any) -> None:
    assert np.array_equal(analysis.fine.coordinates, expected["fine_coords"])
    difference = np.abs(analysis.fine.percentiles - expected["fine_percentile_scores"][:, 0])
    blocky = {tuple(corner) for corner in expected["coords"]}
    ties = np.array([tuple(corner) in blocky for corner in expected["fine_coords"]])
    assert ties.sum() == 28
    assert difference[ties].max() <= 3.334
    assert difference[~ties].max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "mode", "score_range"),
    [
        ("topk_high_attention", SampleMode.TOPK, (0, 100)),
        ("low", SampleMode.REVERSE_TOPK, (0, 100)),
        ("mid", SampleMode.RANGE_SAMPLE, (40, 60)),
    ],
)
def test_sampled_patches_are_the_same(
    kind: Any, mode: Any, score_range: Any, analysis: Any, described: Any
) -> None:
    picked = sample(analysis.percentiles, mode, 5, seed=1, score_range=score_range)
    names = [
        f"{rank}_x_{analysis.coordinates[index, 0]}_y_{analysis.coordinates[index, 1]}"
        f"_a_{analysis.percentiles[index]:.3f}.png"
        for rank, index in enumerate(picked)
    ]
    assert names == described["samples"][kind]
