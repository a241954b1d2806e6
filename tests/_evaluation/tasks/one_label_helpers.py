"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sedembed._evaluation.tasks.base import Clip, Round, Task
from sedembed.errors import DatasetError

SHARED = Path(__file__).parents[4] / "shared" / "data"


# Lines of the distributors' files.
ESC50_CSV = """\
filename,fold,target,category,esc10,src_file,take
1-100032-A-0.wav,1,0,dog,True,100032,A
1-110389-A-0.wav,1,0,dog,True,110389,A
1-17367-A-10.wav,1,10,rain,True,17367,A
2-101676-A-10.wav,2,10,rain,True,101676,A
2-114280-A-0.wav,2,0,dog,True,114280,A
3-132852-A-10.wav,3,10,rain,True,132852,A
3-136288-A-0.wav,3,0,dog,True,136288,A
4-160999-A-10.wav,4,10,rain,True,160999,A
4-182395-A-0.wav,4,0,dog,True,182395,A
5-181766-A-10.wav,5,10,rain,True,181766,A
5-203128-A-0.wav,5,0,dog,True,203128,A
5-203128-B-0.wav,5,0,dog,True,203128,B
"""


URBANSOUND8K_CSV = """\
slice_file_name,fsID,start,end,salience,fold,classID,class
100032-3-0-0.wav,100032,0,0.317551,1,5,3,dog_bark
101415-3-0-2.wav,101415,1,5,1,1,3,dog_bark
106905-8-0-0.wav,106905,43.636489,47.636489,2,1,8,siren
100652-3-0-0.wav,100652,0,4,1,2,3,dog_bark
102871-8-0-0.wav,102871,0,4,1,2,8,siren
102105-3-0-0.wav,102105,2.041889,6.041889,2,3,3,dog_bark
102102-3-0-0.wav,102102,1.573952,4.673824,2,4,3,dog_bark
111671-8-0-0.wav,111671,1.197766,5.197766,1,5,8,siren
124389-8-1-0.wav,124389,195.913986,199.913986,2,6,8,siren
102853-8-0-0.wav,102853,0,4,2,7,8,siren
103076-3-0-0.wav,103076,0,2.527184,1,8,3,dog_bark
105088-3-0-10.wav,105088,5,9,1,9,3,dog_bark
157866-8-0-0.wav,157866,0,4,1,9,8,siren
159742-8-0-0.wav,159742,0.129945,4.129945,2,10,8,siren
"""


DCASE_TRAIN = [
    "airport-lisbon-1000-40000-a.wav",
    "bus-lyon-1001-40001-a.wav",
    "metro_station-lisbon-1007-40007-a.wav",
    "metro_station-lisbon-1007-40011-a.wav",
    "street_pedestrian-lyon-1003-40003-a.wav",
    "street_traffic-lisbon-1008-40008-a.wav",
    "airport-lisbon-1000-40073-a.wav",
    "bus-lyon-1001-40044-a.wav",
]


DCASE_TEST = [
    "street_pedestrian-lyon-1162-44093-a.wav",
    "metro_station-lyon-1167-44098-a.wav",
    "airport-milan-1172-44103-a.wav",
    "bus-lyon-1177-44109-a.wav",
]


DCASE_UNUSED = ["tram-milan-1200-49999-a.wav"]


def write_table(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def sounds(tmp_path_factory, write_sounds) -> Path:
    """Return a folder with the recordings of all three, made once."""
    folder = tmp_path_factory.mktemp("sounds")
    names = [line.split(",")[0] for line in ESC50_CSV.splitlines()[1:]]
    write_sounds(folder / "esc50", dict.fromkeys(names, 0.1), rate=44_100)
    rows = [line.split(",") for line in URBANSOUND8K_CSV.splitlines()[1:]]
    write_sounds(folder / "urbansound8k", {f"fold{row[5]}/{row[0]}": 0.1 for row in rows}, rate=96_000, channels=2)
    names = DCASE_TRAIN + DCASE_TEST + DCASE_UNUSED
    write_sounds(folder / "dcase2019", dict.fromkeys(names, 0.1), rate=48_000, channels=2)
    return folder


@pytest.fixture
def esc50(tmp_path, sounds) -> Path:
    data = tmp_path / "ESC-50-master"
    write_table(data / "meta" / "esc50.csv", ESC50_CSV.splitlines())
    shutil.copytree(sounds / "esc50", data / "audio")
    return data


@pytest.fixture
def urbansound8k(tmp_path, sounds) -> Path:
    data = tmp_path / "UrbanSound8K"
    write_table(data / "metadata" / "UrbanSound8K.csv", URBANSOUND8K_CSV.splitlines())
    shutil.copytree(sounds / "urbansound8k", data / "audio")
    return data


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Function that replaces a text, which must be there, in a file."""

    def replace_text(file: Path, old: str, new: str) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return replace_text


def refusal(task: Task, data: Path) -> str:
    """Message of the refusal, which always says what was expected and where to get it."""
    with pytest.raises(DatasetError) as caught:
        task.read(data)
    message = str(caught.value)
    assert message.startswith(f"{data} is not a usable copy of {task.title}: ")
    assert task.layout in message
    assert message.endswith(f"Get it from {task.source} ({task.licence})")
    return message.split(": ", 1)[1].split(". Expected:")[0]


def check_rounds(rounds: list[Round], clips: list[Clip]) -> None:
    """What holds for every protocol."""
    for round_ in rounds:
        train, test = set(round_.train.tolist()), set(round_.test.tolist())
        assert train
        assert test
        assert not train & test
        assert train | test <= set(range(len(clips)))
        assert round_.train.dtype == round_.test.dtype == np.int64
        assert not {clips[i].part for i in train} & {clips[i].part for i in test}
        if round_.inner_folds is not None:
            assert [f"fold{fold}" for fold in round_.inner_folds] == [clips[i].part for i in round_.train]


@pytest.fixture
def dcase2019(tmp_path, sounds) -> Path:
    data = tmp_path / "TAU-urban-acoustic-scenes-2019-development"
    named = {name: name.split("-") for name in DCASE_TRAIN + DCASE_TEST + DCASE_UNUSED}
    meta = [f"audio/{name}\t{scene}\t{city}-{place}\ta" for name, (scene, city, place, *_) in named.items()]
    write_table(data / "meta.csv", ["filename\tscene_label\tidentifier\tsource_label", *meta])
    for part, names in (("train", DCASE_TRAIN), ("evaluate", DCASE_TEST)):
        lines = [f"audio/{name}\t{named[name][0]}" for name in names]
        write_table(data / "evaluation_setup" / f"fold1_{part}.csv", ["filename\tscene_label", *lines])
    write_table(data / "evaluation_setup" / "fold1_test.csv", ["filename", *(f"audio/{name}" for name in DCASE_TEST)])
    shutil.copytree(sounds / "dcase2019", data / "audio")
    return data
