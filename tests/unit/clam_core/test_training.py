# SPDX-License-Identifier: Apache-2.0
"""Training follows the reference step by step; splits keep patients together."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clam_core.errors import ParameterError
from clam_core.models.clam import Clam, ClamShape
from clam_core.training.engine import (
    FixedBag,
    TrainingSettings,
    bag_logits,
    fit,
    make_optimiser,
    sampling_order,
    train_step,
)
from clam_core.training.losses import LossKind, instance_branch, smooth_top1_svm
from clam_core.training.splits import fold_split, patient_folds, reference_splits
from tests.support.shared_data import shared_path

RUNS = ["sb_c2_ce", "sb_c2_svm", "mb_c3_sub_svm", "mb_c3_sub_ce_svmbag_sgd"]


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, Any], Any]:
    folder = shared_path("golden/train")
    torch.tanh(torch.zeros(1))
    return json.loads((folder / "train.json").read_text()), np.load(folder / "train_bags.npz")


def initialised(run: dict[str, Any]) -> Clam:
    """Make the network of a golden run with the weights of its recipe."""
    network = Clam(ClamShape(run["embed_dim"], run["n_classes"], multi_branch=run["cls"] == "CLAM_MB"))
    seed = int(run["init"].partition("RandomState(")[2].partition(")")[0])
    random = np.random.RandomState(seed)
    tensors = network.state_dict()
    for key in sorted(tensors):
        shape = tuple(tensors[key].shape)
        values = (
            random.standard_normal(shape) / np.sqrt(shape[-1])
            if len(shape) == 2
            else random.uniform(-0.1, 0.1, shape)
        )
        tensors[key] = torch.from_numpy(values.astype(np.float32))
    network.load_state_dict(tensors)
    return network


def settings_of(run: dict[str, Any]) -> TrainingSettings:
    return TrainingSettings(
        learning_rate=run["lr"],
        weight_decay=run["reg"],
        bag_weight=run["bag_weight"],
        bag_loss=LossKind(run["bag_loss"]),
        instance_loss=LossKind(run["inst_loss"]),
        subtyping=run["subtyping"],
        optimiser=run["opt"],
        dropout=0.0,
    )


@pytest.mark.parametrize("name", RUNS)
def test_every_step_of_a_run_equals_the_reference(name: str, golden: Any) -> None:
    described, bags = golden
    run = described[name]
    network, settings = initialised(run), settings_of(run)
    optimiser = make_optimiser(network, settings)
    network.train()
    for number, wanted in enumerate(run["steps"]):
        index = number % 6
        step = train_step(network, optimiser, bags[f"{name}/bag{index}"], run["labels"][index], settings)
        assert step.bag_loss == pytest.approx(wanted["bag_loss"], abs=1e-5)
        np.testing.assert_allclose(step.logits, wanted["logits"], atol=1e-5)
    assert_final(network, settings, run, [bags[f"{name}/bag{index}"] for index in range(6)])


def assert_final(
    network: Clam, settings: TrainingSettings, run: dict[str, Any], bags: list[np.ndarray]
) -> None:
    network.eval()
    for bag, label, wanted in zip(bags, run["labels"], run["final_eval"], strict=True):
        out = network(torch.from_numpy(bag))
        np.testing.assert_allclose(out.logits.detach().numpy(), wanted["logits"], atol=1e-5)
        branch = instance_branch(network, out, label, settings.instance_loss, subtyping=settings.subtyping)
        assert branch.loss.item() == pytest.approx(wanted["instance_loss"], abs=1e-5)
    tensors = network.state_dict()
    for key, (total, absolute) in run["final_param_sums"].items():
        # Its gradient is rounding noise, because a softmax does not change when all its inputs do.
        if key in tensors and not (run["opt"] == "adam" and key.endswith("attention_c.bias")):
            values = tensors[key].double()
            assert values.abs().sum().item() == pytest.approx(absolute, rel=1e-7)
            assert values.sum().item() == pytest.approx(total, abs=1e-7 * absolute)


@pytest.mark.parametrize("kind", ["ce", "svm"])
@pytest.mark.parametrize("subtyping", [0, 1])
@pytest.mark.parametrize("name", ["sb_small_d1024_c2", "mb_small_d512_c3", "sb_ungated_d512_c2"])
def test_the_instance_branch_equals_the_reference(name: str, subtyping: int, kind: str) -> None:
    from clam_core.models.layouts import build_clam
    from clam_core.tensors import read_tensors

    folder = shared_path("golden/models")
    index = json.loads((folder / "index.json").read_text())[name]
    network = build_clam(read_tensors(folder / f"{name}.pt")).eval()
    out = network(torch.from_numpy(np.load(folder / "bags.npz")[index["bag"]]))
    for label in range(network.classes):
        wanted = index["instance_eval"][f"sub{subtyping}_label{label}_{kind}"]
        found = instance_branch(network, out, label, LossKind(kind), subtyping=bool(subtyping))
        assert found.loss.item() == pytest.approx(wanted["instance_loss"], abs=1e-5)
        assert found.targets.tolist() == wanted["inst_labels"]
        assert found.predictions.tolist() == wanted["inst_preds"]


def test_the_smooth_svm_equals_the_reference_near_and_far_from_the_margin(golden: Any) -> None:
    wanted = golden[0]["smooth_top1_svm"]
    scores, labels = torch.tensor(wanted["x"]), torch.tensor(wanted["y"])
    assert smooth_top1_svm(scores, labels).item() == pytest.approx(wanted["loss"], abs=1e-5)
    far = smooth_top1_svm(scores * wanted["x_large_scale"], labels).item()
    assert far == pytest.approx(wanted["loss_large"], rel=1e-6)


@pytest.mark.parametrize("fraction", ["1.0", "0.5"])
def test_splits_equal_the_reference(fraction: str, golden: Any) -> None:
    splits = reference_splits(
        [range(37), range(37, 60), range(60, 100)],
        (4, 2, 4),
        (4, 2, 4),
        count=3,
        seed=1,
        label_fraction=float(fraction),
    )
    found = [[list(split.training), list(split.validation), list(split.test)] for split in splits]
    assert found == golden[0]["generate_split"][fraction]


@pytest.mark.parametrize("patches", [1, 3, 7, 8, 15])
def test_bags_with_few_patches_train(patches: int) -> None:
    network = Clam(ClamShape(16, 2))
    settings = TrainingSettings()
    features = np.random.default_rng(0).standard_normal((patches, 16)).astype(np.float32)
    step = train_step(network, make_optimiser(network, settings), features, 1, settings)
    assert np.isfinite([step.bag_loss, step.instance_loss]).all()


def toy_bags(seed: int, count: int = 24) -> list[FixedBag]:
    """Bags whose class is told by a few of their patches."""
    rng = np.random.default_rng(seed)
    bags = []
    for number in range(count):
        vectors = rng.standard_normal((20, 16)).astype(np.float32)
        vectors[:5, 0] += 4.0 * (number % 2)
        bags.append(FixedBag(number % 2, vectors))
    return bags


def test_training_learns_what_can_be_learnt() -> None:
    torch.manual_seed(0)
    network = Clam(ClamShape(16, 2), dropout=0.25)
    fit(network, toy_bags(0), [], TrainingSettings(max_epochs=15))
    held_out = toy_bags(1)
    assert (bag_logits(network, held_out).argmax(axis=1) == [bag.label for bag in held_out]).all()


def test_the_same_seed_gives_the_same_model() -> None:
    def once() -> np.ndarray:
        torch.manual_seed(3)
        network = Clam(ClamShape(16, 2), dropout=0.25)
        fit(network, toy_bags(0), [], TrainingSettings(max_epochs=2, seed=3))
        return bag_logits(network, toy_bags(1))

    np.testing.assert_array_equal(once(), once())


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best() -> None:
    torch.manual_seed(0)
    network = Clam(ClamShape(16, 2), dropout=0.25)
    contradicting = [FixedBag(1 - bag.label, bag.vectors) for bag in toy_bags(0)]
    settings = TrainingSettings(learning_rate=1e-3, max_epochs=40, min_epochs=3, patience=2)
    epochs = fit(network, toy_bags(0), contradicting, settings)
    losses = [epoch.validation for epoch in epochs if epoch.validation is not None]
    assert len(losses) == len(epochs) < 40
    assert losses.index(min(losses)) == len(losses) - 1 - settings.patience or len(losses) == 4


def test_weighted_sampling_balances_the_classes() -> None:
    order = sampling_order([0] * 900 + [1] * 100, np.random.default_rng(0), weighted=True)
    assert 0.4 < (order >= 900).mean() < 0.6


def test_unweighted_sampling_takes_every_bag_once() -> None:
    order = sampling_order([0, 1, 1, 0], np.random.default_rng(0), weighted=False)
    assert sorted(order.tolist()) == [0, 1, 2, 3]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), min_size=1, max_size=60),
    st.integers(2, 5),
    st.integers(0, 5),
)
def test_no_patient_is_in_two_parts_of_a_split(slides: list[tuple[int, int]], folds: int, seed: int) -> None:
    labels = {f"p{patient}": patient % 2 for patient, _ in slides}
    labels |= {f"extra{number}": number % 2 for number in range(2 * folds)}
    patients = [f"p{patient}" for patient, count in slides for _ in range(count)] + sorted(labels)
    dealt = patient_folds(labels, folds, seed)
    for fold in range(folds):
        split = fold_split(dealt, patients, fold)
        parts = [
            {patients[index] for index in part} for part in (split.training, split.validation, split.test)
        ]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert sum(map(len, (split.training, split.validation, split.test))) == len(patients)


@given(st.integers(10, 60), st.integers(10, 60), st.integers(2, 5))
def test_folds_hold_each_class_evenly(zeros: int, ones: int, folds: int) -> None:
    labels = {f"a{number}": 0 for number in range(zeros)} | {f"b{number}": 1 for number in range(ones)}
    dealt = patient_folds(labels, folds, seed=0)
    for label in (0, 1):
        sizes = np.bincount(
            [dealt[patient] for patient in labels if labels[patient] == label], minlength=folds
        )
        assert sizes.max() - sizes.min() <= 1


def test_a_class_with_fewer_patients_than_folds_is_refused() -> None:
    with pytest.raises(ParameterError, match="fewer than the 3 folds"):
        patient_folds({"a": 0, "b": 0, "c": 0, "d": 1}, 3, seed=0)
