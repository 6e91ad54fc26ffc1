"""Rows and seals survive what kills a process; damage is named by file and line."""

import gzip
import json
import os
import random
import re
from pathlib import Path

import pytest
import zstandard

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


@pytest.mark.parametrize("lost", [1, 4, 30])
def test_a_torn_last_frame_loses_only_the_rows_that_it_tore(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    files.append_zst(path, [{"step": 1}])
    files.append_zst(path, [{"step": 2, "text": "é" * n} for n in range(9)])
    path.write_bytes(path.read_bytes()[:-lost])
    rows = files.read_rows(path)
    assert rows[0] == {"step": 1}
    assert rows[1:] == [{"step": 2, "text": "é" * n} for n in range(len(rows) - 1)]


def test_the_whole_rows_of_a_torn_frame_are_kept(tmp_path: Path) -> None:
    path, draw = tmp_path / "rollouts.jsonl.zst", random.Random(0)
    made = [{"row": n, "text": draw.randbytes(500).hex()} for n in range(900)]
    files.append_zst(path, made)
    path.write_bytes(path.read_bytes()[:-9])
    rows = files.read_rows(path)
    assert 0 < len(rows) < 900
    assert rows == made[: len(rows)]


def test_a_last_line_that_is_no_row_is_left_out_of_a_compressed_file_too(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"a":1}\n{"a":2}\n{"a":'))
    assert files.read_rows(path) == [{"a": 1}, {"a": 2}]


def test_a_damaged_frame_in_the_middle_is_named_by_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    files.append_zst(path, [{"step": 1}])
    whole = path.stat().st_size
    files.append_zst(path, [{"step": 2}])
    files.append_zst(path, [{"step": 3}])
    body = bytearray(path.read_bytes())
    body[whole : whole + 4] = b"torn"
    path.write_bytes(body)
    with pytest.raises(StorageError, match=r"rollouts\.jsonl\.zst: damaged after row 1"):
        files.read_rows(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.zst"])
def test_rows_are_dropped_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, made = tmp_path / name, [{"step": 1}, {"step": 2}]
    (files.append_zst if name.endswith("zst") else files.append_rows)(path, made)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Path, "replace", raise_interrupt)
        files.keep_rows(path, lambda row: row["step"] < 2)
    assert files.read_rows(path) == made
    files.keep_rows(path, lambda row: row["step"] < 2)
    assert files.read_rows(path) == [{"step": 1}]


def test_a_file_that_loses_no_row_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    files.append_zst(path, [{"step": 1}])
    before = path.stat().st_ino
    files.keep_rows(path, lambda row: True)
    files.keep_rows(tmp_path / "none.jsonl.zst", lambda row: True)
    assert path.stat().st_ino == before
    assert not (tmp_path / "none.jsonl.zst").exists()


def test_a_torn_frame_is_cut_off_before_another_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    files.append_zst(path, [{"step": 1}])
    files.append_zst(path, [{"step": 2}])
    path.write_bytes(path.read_bytes()[:-3])
    files.keep_rows(path, lambda row: True)
    files.append_zst(path, [{"step": 2}])
    assert files.read_rows(path) == [{"step": 1}, {"step": 2}]


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


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


@pytest.mark.parametrize(
    "text", ["gcg,file=/tmp/a b/x.json", "my file.py:shout", "../../etc", ".hidden", "a\ud800b", "检测" * 70, "!?", ""]
)
def test_any_text_becomes_one_plain_part_of_a_name_that_a_file_system_takes(text: str, tmp_path: Path) -> None:
    made = files.slug(text)
    assert re.fullmatch(r"[\w=,+][\w.=,+-]*", made) and files.slug(text) == made
    files.write_text(tmp_path / f"{made}@{made}" / "rows.jsonl", "")


def test_names_that_differ_only_where_they_are_cut_stay_apart() -> None:
    assert files.slug("a" * 150) != files.slug("a" * 149 + "b") and files.slug("a" * 120) == "a" * 120
    assert files.slug("???") != files.slug("!!!")


def test_signs_are_kept_where_a_name_means_something_by_them() -> None:
    assert [files.slug("harm+a@1", also=also) for also in ("+@", "+", "")] == ["harm+a@1", "harm+a-1", "harm-a-1"]
