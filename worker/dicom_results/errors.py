# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while results are written as DICOM."""

from worker.errors import WorkerError


class DicomResultsError(WorkerError):
    """A result object could not be written; the result itself is not affected."""
