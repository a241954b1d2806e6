"""Fixtures and helpers that several test files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sedembed.errors import DatasetError

HEADER = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=2, num_segs=2, num_unique_labels=3, num_positive_labels=3\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


BALANCED = (
    HEADER + '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
    '__4SeRPmQ_8, 0.000, 10.000, "/m/012xff"\n'
    'Y23456789_1, 7.000, 17.000, "/m/09x0r"\n'
    '-BfyRSpKyTM, 5.500, 8.000, "/m/0jbk,/m/09x0r"\n'
    '_missing_-1, 70.000, 80.000, "/m/03fwl"\n'
)


EVALUATION = (
    HEADER + '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"\n'
    'abcdefghi_5, 20.000, 30.000, "/m/03m9d0z"\n'
)


@pytest.fixture
def audioset_copy(tmp_path: Path) -> Path:
    """Lists as Google gives them; empty files stand for the recordings."""
    data = tmp_path / "audioset"
    for path in (
        "balanced_train_segments/Y--PJHxphWEs.wav",
        "balanced_train_segments/__4SeRPmQ_8_0.000_10.000.flac",
        "balanced_train_segments/Y23456789_1_7000.wav",
        "balanced_train_segments/deep/er/-BfyRSpKyTM_5500_8000.m4a",
        "eval_segments/--4gqARaEJE_000000.mp3",
        "eval_segments/Yabcdefghi_5.mp4",
    ):
        touch(data, path)
    (data / "balanced_train_segments.csv").write_text(BALANCED)
    (data / "eval_segments.csv").write_text(EVALUATION)
    return data


def touch(data: Path, *paths: str) -> None:
    for path in paths:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).touch()


def refused(task: Any, data: Path, *parts: str) -> str:
    with pytest.raises(DatasetError) as caught:
        task.read(data)
    message = str(caught.value)
    for part in (*parts, task.title, task.source, task.layout):
        assert part in message
    return message


TRAIN = """label,youtube_id,time_start,time_end,split
abseiling,__NrybzYzUg,415,425,train
abseiling,-3B32lodo2M,59,69,train
"tying knot (not on a tie)",aTEL_jDcIzE,1,11,train
"massaging person's head",Y0aaaaaaaaa,100000,100010,train
abseiling,gonegonegon,0,10,train
"""


VALIDATE = """label,youtube_id,time_start,time_end
abseiling,3E7Jib8Yq5M,118,128
massaging person's head,_____-_____,0,10
"""


@pytest.fixture
def kinetics_copy(tmp_path: Path) -> Path:
    """Lists of DeepMind, folders as the usual downloaders make them; empty files stand for the videos."""
    data = tmp_path / "kinetics700"
    touch(
        data,
        "train/abseiling/__NrybzYzUg_000415_000425.mp4",
        "train/abseiling/-3B32lodo2M_000059_000069.mkv",
        "train/tying knot (not on a tie)/aTEL_jDcIzE_000001_000011.webm",
        "train/massaging person's head/Y0aaaaaaaaa_100000_100010.mp4",
        "validate/abseiling/3E7Jib8Yq5M_000118_000128.mp4",
        "validate/massaging person's head/_____-______000000_000010.mp4",
        "test/zzzzzzzzzzz_000000_000010.mp4",
    )
    (data / "train.csv").write_text(TRAIN)
    (data / "validate.csv").write_text(VALIDATE)
    return data
