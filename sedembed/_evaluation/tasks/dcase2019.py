"""DCASE 2019 task 1A: 10 acoustic scenes, TAU Urban Acoustic Scenes 2019 (Mesaros, Heittola & Virtanen 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from sedembed._evaluation.tasks.base import Clip, Contents, Round, Task, read_table
from sedembed._evaluation.tasks.recordings import check_root, compare
from sedembed.errors import DatasetError

__all__ = ["DCASE2019Task1A"]

_SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
_TRAIN, _TEST = "fold1_train", "fold1_evaluate"
_SIZES = {_TRAIN: 9185, _TEST: 4185}


class DCASE2019Task1A(Task):
    """Macro accuracy, the official one, on the development set's only split; no location is on both sides.

    C is chosen on an inner split of the training clips by recording location. `fold1_test.csv` names the clips of
    `fold1_evaluate.csv` without their scenes, and 1030 clips of `meta.csv` are in neither part.
    """

    name = "dcase2019-1a"
    title = "TAU Urban Acoustic Scenes 2019, development set (DCASE 2019 task 1A)"
    metric = "macro_accuracy"
    other_metrics = ("accuracy",)
    classes = len(_SCENES)
    clips = sum(_SIZES.values())
    paper: ClassVar[Mapping[str, float]] = {"talnet": 0.658, "weanet": 0.680}
    source = "https://zenodo.org/records/2589280"
    licence = "Tampere University, non-commercial"
    layout = (
        "meta.csv  (filename, scene_label, identifier, source_label; separated by tabs)\n"
        "evaluation_setup/fold1_train.csv  (filename, scene_label; separated by tabs)\n"
        "evaluation_setup/fold1_evaluate.csv  (the same)\n"
        "audio/airport-lisbon-1000-40000-a.wav …  (14400 files, of which 13370 are used)"
    )

    def read(self, data: Path) -> Contents:
        """See `Task.read`; the group is the recording location, such as ``lisbon-1000``."""
        check_root(self, data, "meta.csv")
        meta = {
            row["filename"]: row
            for row in read_table(self, data, "meta.csv", ["filename", "scene_label", "identifier"], "\t")
        }
        clips = []
        for part in _SIZES:
            name = f"evaluation_setup/{part}.csv"
            for line, row in enumerate(read_table(self, data, name, ["filename", "scene_label"], "\t"), 2):
                path, scene = row["filename"], row["scene_label"]
                known = meta.get(path, {"scene_label": scene, "identifier": ""})
                if scene not in _SCENES:
                    scenes = ", ".join(_SCENES)
                    raise self.refuse(
                        data, f"line {line} of {name} has the scene {scene!r}, expected one of {scenes}; fetch it again"
                    )
                if known["scene_label"] != scene:
                    raise self.refuse(
                        data,
                        f"line {line} of {name} has the scene {scene!r} for {path}, meta.csv has "
                        f"{known['scene_label']!r}; fetch both again",
                    )
                clips.append(Clip(path, (scene,), part, known["identifier"] or self._location(data, name, line, path)))
        unused = meta.keys() - {clip.path for clip in clips}
        contents = compare(self, data, "evaluation_setup", clips, _SIZES, unused)
        strangers = sum(clip.path not in meta for clip in clips)
        if strangers:
            contents.notes.append(f"meta.csv lacks {strangers} clips; their locations are taken from their names")
        return contents

    def _location(self, data: Path, name: str, line: int, path: str) -> str:
        parts = PurePosixPath(path).stem.split("-")
        if len(parts) != 5:
            raise self.refuse(
                data,
                f"line {line} of {name} names {path!r}, which is not in meta.csv nor of the form "
                "scene-city-location-segment-device; fetch both again",
            )
        return f"{parts[1]}-{parts[2]}"

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        """See `Task.rounds`: one, of `fold1_train` and `fold1_evaluate`.

        Raises
        ------
        DatasetError
            If there are clips of only one of them.
        """
        train, test = (np.flatnonzero([clip.part == part for clip in clips]) for part in _SIZES)
        if not len(train) or not len(test):
            raise DatasetError(
                f"{self.title} needs clips of both {_TRAIN} and {_TEST}, got {len(train)} and {len(test)}; "
                f"add the other part, from {self.source}"
            )
        return [Round("fold1", train, test)]
