"""MagnaTagATune (Law et al. 2009): 50 tags of music clips, collected by a game."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed._evaluation.tasks.base import Clip, Contents, Round, Task
from sedembed._evaluation.tasks.recordings import any_case, check_root
from sedembed.errors import DatasetError

__all__ = ["TOP_TAGS", "MagnaTagATune"]

_ANNOTATIONS = "annotations_final.csv"
_ROWS = 25_863
_FOLDERS = "0123456789abcdef"
_PARTS = {folder: "train" if folder <= "b" else "valid" if folder == "c" else "test" for folder in _FOLDERS}
_PATH = re.compile(r"[0-9a-f]/[^/\\]+\.mp3")
_OFFSETS = re.compile(r"-\d+-\d+\.mp3$")
_BROKEN = (35_644, 55_753, 57_881)

#: The 50 most frequent of the 188 tags, synonyms not merged; fixed, so that a copy with fewer clips has the same.
TOP_TAGS: tuple[str, ...] = (
    *("guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano"),
    *("ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing"),
    *("vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop"),
    *("soft", "sitar", "solo", "man", "classic", "choir", "voice", "new age", "dance", "male voice"),
    *("female vocal", "beats", "harp", "cello", "no voice", "weird", "country", "female voice", "metal", "choral"),
)


class _Annotations(NamedTuple):
    """What `annotations_final.csv` says, row by row."""

    ids: list[int]
    paths: list[str]
    tags: list[str]  # all that the file has
    given: NDArray[np.bool_]  # (rows, tags)


class MagnaTagATune(Task):
    """Tag music; the split is by folder, 12:1:3.

    Parameters
    ----------
    keep_untagged : bool
        Whether clips without any of the 50 tags belong to the task. The paper does not say; `Contents.notes` gives the
        sizes of both readings.
    """

    name = "magnatagatune"
    title = "MagnaTagATune"
    metric = "mauc"
    other_metrics = ("map",)
    multilabel = True
    classes = len(TOP_TAGS)
    paper: ClassVar[Mapping[str, float]] = {"talnet": 0.915, "weanet": 0.915}
    source = "https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset"
    licence = "CC BY-NC-SA 3.0"
    clips = _ROWS - len(_BROKEN)
    layout = f"""\
{_ANNOTATIONS} (tab-separated: clip_id, 188 tags, mp3_path)
0/*.mp3 … 9/*.mp3, a/*.mp3 … f/*.mp3, these 16 folders there or in one folder, such as mp3/0/*.mp3"""

    def __init__(self, *, keep_untagged: bool = True) -> None:
        self.keep_untagged = keep_untagged

    def read(self, data: Path) -> Contents:
        """Read `annotations_final.csv` and list the 16 folders; see `Task.read`."""
        annotations = self._read_annotations(data)
        root = self._find_recordings(data)
        notes: list[str] = []
        if len(annotations.ids) < _ROWS:
            notes.append(f"incomplete: {_ANNOTATIONS} has {len(annotations.ids)} of {_ROWS} rows")
        notes += _compare_tags(annotations)
        there = self._list(data, root)
        find = any_case(there, [root + path for path in annotations.paths])
        found = {path: find(root + path) for path in annotations.paths}
        clips: list[Clip] = []
        excluded: dict[str, str] = {}
        top = annotations.given[:, [annotations.tags.index(tag) for tag in TOP_TAGS]]
        for clip_id, path, given in zip(annotations.ids, annotations.paths, top, strict=True):
            if clip_id in _BROKEN:
                excluded[found[path] or root + path] = f"clip {clip_id} is known to be broken"
                continue
            labels = tuple(TOP_TAGS[k] for k in np.flatnonzero(given))
            clips.append(Clip(found[path] or root + path, labels, _PARTS[path[0]], _OFFSETS.sub("", path)))
        tagged = [clip for clip in clips if clip.labels]
        notes.append(
            f"clips without a top-50 tag are {'kept' if self.keep_untagged else 'left out'}, the paper does not say "
            f"which; with them: {_sizes(clips)}; without them: {_sizes(tagged)}"
        )
        if not self.keep_untagged:
            clips = tagged
        extra = sorted(there.difference(file for file in found.values() if file is not None))
        return Contents(clips, [clip.path for clip in clips if clip.path not in there], extra, excluded, notes)

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        """Make the one round: train on folders 0 to b, tune C on folder c, test on folders d to f.

        Raises
        ------
        DatasetError
            If these clips hold none to train or none to test on.
        """
        train, validation, test = (
            np.array([i for i, clip in enumerate(clips) if clip.part == part], dtype=np.int64)
            for part in ("train", "valid", "test")
        )
        for indices, folders in ((train, "0 to b"), (test, "d to f")):
            if not len(indices):
                raise DatasetError(
                    f"{self.title} needs recordings of folders {folders}, found none among {len(clips)} clips; add some"
                )
        return [Round("folders", train, test, validation if len(validation) else None)]

    def _read_annotations(self, data: Path) -> _Annotations:
        from pyarrow import ArrowException
        from pyarrow import csv as arrow_csv

        header = self._read_header(data)
        tags = [column for column in header if column not in ("clip_id", "mp3_path")]
        types = {"clip_id": "int64", "mp3_path": "string", **dict.fromkeys(tags, "int8")}
        try:
            table = arrow_csv.read_csv(
                data / _ANNOTATIONS,
                read_options=arrow_csv.ReadOptions(use_threads=False),
                parse_options=arrow_csv.ParseOptions(delimiter="\t"),
                convert_options=arrow_csv.ConvertOptions(column_types=types, null_values=[]),
            )
        except (ArrowException, OSError) as error:
            raise self.refuse(data, f"{_ANNOTATIONS} is damaged ({error}); fetch it again") from error
        ids, paths = table["clip_id"].to_pylist(), table["mp3_path"].to_pylist()
        if not ids or len(ids) > _ROWS:
            raise self.refuse(data, f"{_ANNOTATIONS} has {len(ids)} rows, the original has {_ROWS}; fetch it again")
        given = np.column_stack([table[tag].to_numpy() for tag in tags])
        if len(wrong := np.argwhere((given != 0) & (given != 1))):
            row, tag = wrong[0]
            raise self.refuse(
                data,
                f"{_ANNOTATIONS} gives clip {ids[row]} {given[row, tag]} for {tags[tag]!r}, not 0 or 1; fetch it again",
            )
        if foreign := [path for path in paths if not _PATH.fullmatch(path)]:
            raise self.refuse(
                data, f"{_ANNOTATIONS} has mp3_path {foreign[0]!r}, expected such as 'f/name.mp3'; fetch it again"
            )
        for column, values in (("clip_id", ids), ("mp3_path", paths)):
            value, times = Counter(values).most_common(1)[0]
            if times > 1:
                raise self.refuse(data, f"{_ANNOTATIONS} has {column} {value} {times} times; fetch it again")
        return _Annotations(ids, paths, tags, given.astype(np.bool_))

    def _read_header(self, data: Path) -> list[str]:
        """Read the column names, after checking that the file is there and has those that are needed."""
        check_root(self, data, _ANNOTATIONS)
        try:
            with (data / _ANNOTATIONS).open(newline="", encoding="utf-8-sig") as stream:
                header = next(csv.reader(stream, delimiter="\t"), [])
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise self.refuse(data, f"{_ANNOTATIONS} cannot be read ({error}); fetch it again") from error
        if len(header) < 2:
            raise self.refuse(data, f"the columns of {_ANNOTATIONS} are not separated by tabs; fetch it again")
        if absent := [column for column in ("clip_id", "mp3_path", *TOP_TAGS) if column not in header]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            raise self.refuse(data, f"{_ANNOTATIONS} lacks the columns {absent[:5]}{more}; fetch it again")
        if twice := sorted(column for column, times in Counter(header).items() if times > 1):
            raise self.refuse(data, f"{_ANNOTATIONS} has the columns {twice} more than once; fetch it again")
        return header

    def _find_recordings(self, data: Path) -> str:
        """Find the 16 folders: "" if they are in the data folder, else the name of the one around them and a slash."""
        children = sorted(child for child in data.iterdir() if child.is_dir() and not child.name.startswith("."))
        roots = [root for root in (data, *children) if any(map(_holds_sound, _sound_folders(root)))]
        if not roots:
            raise self.refuse(
                data,
                "none of the folders 0 to f with MP3 files is in it, or in a folder of it; "
                "join the parts (cat mp3.zip.00* > mp3.zip) and extract mp3.zip there",
            )
        if len(roots) > 1:
            raise self.refuse(data, f"MP3 files lie in {roots[0]} and in {roots[1]}; move all of them into one")
        return "" if roots[0] == data else f"{roots[0].name}/"

    def _list(self, data: Path, root: str) -> set[str]:
        """List the sound files in the 16 folders, relative to the data folder."""
        # Not at the top: it brings torch, and a list of the tasks should not wait for that.
        from sedembed.audio.listing import list_recordings

        there: set[str] = set()
        for place in _sound_folders(data / root):
            folder = f"{root}{place.name}"
            listing = list_recordings(place)
            for path, (_, message) in listing.failures.items():
                raise self.refuse(data, f"{folder}/{path} cannot be used: {message}")
            there.update(f"{folder}/{path}" for path in listing.files)
        return there


def _sound_folders(root: Path) -> list[Path]:
    """Those of the 16 folders that are there, in any case."""
    return sorted(child for child in root.iterdir() if child.name.lower() in tuple(_FOLDERS) and child.is_dir())


def _holds_sound(folder: Path) -> bool:
    from sedembed.audio.reader import AUDIO_EXTENSIONS

    return any(file.suffix.lower() in AUDIO_EXTENSIONS for file in folder.iterdir() if not file.name.startswith("."))


def _compare_tags(annotations: _Annotations) -> list[str]:
    """Note if the 50 most frequent tags of a whole file are others; of equally frequent ones the usual come first."""
    if len(annotations.ids) < _ROWS:
        return []
    counts = dict(zip(annotations.tags, annotations.given.sum(axis=0).tolist(), strict=True))
    found = set(sorted(counts, key=lambda tag: (-counts[tag], tag not in TOP_TAGS))[: len(TOP_TAGS)])
    if found == set(TOP_TAGS):
        return []
    return [
        f"the 50 most frequent tags of this {_ANNOTATIONS} include {sorted(found - set(TOP_TAGS))} instead of "
        f"{sorted(set(TOP_TAGS) - found)}; the usual 50 are used"
    ]


def _sizes(clips: Sequence[Clip]) -> str:
    parts = Counter(clip.part for clip in clips)
    return ", ".join(f"{parts[part]} {part}" for part in ("train", "valid", "test"))
