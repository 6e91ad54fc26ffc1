"""Rows and seals survive what kills a process; damage is named by file and line."""

import gzip
import json
import os
from pathlib import Path

import pytest

from temper import files
from temper.errors import StorageError


def test_a_torn_last_line_is_dropped_on_reading_and_overwritten_on_appending(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    files.append_rows(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": 2, "tor')
    assert files.read_rows(path) == [{"a": 1}]
    files.append_rows(path, [{"a": 3}])
    assert files.read_rows(path) == [{"a": 1}, {"a": 3}]


def test_a_damaged_row_in_the_middle_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(StorageError, match=r"rows\.jsonl:2"):
        files.read_rows(path)


def test_a_write_that_fails_leaves_the_old_content_and_no_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"old": True})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        files.write_json(path, {"new": True})
    assert files.read_json(path) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_library_that_reports_a_full_disk_in_its_own_class_ends_with_the_same_clear_error(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        pass

    with pytest.raises(StorageError, match="disk is full"), files.storage(tmp_path):
        raise SafetensorError('I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }')
    with pytest.raises(SafetensorError, match="header"), files.storage(tmp_path):
        raise SafetensorError("header too small")


def test_compressed_rows_are_the_same_bytes_for_the_same_rows(tmp_path: Path) -> None:
    files.write_rows_gz(tmp_path / "a.jsonl.gz", [{"b": 1, "a": "é"}])
    files.write_rows_gz(tmp_path / "b.jsonl.gz", [{"a": "é", "b": 1}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert files.read_rows(tmp_path / "a.jsonl.gz") == [{"a": "é", "b": 1}]


def test_appended_zstd_frames_read_back_as_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    files.append_zst(path, [{"step": 1}])
    files.append_zst(path, [{"step": 2}, {"step": 2}])
    assert [r["step"] for r in files.read_rows(path)] == [1, 2, 2]


def test_half_a_surrogate_pair_survives_the_disk(tmp_path: Path) -> None:
    files.append_rows(tmp_path / "rows.jsonl", [{"answer": "broken \ud800 text é"}])
    assert files.read_rows(tmp_path / "rows.jsonl") == [{"answer": "broken \ud800 text é"}]


def test_not_a_number_is_refused_rather_than_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.append_rows(tmp_path / "rows.jsonl", [{"loss": float("nan")}])


def test_equal_values_have_equal_digests_whatever_the_order_of_their_keys() -> None:
    assert files.digest({"a": 1, "b": [1, 2]}) == files.digest({"b": [1, 2], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    assert len(files.digest("x")) == 16


def test_a_folder_digest_changes_with_any_byte_or_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = files.folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert files.folder_digest(tmp_path) != first


def test_gzip_rows_are_plain_json_lines(tmp_path: Path) -> None:
    files.write_rows_gz(tmp_path / "r.jsonl.gz", [{"a": 1}])
    assert json.loads(gzip.decompress((tmp_path / "r.jsonl.gz").read_bytes())) == {"a": 1}


def test_a_whole_last_row_without_a_line_end_is_read_and_kept_on_appending(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a":1}\n{"a":2}')
    assert files.read_rows(path) == [{"a": 1}, {"a": 2}]
    files.append_rows(path, [{"a": 3}])
    assert files.read_rows(path) == [{"a": 1}, {"a": 2}, {"a": 3}]
