# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while results are written as DICOM."""

from worker.errors import WorkerError

HEADER_FAULTS = (
    AttributeError,
    LookupError,
    NotImplementedError,
    OverflowError,
    TypeError,
    UnicodeError,
    ValueError,
)
"""What pydicom and highdicom raise at headers that break the standard: scanners write many of them, and the
result itself must not be lost to one."""


class DicomResultsError(WorkerError):
    """A result object could not be written; the result itself is not affected."""
