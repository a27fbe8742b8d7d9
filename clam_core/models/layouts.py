# SPDX-License-Identifier: Apache-2.0
"""The layouts in which checkpoints of CLAM and MIL_fc are found, brought to one.

The architecture is never asked for: class, width, number of classes, gating and embedding size are all read
from the shapes of the tensors.
"""

import re

import torch

from clam_core.errors import UnsupportedCheckpointError
from clam_core.models.clam import Clam, ClamShape
from clam_core.models.mil import MilFc

Tensors = dict[str, torch.Tensor]

GATED_ROWS = "attention_net.3.attention_c.weight"
UNGATED_ROWS = "attention_net.3.module.3.weight"

_RENAMES = (
    (re.compile(r"^module\."), ""),
    (re.compile(r"^attention_net\.module\."), "attention_net."),
    # Without dropout the older models had one layer less before the attention, and one less inside it.
    (re.compile(r"^attention_net\.2\."), "attention_net.3."),
    (re.compile(r"^attention_net\.3\.module\.2\."), "attention_net.3.module.3."),
)


def recognises_clam(tensors: Tensors) -> bool:
    """Tell whether a state dict, in any layout, is one of CLAM_SB or CLAM_MB."""
    return any("attention_net." in key for key in tensors)


def build_clam(tensors: Tensors) -> Clam:
    """Make the CLAM that a state dict describes, and fill it.

    Raises
    ------
    UnsupportedCheckpointError
        If it is of no layout that is known, or a multi-branch model of April 2024.
    KeyError, RuntimeError, ValueError
        If tensors are missing, left over or of other shapes.
    """
    current = {_renamed(key): value for key, value in tensors.items() if "instance_loss_fn" not in key}
    network = Clam(_clam_shape(current))
    network.load_state_dict(current)
    return network


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def _clam_shape(tensors: Tensors) -> ClamShape:
    gated = GATED_ROWS in tensors
    rows_key = GATED_ROWS if gated else UNGATED_ROWS
    if rows_key not in tensors or "attention_net.0.weight" not in tensors:
        raise UnsupportedCheckpointError(
            "The checkpoint has an attention network of a layout that is not known: its tensors are "
            f"{', '.join(sorted(tensors)[:4])} and so on. Convert it to CLAM's own names."
        )
    rows, width = tensors[rows_key].shape
    multi_branch = "classifiers.0.weight" in tensors
    _refuse_broken_multi_branch(rows, multi_branch=multi_branch)
    classes = rows if multi_branch else _rows(tensors, "classifiers.weight")
    return ClamShape(tensors["attention_net.0.weight"].shape[1], classes, multi_branch, gated, width)


def _refuse_broken_multi_branch(rows: int, *, multi_branch: bool) -> None:
    if rows > 1 and not multi_branch:
        raise UnsupportedCheckpointError(
            "The checkpoint was made by CLAM between 6 and 11 April 2024, when a mistake gave CLAM_MB one "
            "linear layer for all classes and so several logits for each: it cannot be used. Train the model "
            "again with a later version."
        )


def recognises_mil(tensors: Tensors) -> bool:
    """Tell whether a state dict, in any layout, is one of MIL_fc or MIL_fc_mc."""
    return not recognises_clam(tensors) and any(
        key.startswith(("classifier.", "classifiers.")) for key in tensors
    )


def build_mil(tensors: Tensors) -> MilFc:
    """Make the MIL_fc or MIL_fc_mc that a state dict describes, and fill it.

    Raises
    ------
    UnsupportedCheckpointError
        If it is not whole.
    KeyError, RuntimeError, ValueError
        If tensors are missing, left over or of other shapes.
    """
    any_class = any(key.startswith("classifiers.") for key in tensors)
    current = _stacked_classes(tensors) if any_class else _split_classifier(tensors)
    classes = _rows(current, "classifier.weight")
    if "fc.0.weight" not in current:
        raise UnsupportedCheckpointError(
            "The checkpoint has a classifier without the layer before it: name a whole checkpoint of MIL_fc."
        )
    network = MilFc(current["fc.0.weight"].shape[1], classes, any_class=any_class)
    network.load_state_dict(current)
    return network


def _split_classifier(tensors: Tensors) -> Tensors:
    """Older MIL_fc kept both layers in one sequence.

    ``classifier.0``, and ``.3`` (``.2`` without dropout).
    """
    names = {"classifier.0": "fc.0", "classifier.3": "classifier", "classifier.2": "classifier"}
    return {_with_prefix(key, names): value for key, value in tensors.items()}


def _with_prefix(key: str, names: dict[str, str]) -> str:
    prefix, _, last = key.rpartition(".")
    return f"{names.get(prefix, prefix)}.{last}"


def _stacked_classes(tensors: Tensors) -> Tensors:
    """Older MIL_fc_mc had one linear layer for each class; the newer one's rows are the same vectors."""
    current = {key: value for key, value in tensors.items() if not key.startswith("classifiers.")}
    for part in ("weight", "bias"):
        if f"classifiers.{part}" in tensors:
            current[f"classifier.{part}"] = tensors[f"classifiers.{part}"]
        else:
            count = sum(1 for key in tensors if re.fullmatch(rf"classifiers\.\d+\.{part}", key))
            rows = [tensors[f"classifiers.{index}.{part}"] for index in range(count)]
            if rows:
                current[f"classifier.{part}"] = torch.cat(rows)
    return current


def _rows(tensors: Tensors, key: str) -> int:
    if key not in tensors:
        raise UnsupportedCheckpointError(
            f"The checkpoint has no tensor {key}: it is neither of CLAM nor of MIL_fc, or not whole."
        )
    return int(tensors[key].shape[0])
