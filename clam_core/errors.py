# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a slide and a prediction.

ClamCoreError
├── SlideError                     the slide cannot be opened or read
│   ├── NoVolumeError              only a label, an overview or a thumbnail, no slide
│   ├── OpticalPathsError          the slide was scanned in several optical paths
│   ├── FocalPlanesError           the slide was scanned in several focal planes
│   ├── PyramidsError              the series holds several slides
│   ├── FramesMissingError         tiles of the slide are stored nowhere
│   ├── MissingMppError            nobody says how large a pixel is
│   └── MppMismatchError           the pixels are far larger than those the model was trained on
├── NoTissueError                  nothing on the glass, or nothing large enough for one patch
├── ModelError                     what predicts cannot be used
│   ├── CheckpointError            the checkpoint is missing or damaged
│   ├── UnsupportedCheckpointError the checkpoint is of a kind that is not read, on purpose
│   ├── EncoderWeightsError        the encoder's weights are missing, damaged or of another encoder
│   └── PackageError               the model package is incomplete or contradicts itself
├── ParameterError                 a parameter of the analysis has a bad value
├── OutOfMemoryError               not even the smallest batch fits into the device's memory
├── NonFiniteError                 the model produced NaN or infinity
└── AnalysisStopped                the caller asked for it
"""

from typing import ClassVar


class ClamCoreError(Exception):
    """Root of everything this package raises on purpose.

    ``str(error)`` is one sentence that tells the user what to do; `code` is its stable name for machines.
    """

    code: ClassVar[str] = "clam_core_error"


class SlideError(ClamCoreError):
    """The slide cannot be opened, or a region of it cannot be read."""

    code = "slide_unreadable"


class NoVolumeError(SlideError):
    """The series holds labels, overviews or thumbnails, and no image of the whole slide."""

    code = "no_volume"


class OpticalPathsError(SlideError):
    """There are several optical paths: which one to analyse is not guessed."""

    code = "several_optical_paths"


class FocalPlanesError(SlideError):
    """There are several focal planes: which one to analyse is not guessed."""

    code = "several_focal_planes"


class PyramidsError(SlideError):
    """There are several pyramids in one series: which one to analyse is not guessed."""

    code = "several_pyramids"


class FramesMissingError(SlideError):
    """Tiles are stored nowhere: what is missing would show as empty glass, or as something else."""

    code = "frames_missing"


class MissingMppError(SlideError):
    """Neither the slide nor the user says how large a pixel is, in micrometres."""

    code = "mpp_missing"


class MppMismatchError(SlideError):
    """The slide is too coarse for the model."""

    code = "mpp_too_coarse"


class NoTissueError(ClamCoreError):
    """There is no tissue on the slide, or none large enough for one patch."""

    code = "no_tissue"


class ModelError(ClamCoreError):
    """A checkpoint, an encoder or a package cannot be used."""

    code = "model_unusable"


class CheckpointError(ModelError):
    """The checkpoint is missing or damaged."""

    code = "checkpoint_unreadable"


class UnsupportedCheckpointError(ModelError):
    """The checkpoint can be read, and is refused for a reason the message names."""

    code = "checkpoint_unsupported"


class EncoderWeightsError(ModelError):
    """The weights of the tile encoder are missing, damaged, or of another encoder."""

    code = "encoder_weights"


class PackageError(ModelError):
    """The model package lacks something or contradicts itself."""

    code = "model_package_invalid"


class ParameterError(ClamCoreError):
    """A parameter of the analysis is unknown or has a bad value."""

    code = "bad_parameters"


class OutOfMemoryError(ClamCoreError):
    """Not even the smallest batch fits into the memory of the device."""

    code = "out_of_memory"


class NonFiniteError(ClamCoreError):
    """The encoder or the aggregator produced NaN or infinity: that is no result."""

    code = "non_finite"


class AnalysisStopped(ClamCoreError):  # noqa: N818 - not a failure: the caller asked for it
    """The caller asked the analysis to stop, and it did."""

    code = "stopped"
