# SPDX-License-Identifier: Apache-2.0
"""``clam-core convert``: a checkpoint of CLAM becomes a model package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from clam_core.arguments import micrometres
from clam_core.encoders import ENCODERS
from clam_core.licences import asked_licences, use_of
from clam_core.models.loading import network_from
from clam_core.package_json import USES
from clam_core.package_writing import write_package
from clam_core.tensors import read_tensors, sha256_of
from clam_core.tissue import PRESETS

CARD = """# Model card: {name}, version {version}

**{intended_use}**

Converted from `{file}` (SHA-256 `{sha256}`), a {kind} with {classes} classes on features of {encoder}.
Nothing was
measured here: what it is worth is for those to say who trained it.

| | licence |
|---|---|
| checkpoint | {checkpoint} |
| encoder | {encoder_licence} |
| data | {data} |

Use: {use}.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to an argparse subparsers action."""
    parser = subparsers.add_parser(
        "convert",
        help="turn a checkpoint into a model package",
        description="Turn a checkpoint of CLAM, MIL_fc or ABMIL into a model package.",
    )
    parser.add_argument("checkpoint", type=Path, help="torch file or safetensors, in any layout of CLAM")
    add_package_arguments(parser)
    parser.set_defaults(run=run)


def add_package_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every package has to say, whether it is converted or trained."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the package")
    parser.add_argument("--name", help="of the model (default: the name of the folder)")
    parser.add_argument("--model-version", default="1", help="(default: 1)")
    parser.add_argument("--classes", required=True, help="names, separated by commas, in the model's order")
    parser.add_argument("--encoder", choices=sorted(ENCODERS), required=True, help="that made the features")
    parser.add_argument("--encoder-weights", type=Path, help="weights file: binds the package to it")
    parser.add_argument("--patch-px", type=int, required=True, help="side of a patch, in pixels")
    parser.add_argument("--mpp", type=micrometres, required=True, help="micrometres per pixel of the patches")
    parser.add_argument("--tissue-preset", choices=list(PRESETS), default="default")
    parser.add_argument("--intended-use", required=True, help="a sentence that every result shows")
    parser.add_argument("--use", choices=list(USES), help="(default: what the licences permit)")
    parser.add_argument("--licence-checkpoint", help="for example CC-BY-NC-4.0; asked for if left out")
    parser.add_argument("--licence-encoder", help="(default: as known for the encoder)")
    parser.add_argument("--licence-data", help="of what it was trained on; asked for if left out")


def package_description(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make ``model.json`` of the arguments that `add_package_arguments` added, without files and figures.

    Raises
    ------
    ParameterError
        If a licence is missing, or forbids the use that is asked for.
    """
    licences = asked_licences(
        {
            "checkpoint": arguments.licence_checkpoint,
            "encoder": arguments.licence_encoder or ENCODERS[arguments.encoder].licence,
            "data": arguments.licence_data,
        }
    )
    return {
        "schema": 1,
        "name": arguments.name or arguments.out.name,
        "version": arguments.model_version,
        "classes": [name.strip() for name in arguments.classes.split(",")],
        "encoder": {"name": arguments.encoder, "sha256": _encoder_sha256(arguments)},
        "patches": {"size_px": arguments.patch_px, "mpp": arguments.mpp},
        "tissue": {"preset": arguments.tissue_preset},
        "intended_use": arguments.intended_use,
        "use": use_of(licences, arguments.encoder, arguments.use),
        "licences": licences,
    }


def _encoder_sha256(arguments: argparse.Namespace) -> str:
    if arguments.encoder_weights is not None:
        return sha256_of(arguments.encoder_weights)
    return ENCODERS[arguments.encoder].sha256 or ""


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say where the package is and what it is for."""
    tensors = read_tensors(arguments.checkpoint)
    network = network_from(tensors, arguments.checkpoint)
    description = package_description(arguments)
    licences = description["licences"]
    card = CARD.format(
        name=description["name"],
        version=description["version"],
        intended_use=description["intended_use"],
        file=arguments.checkpoint.name,
        sha256=sha256_of(arguments.checkpoint),
        kind=type(network).__name__,
        classes=network.classes,
        encoder=arguments.encoder,
        checkpoint=licences["checkpoint"],
        encoder_licence=licences["encoder"],
        data=licences["data"],
        use=description["use"],
    )
    # In today's layout, whatever the checkpoint's was.
    write_package(arguments.out, description, network.packed(), card)
    out = arguments.out
    print(  # noqa: T201 - this is the command's answer
        f"The model package {description['name']} is written to {out}. Try it: "
        f"clam-core predict SLIDE --model {out} --out FOLDER; offer it: MODEL_PATH={out} in a worker's .env."
    )
    return 0
