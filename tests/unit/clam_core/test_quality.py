# SPDX-License-Identifier: Apache-2.0
"""A model abstains where it has too little, or something it does not know, and says so."""

import numpy as np
import pytest

from clam_core.quality import AbstainRule, FeatureReference, assess, fit_reference

RULE = AbstainRule(min_patches=4, min_tissue_mm2=0.1, unusual_distance=1.2, max_distance=1.5)


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((3000, 20)) * np.linspace(0.1, 3, 20) + 5).astype(np.float32)


def test_enough_known_tissue_is_ok() -> None:
    quality = assess(RULE, 1.0, 2.0, 100)
    assert (quality.status, quality.flags, quality.reason) == ("ok", (), "")


def test_what_is_not_known_is_not_held_against_the_slide() -> None:
    assert assess(RULE, None, None, 4).status == "ok"


@pytest.mark.parametrize(
    ("distance", "tissue", "patches", "status", "flag"),
    [
        (1.0, 2.0, 3, "abstained", "few_patches"),
        (1.0, 0.05, 9, "abstained", "little_tissue"),
        (1.6, 2.0, 9, "abstained", "out_of_distribution"),
        (1.3, 2.0, 9, "limited", "unusual_features"),
    ],
)
def test_each_reason_has_its_flag_and_a_sentence(
    distance: float, tissue: float, patches: int, status: str, flag: str
) -> None:
    quality = assess(RULE, distance, tissue, patches)
    assert (quality.status, quality.flags) == (status, (flag,))
    assert quality.reason.endswith(".")


def test_all_reasons_are_named_and_the_gravest_decides() -> None:
    quality = assess(RULE, 1.3, 0.05, 2)
    assert quality.status == "abstained"
    assert quality.flags == ("few_patches", "little_tissue", "unusual_features")


@pytest.mark.parametrize("rule", [RULE, AbstainRule(unusual_distance=1.2)])
def test_a_distance_that_is_no_number_is_no_reason_to_answer(rule: AbstainRule) -> None:
    quality = assess(rule, float("nan"), 2.0, 100)
    assert (quality.status, quality.flags) == ("abstained", ("out_of_distribution",))
    assert "no number" in quality.reason


def test_patches_that_do_not_vary_in_the_training_have_a_distance_that_is_a_number() -> None:
    same = np.ones((300, 20), dtype=np.float32)
    reference = fit_reference(same, directions=5)
    assert reference.whole
    assert np.isfinite(reference.distance(same + np.float32(1.0)))


def test_patches_of_the_training_are_about_1_away(patches: np.ndarray) -> None:
    assert fit_reference(patches, directions=5).distance(patches) == pytest.approx(1.0, abs=0.1)


def test_with_all_but_one_direction_the_distance_is_mahalanobis(patches: np.ndarray) -> None:
    probe = patches[:9] + np.float32(1.0)
    centred = probe.astype(np.float64) - patches.mean(axis=0, dtype=np.float64)
    inverse = np.linalg.inv(np.cov(patches.astype(np.float64).T))
    wanted = np.median(np.sqrt(np.einsum("nd,de,ne->n", centred, inverse, centred) / 20))
    assert fit_reference(patches, directions=19).distance(probe) == pytest.approx(wanted, rel=1e-3)


def test_other_patches_are_further_away(patches: np.ndarray) -> None:
    reference = fit_reference(patches, directions=5)
    assert reference.distance(patches + np.float32(4.0)) > 2 * reference.distance(patches)


def test_a_reference_survives_its_file(patches: np.ndarray) -> None:
    reference = fit_reference(patches, directions=5)
    assert FeatureReference.from_tensors(reference.tensors()).distance(patches) == reference.distance(patches)
