# SPDX-License-Identifier: Apache-2.0
"""Features that are kept: nothing is encoded twice, a cut-off run is gone on with, and damage is noticed."""

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clam_core.errors import AnalysisStopped
from clam_core.features import FeatureFolder, FeatureKey, FolderLimits, fingerprint_of_files
from clam_core.features import key as naming
from clam_core.features.segment import packed
from clam_core.features.store import Chunk
from clam_core.options import AnalysisOptions
from clam_core.patches import PatchPlan
from clam_core.pipeline import Content, analyze_slide
from clam_core.software import DECODERS, versions
from tests.support.core_fakes import ArraySlide, FakeModel, MeanColourEncoder, glass_with_tissue

PICTURE = glass_with_tissue(1024, 768)
AMPLE = FolderLimits(max_bytes=1 << 30, max_age_s=1e9)
KEY = FeatureKey("f" * 64, "mean-colour", "0" * 64, "exact", "0", 0, (128, 128), 128, black_outside=False)
SMALL_BATCHES = AnalysisOptions(batch_size=4)


@pytest.fixture
def folder(tmp_path: Path) -> FeatureFolder:
    return FeatureFolder(tmp_path / "features", AMPLE)


def analyze(folder: FeatureFolder, encoder: MeanColourEncoder, **changes: Any) -> Any:
    content = Content(changes.pop("fingerprint", "f" * 64), folder)
    model = changes.pop("model", FakeModel(encoder=encoder))
    wanted = {"options": SMALL_BATCHES, **changes}
    return analyze_slide(ArraySlide(PICTURE), model, device="cpu", content=content, **wanted)


def chunk(*corners: tuple[int, int]) -> Chunk:
    coordinates = np.asarray(corners, dtype=np.int64)
    return Chunk(coordinates, np.repeat(coordinates[:, :1], 3, axis=1).astype(np.float32))


def stored(folder: FeatureFolder, key: FeatureKey = KEY) -> list[tuple[int, int]]:
    with folder.open(key, 3) as entry:
        return [(int(x), int(y)) for part in entry.chunks() for x, y in part.coordinates]


def test_a_slide_that_was_analysed_is_not_encoded_again(folder: FeatureFolder) -> None:
    first, second = MeanColourEncoder(), MeanColourEncoder()
    before, after = analyze(folder, first), analyze(folder, second)
    assert sum(first.batches) == len(before.coordinates)
    assert second.batches == []
    assert after.artifacts() == before.artifacts()
    assert np.array_equal(after.features, before.features)


def test_a_second_model_with_the_same_encoder_takes_the_features_of_the_first(folder: FeatureFolder) -> None:
    analyze(folder, MeanColourEncoder())
    encoder = MeanColourEncoder()
    other = FakeModel(name="another", sha256="2" * 64, encoder=encoder)
    assert analyze(folder, encoder, model=other).model.name == "another"
    assert encoder.batches == []


def test_a_finer_heatmap_encodes_the_new_patches_and_those_once(folder: FeatureFolder) -> None:
    plain = analyze(folder, MeanColourEncoder())
    finer = replace(SMALL_BATCHES, overlap=0.5)
    encoder, again = MeanColourEncoder(), MeanColourEncoder()
    found = analyze(folder, encoder, options=finer)
    assert sum(encoder.batches) == len(found.fine.coordinates) - len(plain.coordinates)
    assert analyze(folder, again, options=finer).artifacts() == found.artifacts()
    assert again.batches == []


def test_a_run_that_was_cut_off_is_gone_on_with_and_the_result_is_the_same_to_the_last_bit(
    folder: FeatureFolder,
) -> None:
    whole = analyze_slide(ArraySlide(PICTURE), FakeModel(), device="cpu", options=SMALL_BATCHES)
    cut_off, rest = MeanColourEncoder(), MeanColourEncoder()
    with pytest.raises(AnalysisStopped):
        analyze(folder, cut_off, should_stop=lambda: len(cut_off.batches) >= 3)
    resumed = analyze(folder, rest)
    assert sum(cut_off.batches) + sum(rest.batches) == len(whole.coordinates)
    assert resumed.artifacts() == whole.artifacts()
    assert np.array_equal(resumed.features, whole.features)


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, slide="e" * 64),
        replace(KEY, weights="1" * 64),
        replace(KEY, numerics="rounded"),
        replace(KEY, level=1),
        replace(KEY, read_px=(256, 256)),
        replace(KEY, patch_px=224),
        replace(KEY, black_outside=True),
    ],
)
def test_another_slide_encoder_or_patch_has_features_of_its_own(
    folder: FeatureFolder, other: FeatureKey
) -> None:
    with folder.open(KEY, 3) as entry:
        entry.add(chunk((0, 0)))
    assert stored(folder, other) == []
    assert stored(folder) == [(0, 0)]


