# SPDX-License-Identifier: Apache-2.0
"""A tiny DICOM slide made on the spot, for ``pathology-worker doctor --round-trip``: drawn, and nobody's."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import ImageCms
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sr.coding import Code
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

from clam_core.slides import Pixels

PATIENT = "PATHOLOGY-WORKER-DOCTOR"
MPP = 0.5
TILE = 256
_SIDE = 1024
_GLASS = (243, 241, 245)
_STROMA = np.array([226, 150, 192], np.float32)
_SEED = 20260101

_BRIGHT_FIELD = Code("111744", "DCM", "Brightfield illumination")
_FULL_SPECTRUM = Code("414298005", "SCT", "Full Spectrum")


def make_probe_slide() -> bytes:
    """Return a whole-slide image of one level as a DICOM file; its UIDs are new each time."""
    frames = [_jpeg(tile) for tile in _tiles(_draw())]
    dataset = _identity()
    _describe_pixels(dataset, len(frames))
    _describe_slide(dataset)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _draw() -> Pixels:
    """Draw one island in the colours of H&E on glass, (1024, 1024, 3): enough for some patches."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    noise = sum(
        cv2.resize(rng.uniform(-1, 1, (size, size)).astype(np.float32), (_SIDE, _SIDE)) for size in (16, 128)
    )
    picture = np.full((_SIDE, _SIDE, 3), _GLASS, np.uint8)
    y, x = np.ogrid[:_SIDE, :_SIDE]
    tissue = (x - _SIDE / 2) ** 2 + (y - _SIDE / 2) ** 2 < (0.45 * _SIDE) ** 2
    stroma = _STROMA + np.asarray(noise)[..., None] * np.array([14, 30, 18], np.float32)
    picture[tissue] = np.clip(stroma[tissue], 0, 255).astype(np.uint8)
    return picture


def _tiles(pixels: Pixels) -> list[Pixels]:
    corners = [(x, y) for y in range(0, _SIDE, TILE) for x in range(0, _SIDE, TILE)]
    return [pixels[y : y + TILE, x : x + TILE] for x, y in corners]


def _jpeg(tile: Pixels) -> bytes:
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(np.asarray(coded, np.uint8).tobytes())


def _identity() -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID = generate_uid()
    dataset.PatientID = dataset.PatientName = dataset.ContainerIdentifier = PATIENT
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.StudyDate = dataset.StudyTime = dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Round trip of pathology-worker doctor: drawn, no tissue"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "SM", 1, 1
    dataset.Manufacturer = dataset.ManufacturerModelName = "pathology-worker"
    dataset.DeviceSerialNumber = dataset.SoftwareVersions = "doctor"
    dataset.ContentDate, dataset.ContentTime = "20260101", "000000"
    dataset.AcquisitionDateTime = "20260101000000"
    dataset.PositionReferenceIndicator = "SLIDE_CORNER"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    return dataset


def _describe_pixels(dataset: Dataset, frames: int) -> None:
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.NumberOfFrames = frames
    dataset.Rows = dataset.Columns = TILE
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = "10"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    dataset.TotalPixelMatrixColumns = dataset.TotalPixelMatrixRows = _SIDE
    dataset.TotalPixelMatrixFocalPlanes = dataset.NumberOfOpticalPaths = 1
    dataset.DimensionOrganizationType = "TILED_FULL"
    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid()
    dataset.DimensionOrganizationSequence = [organization]


def _describe_slide(dataset: Dataset) -> None:
    side_mm = _SIDE * MPP / 1000
    dataset.VolumetricProperties = "VOLUME"
    dataset.ImagedVolumeWidth = dataset.ImagedVolumeHeight = side_mm
    dataset.ImagedVolumeDepth = 1.0
    dataset.SpecimenLabelInImage, dataset.FocusMethod, dataset.ExtendedDepthOfField = "NO", "AUTO", "NO"
    dataset.ImageOrientationSlide = [0.0, -1.0, 0.0, -1.0, 0.0, 0.0]
    dataset.IssuerOfTheContainerIdentifierSequence = []
    dataset.AcquisitionContextSequence = []
    dataset.ContainerTypeCodeSequence = [_code(Code("433466003", "SCT", "Microscope slide"))]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = PATIENT, generate_uid()
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    dataset.SpecimenDescriptionSequence = [specimen]
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 20.0
    dataset.TotalPixelMatrixOriginSequence = [origin]
    path = Dataset()
    path.OpticalPathIdentifier, path.ICCProfile = (
        "0",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    )
    path.IlluminationTypeCodeSequence = [_code(_BRIGHT_FIELD)]
    path.IlluminationColorCodeSequence = [_code(_FULL_SPECTRUM)]
    dataset.OpticalPathSequence = [path]
    dataset.SharedFunctionalGroupsSequence = [_shared(dataset)]


def _shared(dataset: Dataset) -> Dataset:
    shared, measures, kind = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [MPP / 1000, MPP / 1000], 0.001
    kind.FrameType = dataset.ImageType
    shared.PixelMeasuresSequence = [measures]
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [kind]
    return shared


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = (
        code.value,
        code.scheme_designator,
        code.meaning,
    )
    return item
