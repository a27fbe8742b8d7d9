# SPDX-License-Identifier: Apache-2.0
"""A model package is whole and unchanged, or it is refused with a sentence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clam_core.encoders import ENCODERS
from clam_core.errors import CheckpointError, PackageError
from clam_core.models.clam import Clam, ClamShape
from clam_core.package import (
    BareCheckpoint,
    BrokenPackage,
    ModelPackage,
    demo_package_path,
    discover_packages,
    load_package,
)
from clam_core.package_writing import write_package
from clam_core.quality import fit_reference
from clam_core.tensors import sha256_of

BARE = BareCheckpoint(encoder="efficientnet-lite0")


def description(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "small",
        "version": "2",
        "classes": ["a", "b"],
        "encoder": {"name": "efficientnet-lite0", "sha256": ENCODERS["efficientnet-lite0"].sha256},
        "patches": {"size_px": 256, "mpp": 0.5},
        "tissue": {"preset": "tcga"},
        "intended_use": "Tests.",
        "use": "demonstration",
        "licences": {"checkpoint": "x", "encoder": "y", "data": "z"},
        "calibration": {"temperature": 2.0},
        "abstain": {"min_patches": 3, "min_tissue_mm2": 0.1, "max_distance": 1.5},
    } | changes


@pytest.fixture(scope="module")
def network() -> Clam:
    torch.manual_seed(0)
    return Clam(ClamShape(1280, 2))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, network: Clam) -> Path:
    """Write the package once: describing 1,280 values takes a second."""
    folder = tmp_path_factory.mktemp("template") / "small"
    patches = np.random.default_rng(0).standard_normal((200, 1280)).astype(np.float32)
    write_package(folder, description(), network.state_dict(), "# Card\n", fit_reference(patches))
    return folder


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    return shutil.copytree(template, tmp_path / "small")


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / "model.json").read_text())
    change(content)
    (folder / "model.json").write_text(json.dumps(content))


def test_what_was_written_is_read_back(folder: Path) -> None:
    package = load_package(folder)
    assert (package.name, package.version, package.classes) == ("small", "2", ("a", "b"))
    assert (package.patch_px, package.mpp, package.tissue_preset) == (256, 0.5, "tcga")
    assert (package.use, package.intended_use) == ("demonstration", "Tests.")
    assert package.encoder.name == "efficientnet-lite0"
    assert asdict(package.abstain) == {
        "min_patches": 3,
        "min_tissue_mm2": 0.1,
        "unusual_distance": None,
        "max_distance": 1.5,
    }
    assert (folder / "MODEL_CARD.md").read_text() == "# Card\n"


def test_the_temperature_softens_probabilities_and_leaves_the_logits(folder: Path, network: Clam) -> None:
    bag = np.random.default_rng(0).standard_normal((9, 1280)).astype(np.float32)
    prediction = load_package(folder).load_aggregator().predict(bag)
    logits = network.eval()(torch.from_numpy(bag)).logits
    np.testing.assert_allclose(prediction.logits, logits.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(
        prediction.probabilities, torch.softmax(logits / 2.0, 0).detach().numpy(), atol=1e-6
    )


def test_the_identity_changes_with_the_weights_and_with_the_description(folder: Path) -> None:
    before = load_package(folder).sha256
    edit(folder, lambda content: content.update(version="3"))
    after = load_package(folder).sha256
    assert before != after
    tensors = Clam(ClamShape(1280, 2)).state_dict()
    write_package(folder, description(version="3"), tensors, "", None)
    assert load_package(folder).sha256 not in {before, after}


def test_the_identity_does_not_depend_on_line_ends(folder: Path) -> None:
    before = load_package(folder).sha256
    path = folder / "model.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_package(folder).sha256 == before


@pytest.mark.parametrize("name", ["weights.safetensors", "reference.safetensors"])
def test_a_changed_file_is_found_out(name: str, folder: Path) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(PackageError, match=f"{name} is damaged"):
        load_package(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "reference.safetensors", "model.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(PackageError, match=name):
        load_package(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": 1}'])
def test_a_description_that_is_no_description_is_refused(text: str, folder: Path) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(PackageError, match=r"model\.json"):
        load_package(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3),
        ("classes", ["a"]),
        ("classes", ["a", "a"]),
        ("patches", {"size_px": 0, "mpp": 0.5}),
        ("patches", {"size_px": 256, "mpp": -1}),
        ("patches", {"size_px": 256, "mpp": float("nan")}),
        ("patches", {"size_px": True, "mpp": 0.5}),
        ("patches", {"size_px": float("inf"), "mpp": 0.5}),
        ("patches", {"size_px": 10**400, "mpp": 0.5}),
        ("use", "anything"),
        ("licences", {"checkpoint": "x", "data": "z"}),
        ("checkpoint", {"file": "../weights.safetensors", "sha256": "0"}),
        ("checkpoint", {"file": "/etc/passwd", "sha256": "0"}),
        ("calibration", {"temperature": 0}),
        ("abstain", {"max_distance": "far"}),
    ],
)
def test_a_bad_field_is_named(field: str, value: Any, folder: Path) -> None:
    edit(folder, lambda content: content.update({field: value}))
    with pytest.raises(PackageError, match=f"{field}.* in model.json must be"):
        load_package(folder)


def test_a_newer_kind_of_package_asks_for_an_update(folder: Path) -> None:
    edit(folder, lambda content: content.update(schema=2))
    with pytest.raises(PackageError, match="update"):
        load_package(folder)


def test_an_unknown_encoder_is_named(folder: Path) -> None:
    edit(folder, lambda content: content.update(encoder={"name": "kimia-net-9", "sha256": ""}))
    with pytest.raises(PackageError, match="kimia-net-9"):
        load_package(folder)


def test_a_checkpoint_with_other_classes_than_the_description_is_refused(folder: Path) -> None:
    edit(folder, lambda content: content.update(classes=["a", "b", "c"]))
    with pytest.raises(PackageError, match="3 classes"):
        load_package(folder).load_aggregator()


def test_a_checkpoint_of_another_encoder_is_refused(folder: Path) -> None:
    edit(folder, lambda content: content.update(encoder={"name": "uni", "sha256": ""}))
    with pytest.raises(PackageError, match="1280 values"):
        load_package(folder).load_aggregator()


def test_a_folder_with_other_files_is_never_overwritten(tmp_path: Path, network: Clam) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PackageError, match="other files"):
        write_package(tmp_path, description(), network.state_dict(), "")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_description_that_would_not_be_read_is_not_written(tmp_path: Path, network: Clam) -> None:
    with pytest.raises(PackageError, match="use"):
        write_package(tmp_path / "new", description(use="maybe"), network.state_dict(), "")
    assert not (tmp_path / "new").exists()


def test_a_bare_checkpoint_is_a_model_with_plain_classes(tmp_path: Path, network: Clam) -> None:
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    package = load_package(tmp_path / "mine.safetensors", BARE)
    assert (package.name, package.classes) == ("mine", ("class_0", "class_1"))
    assert package.load_aggregator().classes == 2


@pytest.mark.parametrize(
    "said",
    [
        {"classes": ("tumour", "normal")},
        {"mpp": 0.25},
        {"patch_px": 512},
        {"tissue_preset": "tcga"},
        {"encoder": "resnet50-trunc"},
    ],
)
def test_the_identity_of_a_bare_checkpoint_changes_with_what_is_said_of_it(
    said: dict[str, Any], tmp_path: Path, network: Clam
) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(network.state_dict(), path)
    bare = replace(BARE, classes=("normal", "tumour"))
    first, other = load_package(path, bare), load_package(path, replace(bare, **said))
    assert first.sha256 != other.sha256
    assert first.version != other.version


def test_a_bare_checkpoint_is_the_same_whether_its_plain_classes_are_named_or_not(
    tmp_path: Path, network: Clam
) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(network.state_dict(), path)
    named = load_package(path, replace(BARE, classes=("class_0", "class_1")))
    assert named.sha256 == load_package(path, BARE).sha256


def test_a_bare_checkpoint_is_no_freer_than_its_encoder(tmp_path: Path) -> None:
    save_file(Clam(ClamShape(1024, 2)).state_dict(), tmp_path / "mine.safetensors")
    assert load_package(tmp_path / "mine.safetensors", BareCheckpoint(encoder="uni")).use == "non-commercial"


def test_what_a_bare_checkpoint_may_be_used_for_is_unknown(tmp_path: Path) -> None:
    save_file(Clam(ClamShape(1024, 2)).state_dict(), tmp_path / "mine.safetensors")
    bare = BareCheckpoint(encoder="resnet50-trunc")
    assert load_package(tmp_path / "mine.safetensors", bare).use == "unknown"


def test_a_bare_checkpoint_without_an_encoder_asks_for_it(tmp_path: Path, network: Clam) -> None:
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(PackageError, match=r"which encoder .*--encoder NAME; MODEL_ENCODER"):
        load_package(tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    ("content", "what_it_is"),
    [
        (b"not a model", "it is a text file"),
        (("모델" * 200).encode(), "it is a text file"),
        (b"\n<!DOCTYPE html><html><title>Log in", "it is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:77\n",
            "it is a pointer of Git LFS",
        ),
        (b"\x13\x00\xff" * 100, "it is damaged, or of another kind"),
        (b"", "it is damaged, or of another kind"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, content: bytes, what_it_is: str) -> None:
    (tmp_path / "weights.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"weights\.bin is no checkpoint: {what_it_is}"):
        load_package(tmp_path / "weights.bin")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="There is no model at"):
        load_package(tmp_path / "nothing", BARE)


@pytest.mark.parametrize("tensor", ["mean", "directions", "variances", "rest"])
@pytest.mark.parametrize(
    "change",
    [lambda values: values * float("nan"), lambda values: values.reshape(-1)[:0]],
    ids=["no number", "empty"],
)
def test_a_reference_that_gives_no_distance_is_refused(
    tensor: str, change: Callable[[torch.Tensor], torch.Tensor], folder: Path
) -> None:
    path = folder / "reference.safetensors"
    tensors = load_file(path)
    save_file(tensors | {tensor: change(tensors[tensor])}, path)
    edit(folder, lambda content: content["abstain"]["reference"].update(sha256=sha256_of(path)))
    with pytest.raises(PackageError, match=r"reference\.safetensors"):
        load_package(folder)


def test_a_reference_of_another_encoder_is_refused(folder: Path) -> None:
    package = load_package(folder)
    patches = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    with pytest.raises(PackageError, match="describes patches of 4 values"):
        replace(package, reference=fit_reference(patches, directions=2)).load_aggregator()


def test_a_broken_package_does_not_hide_the_others(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "broken")
    (folder.parent / "broken" / "weights.safetensors").unlink()
    (folder.parent / "notes").mkdir()
    broken, whole = discover_packages(folder.parent)
    assert isinstance(broken, BrokenPackage)
    assert "weights.safetensors" in str(broken.error)
    assert isinstance(whole, ModelPackage)


def test_the_demonstration_model_is_whole_and_says_what_it_is() -> None:
    package = load_package(demo_package_path())
    assert package.classes == ("normal", "oscc")
    assert package.use == "demonstration"
    assert "not for clinical use" in package.intended_use
    assert package.load_aggregator().embed_dim == package.load_encoder().dim


def test_the_demonstration_model_abstains_on_noise() -> None:
    package = load_package(demo_package_path())
    tiles = np.random.default_rng(0).integers(0, 256, (8, 112, 112, 3), dtype=np.uint8)
    quality = package.assess(package.load_encoder().encode(tiles), tissue_mm2=10.0, patch_count=8)
    assert (quality.status, quality.flags) == ("abstained", ("out_of_distribution",))