def test_what_one_writer_adds_another_process_can_read_at_once(folder: FeatureFolder) -> None:
    with folder.open(KEY, 3) as one, folder.open(KEY, 3) as other:
        one.add(chunk((1, 0)))
        other.add(chunk((2, 0)))
        assert sorted(stored(folder)) == [(1, 0), (2, 0)]


def test_the_end_that_a_killed_process_leaves_costs_its_last_chunk_only(
    folder: FeatureFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with folder.open(KEY, 3) as entry:
        entry.add(chunk((1, 0)))
        entry.add(chunk((2, 0)))
    (file,) = tmp_path.rglob("*.features")
    os.truncate(file, file.stat().st_size - 5)
    assert stored(folder) == [(1, 0)]
    assert caplog.records == []


@pytest.mark.parametrize("where", [0, 60])
def test_a_damaged_chunk_is_dropped_with_what_follows_and_the_log_says_so(
    folder: FeatureFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: int
) -> None:
    with folder.open(KEY, 3) as entry:
        entry.add(chunk((1, 0)))
        entry.add(chunk((2, 0)))
        entry.add(chunk((3, 0)))
    (file,) = tmp_path.rglob("*.features")
    data = bytearray(file.read_bytes())
    data[len(packed(chunk((1, 0)), KEY.digest)) + where] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert stored(folder) == [(1, 0)]
    assert "damaged" in caplog.text
    caplog.clear()
    assert stored(folder) == [(1, 0)]
    assert caplog.records == [], "said once: the damage was cut off"


def test_the_least_used_slide_makes_room(tmp_path: Path) -> None:
    now = 1e9
    one = 16 * 28 + 48
    folder = FeatureFolder(tmp_path, FolderLimits(max_bytes=3 * one, max_age_s=1e9), clock=lambda: now)
    keys = [replace(KEY, slide=letter * 64) for letter in "abcd"]
    for number, key in enumerate(keys[:3]):
        with folder.open(key, 3) as entry:
            entry.add(chunk(*((number, y) for y in range(16))))
        for file in (tmp_path / key.digest).iterdir():
            os.utime(file, (now, now))
        now += 1
    now += 1
    stored(folder, keys[0])
    with folder.open(keys[3], 3) as entry:
        entry.add(chunk(*((9, y) for y in range(16))))
    assert [bool(stored(folder, key)) for key in keys] == [True, False, True, True]


def test_what_was_not_used_for_too_long_goes(tmp_path: Path) -> None:
    now = 1e9
    folder = FeatureFolder(tmp_path, FolderLimits(max_bytes=1 << 30, max_age_s=60), clock=lambda: now)
    with folder.open(KEY, 3) as entry:
        entry.add(chunk((1, 0)))
    os.utime(next(tmp_path.rglob("*.features")), (now, now))
    now += 3601
    stored(folder, replace(KEY, slide="e" * 64))
    assert list(tmp_path.iterdir()) == [], "nothing had to be written for that"


def disk_with_free(monkeypatch: pytest.MonkeyPatch, free: Callable[[], int]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free()))


def test_the_least_used_slides_make_room_on_a_disk_that_others_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FeatureFolder(tmp_path, FolderLimits(max_bytes=1 << 30, max_age_s=1e9, reserve_bytes=1 << 40))
    disk_with_free(monkeypatch, lambda: 1 << 50)
    keys = [replace(KEY, slide=letter * 64) for letter in "ab"]
    with folder.open(keys[0], 3) as entry:
        entry.add(chunk((1, 0)))
    disk_with_free(monkeypatch, lambda: (1 << 40) + (1 << 26) - sum(map(size_of, tmp_path.iterdir())))
    with folder.open(keys[1], 3) as entry:
        entry.add(chunk((2, 0)))
    assert [stored(folder, key) for key in keys] == [[], [(2, 0)]]


