"""Tests of soft_labels."""

from __future__ import annotations

import numpy as np
import pytest

from sedembed._training.soft_labels import read_soft_labels
from sedembed.errors import DatasetError
from tests._training.sustain_helpers import (  # noqa: F401
    clips,
    shuffled_table,
    write_table,
)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_table_is_matched_by_name(clips, tmp_path, suffix):
    table, expected = shuffled_table(tmp_path / f"table{suffix}", clips)
    found = read_soft_labels(table, clips.names, clips.classes)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_table_that_does_not_fit_is_refused(clips, tmp_path, suffix):
    names, classes, values = list(clips.names), list(clips.classes), np.full((10, 3), 0.5)
    path = tmp_path / f"table{suffix}"

    def refused(match: str, names=names, classes=classes, values=values) -> None:
        write_table(path, names, classes, values)
        with pytest.raises(DatasetError, match=match):
            read_soft_labels(path, clips.names, clips.classes)

    refused("4 of 10 missing: 'clip 06.wav', 'clip 07.wav'", names=names[:6], values=values[:6])
    refused(r"8 of 10 missing: .* and 3 more\.", names=names[:2], values=values[:2])
    refused(
        "column for each class .* 1 of 3 missing: 'Rain, drizzle'", classes=["Dog", "Church bell"], values=values[:, :2]
    )
    refused("several for 'clip 00.wav'", names=[names[0], *names], values=np.full((11, 3), 0.5))
    if suffix != ".parquet":  # pyarrow's tables cannot be built so from a dict
        refused("several for 'Dog'", classes=["Dog", *classes], values=np.full((10, 4), 0.5))
    for bad in (-0.1, 1.1, np.nan, np.inf):
        wrong = values.copy()
        wrong[4, 1] = bad
        refused("got 1 others, the first .* for the class 'Rain, drizzle' of the clip 'clip 04.wav'", values=wrong)
    path.write_bytes(b"\x00\xff no table")
    with pytest.raises(DatasetError, match=r"table\.\w+: "):
        read_soft_labels(path, clips.names, clips.classes)
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"table\.\w+: "):
        read_soft_labels(path, clips.names, clips.classes)
    path.unlink()
    with pytest.raises(DatasetError, match="which is not there"):
        read_soft_labels(path, clips.names, clips.classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,a\nx,0.5\ny,\n", "got 1 others, the first nan"),
        ("clip,a\nx,0.5\ny,high\n", "cannot be read as CSV"),
        ("clip,a\nx,0.5\ny\n", "cannot be read as CSV"),
        ("clip\nx\ny\n", "expected a column of clip names"),
        ("a,clip\n0.5,x\n0.5,y\n", "it is the class 'a'"),
        ("clip,clip,a\nx,x,0.5\ny,y,0.5\n", "got several"),
    ],
)
def test_csv_that_is_no_table_of_soft_labels(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_soft_labels(tmp_path / "table.csv", ["x", "y"], ["a"])


def test_csv_with_a_byte_order_mark_and_quotes(tmp_path):
    (tmp_path / "table.csv").write_text('\ufeff"clip","a, b"\r\n"x, y",1\r\n', encoding="utf-8")
    np.testing.assert_array_equal(read_soft_labels(tmp_path / "table.csv", ["x, y"], ["a, b"]), [[1.0]])


def test_archive_that_is_no_table_of_soft_labels(tmp_path):
    path = tmp_path / "table.npz"
    good = {"clips": ["x"], "classes": ["a"], "probabilities": [[0.5]]}
    for change, message in (
        ({"probabilities": [[0.5, 0.5]]}, r"expected probabilities of shape \(1, 1\).* got \(1, 2\)"),
        ({"probabilities": [["high"]]}, "expected probabilities to be numbers"),
        ({"clips": np.array(["x"], object)}, "cannot be read as an archive of plain arrays"),
    ):
        np.savez(path, **{**good, **change})
        with pytest.raises(DatasetError, match=message):
            read_soft_labels(path, ["x"], ["a"])
    np.savez(path, clips=["x"], classes=["a"])
    with pytest.raises(DatasetError, match="probabilities missing"):
        read_soft_labels(path, ["x"], ["a"])


def test_table_of_another_format_is_refused(tmp_path):
    (tmp_path / "table.xlsx").touch()
    with pytest.raises(DatasetError, match=r"ends in \.csv, \.parquet or \.npz"):
        read_soft_labels(tmp_path / "table.xlsx", ["x"], ["a"])
