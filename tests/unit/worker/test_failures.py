# SPDX-License-Identifier: Apache-2.0
"""What a request is told about each kind of failure, and whether another attempt may help."""

from __future__ import annotations

import errno

import pytest
import torch

from clam_core.errors import (
    CheckpointError,
    ClamCoreError,
    MissingMppError,
    NoTissueError,
    NoVolumeError,
    OutOfMemoryError,
    PackageError,
    ParameterError,
    SlideError,
)
from worker.errors import BusyError, ModelError, UnreachableError
from worker.jobs.failures import failure_of
from worker.sources.errors import ChangedInMidReadError, SourceUnreachableError, WayMissingError


@pytest.mark.parametrize(
    "error",
    [
        NoTissueError,
        MissingMppError,
        SlideError,
        NoVolumeError,
        ParameterError,
        CheckpointError,
        PackageError,
    ],
)
def test_what_the_slide_or_the_model_is_at_fault_for_is_not_tried_again(error: type[ClamCoreError]) -> None:
    failure = failure_of(error("Do this."))
    assert (failure.code, failure.message, failure.retryable) == (error.code, "Do this.", False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutOfMemoryError("Use less."), "out_of_memory"),
        (SourceUnreachableError("Orthanc is away."), "source_unreachable"),
        (ChangedInMidReadError("It changed."), "changed_in_mid_read"),
        (WayMissingError("It gives no ranges any more."), "source_unreachable"),
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB."), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EIO, "Input/output error"), "worker_io"),
        (UnreachableError("Cannot reach it."), "network"),
        (BusyError(503, "storage_unavailable", "Wait."), "storage_unavailable"),
        (RuntimeError("surprise"), "internal"),
    ],
)
def test_what_another_time_or_machine_may_mend_is_tried_again(error: Exception, code: str) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.retryable) == (code, True)


def test_a_model_that_is_not_here_keeps_its_code() -> None:
    assert failure_of(ModelError("No such model.", "unknown_model")).code == "unknown_model"


@pytest.mark.parametrize(
    "error", [RuntimeError("SMITH^JOHN"), OSError(errno.EIO, "I/O error", "SMITH^JOHN.svs")]
)
def test_the_text_of_a_foreign_exception_is_not_passed_on(error: Exception) -> None:
    assert "SMITH" not in failure_of(error).message


def test_what_is_nested_deeper_than_python_goes_is_not_tried_again() -> None:
    failure = failure_of(RecursionError("maximum recursion depth exceeded"))
    assert (failure.code, failure.retryable) == ("internal", False)