def test_nothing_is_kept_on_a_disk_that_is_nearly_full(
    folder: FeatureFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk_with_free(monkeypatch, lambda: 1 << 30)
    with caplog.at_level(logging.WARNING):
        analyze(folder, MeanColourEncoder())
    assert list(tmp_path.rglob("*.features")) == []
    assert caplog.text.count("not kept") == 1


def size_of(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.iterdir())


def test_an_entry_that_cannot_be_removed_makes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FeatureFolder(tmp_path, FolderLimits(max_bytes=200, max_age_s=1e9))
    with folder.open(KEY, 3) as entry:
        entry.add(chunk((1, 0)))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with folder.open(replace(KEY, slide="e" * 64), 3) as entry:
        entry.add(chunk(*((2, y) for y in range(5))))
    assert sum(map(size_of, tmp_path.iterdir())) <= 200


def test_a_slide_larger_than_the_bound_is_analysed_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tight = FeatureFolder(tmp_path, FolderLimits(max_bytes=400, max_age_s=1e9))
    encoder = MeanColourEncoder()
    with caplog.at_level(logging.WARNING):
        found = analyze(tight, encoder)
    assert len(found.features) == len(found.coordinates)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.features")) <= 400
    assert caplog.text.count("not kept") == 1


def test_a_full_disk_costs_no_result(
    folder: FeatureFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with caplog.at_level(logging.WARNING):
        found = analyze(folder, MeanColourEncoder())
    assert len(found.features) == len(found.coordinates)
    assert caplog.text.count("disk is full") == 1


def test_the_folder_names_nothing_but_hashes_and_is_its_owners_alone(
    folder: FeatureFolder, tmp_path: Path
) -> None:
    analyze(folder, MeanColourEncoder(), fingerprint="a fingerprint")
    (entry,) = (tmp_path / "features").iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}", entry.name)
    if os.name == "posix":
        assert [path.stat().st_mode & 0o077 for path in (entry, entry.parent)] == [0, 0]


def test_the_encoders_turn_is_held_while_patches_are_encoded_and_not_asked_for_where_all_are_known(
    folder: FeatureFolder,
) -> None:
    held: list[str] = []

    class Watched(MeanColourEncoder):
        def encode_framed(self, tiles: Any) -> Any:
            assert held == ["taken"]
            return super().encode_framed(tiles)

    @contextmanager
    def turn() -> Iterator[None]:
        held.append("taken")
        yield
        held.append("left")

    stages: list[tuple[str, list[str]]] = []
    analyze(
        folder,
        Watched(),
        turn=turn,
        options=replace(SMALL_BATCHES, overlap=0.5),
        progress=lambda stage, *_: stages.append((stage, list(held))),
    )
    assert held == ["taken", "left"], "once, for the finer patches too"
    assert all(state == ["taken", "left"] for stage, state in stages if stage == "heatmap")
    analyze(folder, MeanColourEncoder(), turn=turn)
    assert held == ["taken", "left"]


def test_known_patches_are_no_sign_that_the_encoder_has_begun(folder: FeatureFolder) -> None:
    stages: list[str] = []
    cut_off = MeanColourEncoder()
    with pytest.raises(AnalysisStopped):
        analyze(folder, cut_off, should_stop=lambda: len(cut_off.batches) >= 3)
    analyze(folder, MeanColourEncoder(), progress=lambda stage, *_: stages.append(stage))
    assert list(dict.fromkeys(stages))[2:6] == ["patches", "known", "wait", "encode"]


def test_what_became_known_while_it_waited_for_the_encoder_is_not_encoded_again(
    folder: FeatureFolder,
) -> None:
    first, second = MeanColourEncoder(), MeanColourEncoder()

    @contextmanager
    def turn() -> Iterator[None]:
        analyze(folder, first)
        yield

    found = analyze(folder, second, turn=turn)
    assert sum(first.batches) == len(found.coordinates)
    assert second.batches == []


@pytest.mark.parametrize(
    "part", ["wsidicom", "imagecodecs", "pillow", "opencv-python-headless", "openslide-bin"]
)
def test_another_version_of_what_pixels_go_through_has_features_of_its_own(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(packages: tuple[str, ...]) -> dict[str, str]:
        return {**versions(packages), part: "another"}

    plan = PatchPlan(0, (256, 256), 256, (256, 256), 0.5)
    before = FeatureKey.of("f" * 64, MeanColourEncoder(), plan)
    assert part in versions(DECODERS)
    monkeypatch.setattr(naming, "versions", changed)
    after = FeatureKey.of("f" * 64, MeanColourEncoder(), plan)
    assert after.digest != before.digest


def test_a_fingerprint_follows_the_content_of_files_not_their_names(tmp_path: Path) -> None:
    one, other = tmp_path / "one.svs", tmp_path / "SMITH^JOHN.svs"
    one.write_bytes(b"pixels")
    other.write_bytes(b"pixels")
    assert fingerprint_of_files(one) == fingerprint_of_files(other)
    other.write_bytes(b"pixelz")
    assert fingerprint_of_files(one) != fingerprint_of_files(other)
    assert fingerprint_of_files(tmp_path) != fingerprint_of_files(one)


@pytest.mark.parametrize("by", ["slide.mrxs", "slide.vms"])
def test_a_fingerprint_follows_the_pixels_that_lie_beside_the_slides_own_file(
    tmp_path: Path, by: str
) -> None:
    (tmp_path / "slide.mrxs").write_bytes(b"\xff\xd8 thumbnail")
    (tmp_path / "slide.vms").write_text("[Virtual Microscope Specimen]\nImageFile=slide/Data0000.dat\n")
    pixels = tmp_path / "slide" / "Data0000.dat"
    pixels.parent.mkdir()
    pixels.write_bytes(b"pixels")
    before = fingerprint_of_files(tmp_path / by)
    pixels.write_bytes(b"pixelz")
    assert fingerprint_of_files(tmp_path / by) != before
