# SPDX-License-Identifier: Apache-2.0
"""Model packages: a folder with ``model.json`` and weights as safetensors, or a bare checkpoint of CLAM."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.encoders import ENCODERS, Encoder, Precision, load_encoder
from clam_core.errors import EncoderWeightsError, ModelError, PackageError
from clam_core.licences import NOT_STATED, use_of
from clam_core.models import Aggregator, SlidePrediction, load_checkpoint
from clam_core.package_json import Described, Use, described
from clam_core.quality import AbstainRule, FeatureReference, Quality, assess
from clam_core.tensors import read_tensors, sha256_of

MODEL_JSON = "model.json"


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder that a model was trained with.

    Its name, and the SHA-256 of its weights ("" where any will do).
    """

    name: str
    sha256: str = ""


@dataclass(frozen=True)
class BareCheckpoint:
    """What a checkpoint without a package does not say.

    Attributes
    ----------
    encoder
        Name of the encoder that made the features it was trained on.
    patch_px
        Side of its patches, in pixels at `mpp`.
    mpp
        Micrometres a pixel that it was trained at.
    classes
        Names of its classes; ``class_0`` and so on where left empty.
    tissue_preset
        How tissue is found.
    """

    encoder: str
    patch_px: int = 256
    mpp: float = 0.5
    classes: tuple[str, ...] = ()
    tissue_preset: str = "default"


@dataclass(frozen=True)
class ModelPackage:
    """A model that can be run, its files verified.

    Attributes
    ----------
    path
        The folder, or the bare checkpoint.
    name, version
        Of the model.
    classes
        Names, in the order of the probabilities.
    patch_px, mpp
        Side of a patch in pixels, at so many micrometres a pixel.
    tissue_preset
        How tissue is found.
    sha256
        Identity of the whole: of what ``model.json`` says and of every file it names, or of a bare
        checkpoint and what was said of it.
    intended_use
        A sentence that belongs wherever a result is shown.
    use
        ``non-commercial`` where any of the licences says so, ``demonstration`` where nobody may rely on it,
        ``unknown`` where a licence is not stated.
    licences
        Of ``checkpoint``, ``encoder`` and ``data``.
    encoder
        What encodes the patches.
    temperature
        The logits are divided by it before the softmax.
    abstain
        When it does not answer.
    performance
        What was measured, as ``model.json`` tells it.
    """

    path: Path
    name: str
    version: str
    classes: tuple[str, ...]
    patch_px: int
    mpp: float
    tissue_preset: str
    sha256: str
    intended_use: str
    use: Use
    licences: Mapping[str, str]
    encoder: EncoderSpec
    temperature: float = 1.0
    abstain: AbstainRule = field(default_factory=AbstainRule)
    performance: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path = Path()
    reference: FeatureReference | None = None

    def load_encoder(
        self,
        device: torch.device | str = "cpu",
        weights: Path | None = None,
        precision: Precision = Precision.FLOAT32,
    ) -> Encoder:
        """Load the encoder that the model was trained with.

        Parameters
        ----------
        device
            Where it shall run.
        weights
            Its weights file, where the registry does not know where they lie.
        precision
            What it computes in.

        Raises
        ------
        EncoderWeightsError
            If the weights are missing, damaged, or not those of the training.
        ParameterError
            If the device does not compute in this precision.
        """
        encoder = load_encoder(
            self.encoder.name, weights=weights, device=device, compiled=True, precision=precision
        )
        if self.encoder.sha256 and encoder.sha256 != self.encoder.sha256:
            raise EncoderWeightsError(
                f"The model {self.name} was trained with other weights of {self.encoder.name} (SHA-256 "
                f"{self.encoder.sha256[:12]}... instead of {encoder.sha256[:12]}...): use those."
            )
        return encoder

    def load_aggregator(self, device: torch.device | str = "cpu") -> Aggregator:
        """Load what predicts slides, calibrated with the package's temperature.

        Raises
        ------
        CheckpointError, UnsupportedCheckpointError
            As `clam_core.models.load_checkpoint`.
        PackageError
            If the checkpoint knows another number of classes, or it or the reference of values a patch.
        """
        aggregator = load_checkpoint(self.checkpoint, device)
        if aggregator.classes != len(self.classes):
            raise PackageError(
                f"{self.path} names {len(self.classes)} classes and its checkpoint has {aggregator.classes}: "
                "correct the list of classes."
            )
        wanted = ENCODERS[self.encoder.name].dim
        if aggregator.embed_dim != wanted:
            raise PackageError(
                f"The checkpoint of {self.name} wants {aggregator.embed_dim} values a patch and the encoder "
                f"{self.encoder.name} gives {wanted}: name the encoder that it was trained with."
            )
        if self.reference is not None and self.reference.mean.size != wanted:
            raise PackageError(
                f"The reference of {self.name} describes patches of {self.reference.mean.size} values and "
                f"the encoder {self.encoder.name} gives {wanted}: have the package made again."
            )
        return _Calibrated(aggregator, self.temperature)

    def assess(self, features: NDArray[np.float32], tissue_mm2: float | None, patch_count: int) -> Quality:
        """Judge whether a prediction from features (N, D) may be trusted; see `clam_core.quality.assess`."""
        known = self.reference is not None and len(features) > 0
        distance = self.reference.distance(features) if known and self.reference else None
        return assess(self.abstain, distance, tissue_mm2, patch_count)


class _Calibrated:
    """An aggregator whose probabilities are taken at a temperature; its logits stay as they are."""

    def __init__(self, inner: Aggregator, temperature: float) -> None:
        self.embed_dim = inner.embed_dim
        self.classes = inner.classes
        self._inner = inner
        self._temperature = temperature

    def predict(self, features: NDArray[np.float32]) -> SlidePrediction:
        prediction = self._inner.predict(features)
        logits = torch.from_numpy(prediction.logits) / self._temperature
        return replace(prediction, probabilities=torch.softmax(logits, dim=0).numpy())


