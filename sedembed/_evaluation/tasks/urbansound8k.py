"""UrbanSound8K: 10 urban sounds, ten predefined folds (Salamon, Jacoby & Bello 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from sedembed._evaluation.tasks.base import Clip, Contents, Round, Task, read_table
from sedembed._evaluation.tasks.folds import leave_one_fold_out
from sedembed._evaluation.tasks.recordings import check_root, compare, whole_number

__all__ = ["UrbanSound8K"]

_METADATA = "metadata/UrbanSound8K.csv"
_CLASSES = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)
_SIZES = (873, 888, 925, 990, 936, 823, 838, 806, 816, 837)


class UrbanSound8K(Task):
    """Mean accuracy over ten folds, never reshuffled: slices of one recording share a fold, but for five recordings.

    C is chosen by leaving out each of the nine training folds.
    """

    name = "urbansound8k"
    title = "UrbanSound8K"
    metric = "accuracy"
    other_metrics = ("macro_accuracy",)
    classes = 10
    clips = sum(_SIZES)
    paper: ClassVar[Mapping[str, float]] = {"talnet": 0.852, "weanet": 0.852}
    source = "https://zenodo.org/records/1203745"
    licence = "CC BY-NC"
    layout = (
        "metadata/UrbanSound8K.csv  (slice_file_name,fsID,start,end,salience,fold,classID,class)\n"
        "audio/fold1/7061-6-0-0.wav …  (8732 files in fold1 to fold10)"
    )

    def read(self, data: Path) -> Contents:
        """See `Task.read`."""
        check_root(self, data, _METADATA)
        rows = read_table(self, data, _METADATA, ["slice_file_name", "fsID", "fold", "classID", "class"])
        clips = []
        for line, row in enumerate(rows, 2):
            fold = whole_number(self, data, _METADATA, line, row, "fold", range(1, len(_SIZES) + 1))
            label = _CLASSES[whole_number(self, data, _METADATA, line, row, "classID", range(len(_CLASSES)))]
            if row["class"] != label:
                raise self.refuse(
                    data,
                    f"line {line} of {_METADATA} has the class {row['class']!r} for classID {row['classID']}, expected "
                    f"{label!r}; fetch it again",
                )
            path = f"audio/fold{fold}/{row['slice_file_name']}"
            clips.append(Clip(path, (label,), f"fold{fold}", row["fsID"]))
        return compare(self, data, _METADATA, clips, {f"fold{i}": size for i, size in enumerate(_SIZES, 1)})

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        """See `Task.rounds`: each fold is the test set once, see `leave_one_fold_out`."""
        return leave_one_fold_out(self, clips)
