# SPDX-License-Identifier: Apache-2.0
"""DICOM files for tests, made from real ones or from nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.support.shared_data import shared_path

CMU_SMALL = "slides/dicom-cmu-1-small-region"
WSI_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def slide_folder() -> Path:
    """Return the folder of a real slide: one VOLUME, a thumbnail, a label and an overview."""
    return shared_path(CMU_SMALL)


def is_volume(dataset: pydicom.Dataset) -> bool:
    """Whether an instance is a level of the pyramid."""
    return "VOLUME" in dataset.ImageType


def volume_file() -> Path:
    """Return the file of the slide's only VOLUME instance."""
    for path in sorted(slide_folder().glob("*.dcm")):
        if is_volume(pydicom.dcmread(path, stop_before_pixels=True)):
            return path
    raise AssertionError("the slide's folder holds no VOLUME instance")


def another_slide(folder: Path, *, container_id: str) -> Path:
    """Write the real slide's VOLUME under new UIDs, as a slide of another patient; return the file."""
    dataset = pydicom.dcmread(volume_file())
    dataset.PatientID = dataset.PatientName = dataset.ContainerIdentifier = container_id
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.FrameOfReferenceUID = generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    path = folder / f"{container_id}.dcm"
    dataset.save_as(path)
    return path


def ct_file(folder: Path) -> Path:
    """Write one small CT image; return the file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / "ct.dcm"
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID = dataset.PatientName = "CT-1"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    _set_pixels(dataset, np.zeros((16, 16), np.uint8))
    dataset.save_as(path)
    return path


def blank_slide(folder: Path, *, side: int = 1024, tile: int = 256) -> Path:
    """Write a slide that is white all over: one uncompressed VOLUME level; return the file."""
    source = pydicom.dcmread(volume_file())
    source.PatientID = source.PatientName = source.ContainerIdentifier = "BLANK"
    source.StudyInstanceUID, source.SeriesInstanceUID = generate_uid(), generate_uid()
    source.FrameOfReferenceUID = generate_uid()
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    source.TotalPixelMatrixColumns = source.TotalPixelMatrixRows = side
    source.Columns = source.Rows = tile
    source.NumberOfFrames = (side // tile) ** 2
    source.PhotometricInterpretation = "RGB"
    source.LossyImageCompression = "00"
    source.PixelData = b"\xff" * (side * side * 3)
    source["PixelData"].VR = "OB"
    path = folder / "blank.dcm"
    source.save_as(path)
    return path


def _set_pixels(dataset: FileDataset, pixels: np.ndarray) -> None:
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB"