def demo_package_path() -> Path:
    """Return the folder of the demonstration model that comes with this package."""
    return Path(__file__).parent / "demo_model"


DEMO = "demo"
"""Names the demonstration model wherever a model is named by its path."""


def package_path(named: str) -> Path:
    """Return where a model lies that a person named: a path, or the word ``demo``."""
    return demo_package_path() if named == DEMO else Path(named).expanduser()


def load_package(path: Path, bare: BareCheckpoint | None = None) -> ModelPackage:
    """Load a model package and verify every file of it.

    Parameters
    ----------
    path
        A folder with ``model.json``, or a bare checkpoint.
    bare
        What a bare checkpoint does not say; not used for a folder.

    Returns
    -------
    ModelPackage
        Its weights are not loaded yet.

    Raises
    ------
    PackageError
        If something is missing, damaged or contradicts itself, or a bare checkpoint comes without `bare`.
    """
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise PackageError(f"There is no model at {path}: name a model package or a checkpoint.")
    if bare is None:
        read_tensors(path)  # What is no checkpoint at all is called so first.
        raise PackageError(
            f"{path} is a checkpoint without a package: say which encoder made its features (--encoder NAME; "
            "MODEL_ENCODER for a worker), or turn it into a package with clam-core convert."
        )
    return _from_checkpoint(path, bare)


@dataclass(frozen=True)
class BrokenPackage:
    """A folder that looks like a package and cannot be used."""

    path: Path
    error: ModelError


def discover_packages(folder: Path) -> list[ModelPackage | BrokenPackage]:
    """Load every package right below a folder, by name; one that is broken does not hide the others."""
    found: list[ModelPackage | BrokenPackage] = []
    for candidate in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (candidate / MODEL_JSON).is_file():
            try:
                found.append(load_package(candidate))
            except ModelError as error:
                found.append(BrokenPackage(candidate, error))
    return found


def _from_folder(folder: Path) -> ModelPackage:
    content = _read_json(folder / MODEL_JSON)
    said = described(content, folder)
    checkpoint = _verified(folder, said.checkpoint_file, said.checkpoint_sha256)
    reference = None
    if said.reference_file:
        reference = _read_reference(_verified(folder, said.reference_file, said.reference_sha256))
    _check_encoder(said, folder)
    return ModelPackage(
        path=folder,
        name=said.name,
        version=said.version,
        classes=said.classes,
        patch_px=said.patch_px,
        mpp=said.mpp,
        tissue_preset=said.tissue_preset,
        sha256=_identity(content),
        intended_use=said.intended_use,
        use=said.use,
        licences=said.licences,
        encoder=EncoderSpec(said.encoder, said.encoder_sha256),
        temperature=said.temperature,
        abstain=said.abstain,
        performance=said.performance,
        checkpoint=checkpoint,
        reference=reference,
    )


def _from_checkpoint(path: Path, bare: BareCheckpoint) -> ModelPackage:
    if bare.encoder not in ENCODERS:
        raise PackageError(
            f"There is no encoder named {bare.encoder!r}: use one of {', '.join(sorted(ENCODERS))}."
        )
    count = load_checkpoint(path).classes
    classes = bare.classes or tuple(f"class_{index}" for index in range(count))
    sha256 = _identity(asdict(replace(bare, classes=classes)) | {"checkpoint": {"sha256": sha256_of(path)}})
    licences = {"checkpoint": NOT_STATED, "encoder": ENCODERS[bare.encoder].licence, "data": NOT_STATED}
    return ModelPackage(
        path=path,
        name=path.stem,
        version=sha256[:12],
        classes=classes,
        patch_px=bare.patch_px,
        mpp=bare.mpp,
        tissue_preset=bare.tissue_preset,
        sha256=sha256,
        intended_use="A checkpoint without a model card: what it may be used for is not known here.",
        use=use_of(licences, bare.encoder),
        licences=licences,
        encoder=EncoderSpec(bare.encoder),
        checkpoint=path,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackageError(f"{path.parent} is no model package: it has no {path.name}.") from None
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} cannot be read ({error}): copy the package again.") from error
    if not isinstance(content, dict):
        raise PackageError(f"{path} does not hold a JSON object: copy the package again.")
    return content


def _identity(content: Mapping[str, Any]) -> str:
    """Hash what the JSON says, whatever its line ends: it names the SHA-256 of every other file."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _verified(folder: Path, name: str, sha256: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise PackageError(f"The model package {folder} has no file {name}: copy the package again.")
    found = sha256_of(path)
    if found != sha256:
        raise PackageError(
            f"{path} is damaged or was changed (SHA-256 {found[:12]}... instead of {sha256[:12]}...): copy "
            "the package again."
        )
    return path


def _read_reference(path: Path) -> FeatureReference:
    try:
        reference = FeatureReference.from_tensors(read_tensors(path))
    except KeyError as error:
        raise PackageError(f"{path} lacks the tensor {error}: copy the package again.") from error
    except (IndexError, TypeError) as error:
        raise PackageError(f"{path} is damaged ({error}): copy the package again.") from error
    if not reference.whole:
        raise PackageError(
            f"Nothing can be compared with {path}: it has parts that do not fit each other, or values that "
            "are no numbers. Have the model's package made again."
        )
    return reference


def _check_encoder(said: Described, folder: Path) -> None:
    if said.encoder not in ENCODERS:
        raise PackageError(
            f"The model package {folder} wants the encoder {said.encoder!r}, which is not known here "
            f"({', '.join(sorted(ENCODERS))}): install a version that knows it."
        )
