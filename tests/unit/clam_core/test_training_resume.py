# SPDX-License-Identifier: Apache-2.0
"""A training that was stopped at any epoch ends as one that was not; every aggregator trains on any bag."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clam_core.errors import CheckpointError
from clam_core.models.loading import network_from
from clam_core.models.prediction import AggregatorNetwork
from clam_core.models.untrained import UNTRAINED, Blueprint
from clam_core.training.crossval import FoldResult
from clam_core.training.engine import FixedBag, TrainingSettings, fit
from clam_core.training.plots import drawn, roc_curve
from clam_core.training.state import Epoch

SETTINGS = TrainingSettings(max_epochs=4, min_epochs=1, patience=4)


class PulledPlugError(Exception):
    """The machine went off."""


def bags(seed: int) -> list[FixedBag]:
    rng = np.random.default_rng(seed)
    return [FixedBag(n % 2, rng.standard_normal((5, 8)).astype(np.float32) + n % 2) for n in range(4)]


def network(kind: str, classes: int = 2) -> AggregatorNetwork:
    torch.manual_seed(1)
    return Blueprint(kind, 8, classes, dropout=0.25).network()


def stop_after(number: int) -> Callable[[Epoch], None]:
    def report(epoch: Epoch) -> None:
        if epoch.number == number:
            raise PulledPlugError

    return report


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_stopped_training_ends_with_the_weights_of_one_that_was_not(optimiser: str, tmp_path: Path) -> None:
    settings = TrainingSettings(max_epochs=4, min_epochs=1, patience=4, optimiser=optimiser)
    whole, again = network("clam_sb"), network("clam_sb")
    wanted = fit(whole, bags(0), bags(1), settings)
    with pytest.raises(PulledPlugError):
        fit(network("clam_sb"), bags(0), bags(1), settings, stop_after(2), tmp_path / "fold")
    assert fit(again, bags(0), bags(1), settings, keep=tmp_path / "fold") == wanted
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    first = network("abmil")
    fit(first, bags(0), [], SETTINGS, keep=tmp_path / "final")
    second = network("abmil")
    fit(second, bags(0), [], SETTINGS, lambda _: pytest.fail("an epoch was run"), tmp_path / "final")
    assert torch.equal(second.state_dict()["abmil.value.weight"], first.state_dict()["abmil.value.weight"])


def test_a_damaged_state_says_which_file_to_delete(tmp_path: Path) -> None:
    (tmp_path / "fold").write_bytes(b"x" * 40)
    with pytest.raises(CheckpointError, match=r"fold is damaged .* delete it"):
        fit(network("clam_sb"), bags(0), [], SETTINGS, keep=tmp_path / "fold")


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", UNTRAINED)
def test_every_aggregator_trains_and_is_recognised_by_its_tensors(kind: str, classes: int) -> None:
    trained = network(kind, classes)
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    fit(trained, bags(0), [], TrainingSettings(max_epochs=1))
    assert any(not torch.equal(before[key], value) for key, value in trained.state_dict().items())
    loaded = network_from(trained.packed(), Path("w"))
    features = torch.from_numpy(bags(2)[0].vectors)
    trained.eval()
    np.testing.assert_allclose(
        loaded.eval().predict(features).logits, trained.predict(features).logits, atol=1e-6
    )


def test_the_roc_curve_of_ties_is_one_step() -> None:
    wrong, right = roc_curve(np.array([True, False, True, False]), np.array([0.9, 0.5, 0.5, 0.1]))
    assert wrong.tolist() == [0, 0, 0.5, 1]
    assert right.tolist() == [0, 0.5, 1, 1]


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c"]])
def test_plots_are_drawn(classes: list[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[train]'")
    labels = np.arange(6) % len(classes)
    logits = np.random.default_rng(0).standard_normal((6, len(classes))).astype(np.float32)
    pictures = drawn([FoldResult(0, 1, tuple("abcdef"), labels, logits)], classes)
    assert set(pictures) == {"roc.png", "confusion.png"}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
