# SPDX-License-Identifier: Apache-2.0
"""Writing a model package: weights, description and card appear together or not at all."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from clam_core.errors import PackageError
from clam_core.package import load_package
from clam_core.package_json import described
from clam_core.quality import FeatureReference
from clam_core.tensors import sha256_of

WEIGHTS = "weights.safetensors"
REFERENCE = "reference.safetensors"
CARD = "MODEL_CARD.md"


def write_package(
    folder: Path,
    description: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    card: str,
    reference: FeatureReference | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model package.

    Parameters
    ----------
    folder
        Must not exist, or be an older package, which is replaced.
    description
        ``model.json`` without the names and SHA-256 of the files, which are filled in here.
    weights
        State dict of the aggregator.
    card
        Text of the model card, in Markdown.
    reference
        The patches of the training, for the rule to abstain.
    pictures
        Files that the card shows, by name.

    Raises
    ------
    PackageError
        If the folder holds something that is not a package, the description is not whole, or weights and
        description do not fit each other; the folder is as it was then.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "model.json").is_file():
        raise PackageError(f"{folder} holds other files: name a new folder for the model package.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch) / folder.name
        new.mkdir()
        content = _with_files(description, new, weights, reference)
        described(content, folder)
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (new / "model.json").write_text(text, encoding="utf-8", newline="\n")
        (new / CARD).write_text(card, encoding="utf-8", newline="\n")
        for name, picture in (pictures or {}).items():
            (new / name).write_bytes(picture)
        # Loaded once, so that nothing that cannot be used takes the place of a package.
        replace(load_package(new), path=folder).load_aggregator()
        if folder.exists():
            shutil.rmtree(folder)
        new.replace(folder)


def _with_files(
    description: Mapping[str, Any],
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    reference: FeatureReference | None,
) -> dict[str, Any]:
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / WEIGHTS)
    _for_everybody(folder / WEIGHTS)
    content = {**description, "checkpoint": {"file": WEIGHTS, "sha256": sha256_of(folder / WEIGHTS)}}
    if reference is not None:
        save_file(reference.tensors(), folder / REFERENCE)
        _for_everybody(folder / REFERENCE)
        named = {"file": REFERENCE, "sha256": sha256_of(folder / REFERENCE)}
        content["abstain"] = {**content.get("abstain", {}), "reference": named}
    return content


def _for_everybody(path: Path) -> None:
    """Let the worker's user read what another user wrote: safetensors writes for its owner alone."""
    path.chmod(0o644)
