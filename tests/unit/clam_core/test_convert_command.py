# SPDX-License-Identifier: Apache-2.0
"""``clam-core convert`` makes a package of any checkpoint, and never without its licences."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from clam_core.cli import main
from clam_core.errors import ParameterError
from clam_core.licences import asked_licences, use_of
from clam_core.models import load_checkpoint
from clam_core.models.clam import Clam, ClamShape
from clam_core.models.mil import MilFc
from clam_core.package import load_package
from tests.support.shared_data import shared_path

FREE = {"checkpoint": "Apache-2.0", "encoder": "BSD-3-Clause", "data": "CC BY 4.0"}


def convert(checkpoint: Path, out: Path, *more: str) -> int:
    return main(
        [
            "convert", str(checkpoint), "--out", str(out), "--classes", "a,b", "--encoder", "resnet50-trunc",
            "--patch-px", "256", "--mpp", "0.5", "--intended-use", "Tests.",
            "--licence-checkpoint", "GPL-3.0", "--licence-data", "not stated", *more,
        ]
    )  # fmt: skip


@pytest.mark.parametrize("name", ["sb_small_d1024_c2", "old_sb_small_nodrop_c2", "old_mil_fc_drop"])
def test_a_converted_checkpoint_predicts_what_it_predicted(name: str, tmp_path: Path) -> None:
    source = shared_path(f"golden/models/{name}.pt")
    assert convert(source, tmp_path / "model") == 0
    bag = np.load(shared_path("golden/models/bags.npz"))["bag_d1024_n200"]
    before = load_checkpoint(source).predict(bag)
    after = load_package(tmp_path / "model").load_aggregator().predict(bag)
    np.testing.assert_allclose(after.logits, before.logits, atol=1e-6)
    np.testing.assert_allclose(after.attention_raw, before.attention_raw, atol=1e-6)


@pytest.mark.parametrize("any_class", [False, True])
def test_both_kinds_of_mil_survive_being_packed(any_class: bool, tmp_path: Path) -> None:
    network = MilFc(1024, 2, any_class=any_class)
    save_file(network.packed(), tmp_path / "a.safetensors")
    assert convert(tmp_path / "a.safetensors", tmp_path / "model") == 0
    bag = np.random.default_rng(0).standard_normal((9, 1024)).astype(np.float32)
    before = load_checkpoint(tmp_path / "a.safetensors").predict(bag)
    np.testing.assert_allclose(
        load_package(tmp_path / "model").load_aggregator().predict(bag).logits, before.logits
    )


def test_the_card_names_the_checkpoint_and_its_licences(tmp_path: Path) -> None:
    save_file(Clam(ClamShape(1024, 2)).state_dict(), tmp_path / "mine.safetensors")
    assert convert(tmp_path / "mine.safetensors", tmp_path / "model") == 0
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "mine.safetensors" in card
    assert "GPL-3.0" in card


def test_classes_that_do_not_fit_the_checkpoint_are_found_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(Clam(ClamShape(1024, 3)).state_dict(), tmp_path / "mine.safetensors")
    assert convert(tmp_path / "mine.safetensors", tmp_path / "model") == 2
    assert f"{tmp_path / 'model'} names 2 classes" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_used_leaves_no_package_and_the_older_one_as_it_was(
    tmp_path: Path,
) -> None:
    for classes in (2, 3):
        save_file(Clam(ClamShape(1024, classes)).state_dict(), tmp_path / f"{classes}.safetensors")
    convert(tmp_path / "3.safetensors", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    convert(tmp_path / "2.safetensors", tmp_path / "older")
    before = load_package(tmp_path / "older").sha256
    convert(tmp_path / "3.safetensors", tmp_path / "older")
    assert load_package(tmp_path / "older").sha256 == before


def test_a_conversion_says_where_the_package_is_and_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(Clam(ClamShape(1024, 2)).state_dict(), tmp_path / "mine.safetensors")
    assert convert(tmp_path / "mine.safetensors", tmp_path / "model") == 0
    said = capsys.readouterr().out
    assert f"The model package model is written to {tmp_path / 'model'}." in said
    assert f"clam-core predict SLIDE --model {tmp_path / 'model'}" in said


@pytest.mark.parametrize(
    "licence",
    [
        "CC-BY-NC-4.0",
        "CC BY NC 4.0",
        "CC_BY_NC_SA",
        "non-commercial use",
        "not for commercial use",
        "Evaluation only, no commercial use",
        "Commercial use is prohibited",
        "non profit use only",
        "research use only",
        "For research purposes only",
        "Only for research",
        "academic licence",
    ],
)
@pytest.mark.parametrize("kind", ["checkpoint", "encoder", "data"])
def test_one_licence_that_forbids_commerce_decides(kind: str, licence: str) -> None:
    assert use_of(FREE | {kind: licence}, "resnet50-trunc") == "non-commercial"


@pytest.mark.parametrize("kind", ["checkpoint", "data"])
def test_a_licence_that_is_not_stated_permits_nothing(kind: str) -> None:
    assert use_of(FREE | {kind: "not stated"}, "resnet50-trunc") == "unknown"
    with pytest.raises(ParameterError, match=f"{kind} is not known"):
        use_of(FREE | {kind: "unknown"}, "resnet50-trunc", "commercial")


@pytest.mark.parametrize(
    "licence", ["internal", "proprietary", "all rights reserved", "MIT, with exceptions"]
)
def test_only_a_licence_that_is_known_permits_commercial_use_by_itself(licence: str) -> None:
    assert use_of(FREE | {"data": licence}, "resnet50-trunc") == "unknown"
    assert use_of(FREE | {"data": licence}, "resnet50-trunc", "commercial") == "commercial"


@pytest.mark.parametrize(
    "licence",
    ["MIT", "mit license", "Apache-2.0", "Apache License, Version 2.0", "BSD 3-Clause", "CC BY 4.0", "CC0"],
)
def test_a_known_licence_is_known_however_it_is_written(licence: str) -> None:
    assert use_of(FREE | {"data": licence}, "resnet50-trunc") == "commercial"


def test_a_licence_that_forbids_commerce_outweighs_one_that_is_not_stated() -> None:
    assert use_of(FREE | {"data": "not stated"}, "uni", "unknown") == "non-commercial"


def test_free_licences_permit_commercial_use() -> None:
    assert use_of(FREE, "resnet50-trunc") == "commercial"


def test_the_encoder_counts_whatever_the_user_says_of_it() -> None:
    assert use_of(FREE, "uni") == "non-commercial"


def test_a_user_may_forbid_more_and_never_less() -> None:
    assert use_of(FREE, "resnet50-trunc", "demonstration") == "demonstration"
    with pytest.raises(ParameterError, match="encoder forbids"):
        use_of(FREE, "uni", "commercial")


def test_missing_licences_are_asked_for() -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return " MIT "

    licences = asked_licences({"checkpoint": None, "encoder": "x", "data": None}, answer)
    assert licences == {"checkpoint": "MIT", "encoder": "x", "data": "MIT"}
    assert len(asked) == 2
