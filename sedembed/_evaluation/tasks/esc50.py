"""ESC-50: 50 environmental sounds, five predefined folds (Piczak 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from sedembed._evaluation.tasks.base import Clip, Contents, Round, Task, read_table
from sedembed._evaluation.tasks.folds import leave_one_fold_out
from sedembed._evaluation.tasks.recordings import check_root, compare, whole_number

__all__ = ["ESC50"]

_METADATA = "meta/esc50.csv"
_FOLDS = 5


class ESC50(Task):
    """Mean accuracy over five folds; C is chosen by leaving out each of the four training folds."""

    name = "esc50"
    title = "ESC-50"
    metric = "accuracy"
    classes = 50
    clips = 2000
    paper: ClassVar[Mapping[str, float]] = {"talnet": 0.910, "weanet": 0.941}
    source = "https://github.com/karolpiczak/ESC-50"
    licence = "CC BY-NC 3.0"
    layout = (
        "meta/esc50.csv  (filename,fold,target,category,esc10,src_file,take)\naudio/1-100032-A-0.wav …  (2000 files)"
    )

    def read(self, data: Path) -> Contents:
        """See `Task.read`; recordings may be of another format than WAV, also where the CSV says .wav."""
        check_root(self, data, _METADATA)
        rows = read_table(self, data, _METADATA, ["filename", "fold", "target", "category", "src_file"])
        clips, names = [], dict[int, str]()
        for line, row in enumerate(rows, 2):
            fold = whole_number(self, data, _METADATA, line, row, "fold", range(1, _FOLDS + 1))
            target = whole_number(self, data, _METADATA, line, row, "target", range(self.classes))
            category = row["category"]
            if names.setdefault(target, category) != category or not category:
                raise self.refuse(
                    data,
                    f"line {line} of {_METADATA} has the category {category!r} for target {target}, which is "
                    f"{names[target]!r} elsewhere; fetch it again",
                )
            clips.append(Clip(f"audio/{row['filename']}", (category,), f"fold{fold}", row["src_file"]))
        if len(set(names.values())) < len(names):
            raise self.refuse(data, f"{_METADATA} gives several targets the same category; fetch it again")
        sizes = {f"fold{fold}": self.clips // _FOLDS for fold in range(1, _FOLDS + 1)}
        return compare(self, data, _METADATA, clips, sizes)

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        """See `Task.rounds`: each fold is the test set once, see `leave_one_fold_out`."""
        return leave_one_fold_out(self, clips)
