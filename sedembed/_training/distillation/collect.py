"""Build a folder of training audio from repositories of sound files.

``python -m sedembed._training.distillation.collect --help``. A table names the sources. Each is cut into segments of
up to 10 s, compared with evaluation sets, and described by the teacher. The same sources give the same files.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import logging
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from sedembed._training.distillation.coverage import choose_by_coverage
from sedembed._training.distillation.fingerprint import SAME_RECORDING, FingerprintIndex, fingerprint
from sedembed._training.distillation.teacher import Teacher, load_teacher, to_teacher_rate
from sedembed.errors import DatasetError

__all__ = ["Segment", "Source", "collect", "cut_source", "main", "read_table"]

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
_LONGEST, _SHORTEST = 10 * SAMPLE_RATE, SAMPLE_RATE // 2
_JOINED_BELOW = 3 * SAMPLE_RATE  # shorter recordings are joined, with gaps
_SILENT = 2e-3  # peak below which a sound counts as empty
_ALREADY_THERE = 0.5  # score from which a segment is in the known collection already
_NUMBER = re.compile(r"\d+")
_SOUND = re.compile(r"\.(wav|mp3|ogg|flac)$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One row of the table.

    Attributes
    ----------
    repository : str
        "owner/name"; looked for as the folder ``owner+name``: a work tree, a bare git directory, or ``repo`` in it.
    collection : str
        Name of the folder that the segments go to.
    kind, licence : str
        What is in it, and the licence as stated there; both are for the model card.
    keep, drop : str
        Regular expressions of paths to use and, unless empty, not to use.
    most_files, most_segments : int
        How many files at most, drawn at random, and how many segments of each.
    """

    repository: str
    collection: str
    kind: str
    licence: str
    keep: str
    drop: str
    most_files: int
    most_segments: int


@dataclass(frozen=True)
class Segment:
    """Audio for one file: int16 at 16 kHz, and whether it was cut from a recording or joined from short ones."""

    samples: NDArray[np.int16]
    how: str


def read_table(path: Path) -> list[Source]:
    """Read the CSV table of sources; its columns are the attributes of `Source`."""
    names = [field.name for field in fields(Source)]
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if rows and list(rows[0]) != names:
        raise DatasetError(f"Expected the columns {names} in {path}, got {list(rows[0])}. Correct the header.")
    return [
        Source(
            row["repository"],
            row["collection"],
            row["kind"],
            row["licence"],
            row["keep"],
            row["drop"],
            int(row["most_files"]),
            int(row["most_segments"]),
        )
        for row in rows
    ]


def _git(directory: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(directory), *arguments], check=True, capture_output=True).stdout


def _list_files(directory: Path) -> dict[str, str]:
    """Hash of the content (as git's) and path of each file; of equal files the first path only."""
    found: dict[str, str] = {}
    if (directory / "HEAD").exists():
        for line in (
            _git(directory, "-c", "core.quotepath=off", "ls-tree", "-r", "HEAD").decode(errors="replace").splitlines()
        ):
            description, path = line.split("\t", 1)
            found.setdefault(description.split()[2], path)
        return found
    for file in sorted(directory.rglob("*")):
        if file.is_file() and _SOUND.search(file.name):
            content = file.read_bytes()
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            found.setdefault(digest, file.relative_to(directory).as_posix())
    return found


def _decode(directory: Path, digest: str, path: str) -> NDArray[np.float32]:
    bare = (directory / "HEAD").exists()
    content = _git(directory, "cat-file", "blob", digest) if bare else (directory / path).read_bytes()
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    mono = samples.mean(1)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    return np.asarray(mono, dtype=np.float32)


def cut_source(
    source: Source, directory: Path, seen: set[str], forbidden: frozenset[str] = frozenset()
) -> Iterator[Segment]:
    """Cut the recordings of one source, in the order of their paths.

    Parameters
    ----------
    source : Source
    directory : Path
        A bare git directory, or a folder of sound files.
    seen : set of str
        Hashes of files that were used before; those used here are added.
    forbidden : frozenset of str
        Files whose name holds one of these numbers are not used, for example Freesound numbers of an evaluation set.
    """
    rng = random.Random(source.repository)
    items = [
        (digest, path)
        for digest, path in _list_files(directory).items()
        if _SOUND.search(path)
        and re.search(source.keep, path)
        and not (source.drop and re.search(source.drop, path))
        and digest not in seen
        and forbidden.isdisjoint(_NUMBER.findall(path.rsplit("/", 1)[-1]))
    ]
    rng.shuffle(items)
    items = sorted(items[: source.most_files], key=lambda item: item[1])
    seen.update(digest for digest, _ in items)
    pending: list[NDArray[np.float32]] = []
    for digest, path in items:
        try:
            waveform = _decode(directory, digest, path)
        except (subprocess.CalledProcessError, soundfile.LibsndfileError, OSError, ValueError) as error:
            logger.info("%s: %s is not readable (%s)", source.collection, path, error)
            continue
        if not len(waveform) or not np.isfinite(waveform).all() or np.abs(waveform).max() < _SILENT:
            continue
        if len(waveform) >= _JOINED_BELOW:
            count = min(source.most_segments, max(1, len(waveform) // _LONGEST))
            for number in range(count):
                spare = len(waveform) - _LONGEST
                share = 0.0 if spare <= 0 else number / (count - 1) if count > 1 else rng.random()
                yield from _finish([waveform[int(max(0, spare) * share) :]])
        else:
            if sum(map(len, pending)) + len(waveform) > _LONGEST:
                yield from _finish(pending)
                pending = []
            pending += [waveform, np.zeros(int(SAMPLE_RATE * rng.uniform(0.15, 0.6)), np.float32)]
    if pending:
        yield from _finish(pending)


def _finish(parts: Sequence[NDArray[np.float32]]) -> Iterator[Segment]:
    waveform = np.concatenate(parts)[:_LONGEST] if parts else np.zeros(0, np.float32)
    if len(waveform) >= _SHORTEST and np.abs(waveform).max() >= _SILENT:
        samples = (np.clip(waveform, -1.0, 1.0) * 32767).astype(np.int16)
        yield Segment(samples, "joined" if len(parts) > 1 else "cut")


def _directory_of(source: Source, sources: Path) -> Path | None:
    folder = sources / source.repository.replace("/", "+")
    return next(
        (path for path in (folder / "repo" / ".git", folder / "repo", folder / ".git", folder) if path.is_dir()), None
    )


def _fingerprints_of(paths: Sequence[Path]) -> list[NDArray[np.int8]]:
    found = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        found.append(
            fingerprint(soxr.resample(samples.mean(1), rate, SAMPLE_RATE) if rate != SAMPLE_RATE else samples.mean(1))
        )
    return found


def _is_known(segment: Segment, evaluation: FingerprintIndex, already: FingerprintIndex) -> bool:
    mark = fingerprint(segment.samples / np.float32(32768.0))
    return bool(
        evaluation.scores(mark).max(initial=0.0) >= SAME_RECORDING
        or already.scores(mark).max(initial=0.0) >= _ALREADY_THERE
    )


def _ask(teacher: Teacher, segments: Sequence[Segment]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Logits and embeddings of segments, each repeated to 10 s, as the rows of ``teacher.npz`` are."""
    logits, embeddings = [], []
    with torch.inference_mode():
        for segment in segments:
            waveform = np.resize(segment.samples, _LONGEST).astype(np.float32) / 32768.0
            output = teacher(to_teacher_rate(waveform[None], SAMPLE_RATE))
            logits.append(output.logits[0].numpy())
            embeddings.append(output.embeddings[0].numpy())
    return np.array(logits, dtype=np.float16), np.array(embeddings, dtype=np.float16)


@dataclass(frozen=True)
class _Row:
    file: str
    collection: str
    seconds: float
    how: str


def collect(
    table: Sequence[Source],
    sources: Path,
    out: Path,
    teacher: Teacher,
    *,
    evaluation: Sequence[Path] = (),
    exclude: frozenset[str] = frozenset(),
    forbidden: frozenset[str] = frozenset(),
    known: Path | None = None,
    hours: float | None = None,
) -> None:
    """Write ``audio/``, ``segments.csv``, ``sources.csv`` and ``teacher.npz`` into `out`.

    Parameters
    ----------
    table : sequence of Source
    sources : Path
        Folder with a folder ``owner+name`` for each repository; one that is missing is skipped with a warning.
    out : Path
        Folder to write to; its ``audio`` must not exist.
    teacher : Teacher
    evaluation : sequence of Path
        Sound files that must not be trained on. Segments that score `SAME_RECORDING` or more with one are left out.
    exclude : frozenset of str
        Segments to leave out, "collection/number", for example from an earlier comparison.
    forbidden : frozenset of str
        Numbers in names of files that are not used, see `cut_source`.
    known : Path, optional
        A folder of the same form. Segments that are in its collection of the same name already are left out.
    hours : float, optional
        Keep so much at most, chosen by the coverage of sound events beyond those of `known`.
    """
    index = FingerprintIndex(_fingerprints_of(evaluation))
    (out / "audio").mkdir(parents=True)
    rows: list[_Row] = []
    answers: list[tuple[NDArray[np.float16], NDArray[np.float16]]] = []
    seen: set[str] = set()
    for source in table:
        directory = _directory_of(source, sources)
        if directory is None:
            logger.warning("%s is not in %s and is skipped", source.repository, sources)
            continue
        there = sorted((known / "audio" / source.collection).glob("*")) if known else []
        already = FingerprintIndex(_fingerprints_of(there))
        kept, dropped = [], 0
        for number, segment in enumerate(cut_source(source, directory, seen, forbidden)):
            name = f"{source.collection}/{number:04d}"
            if name in exclude or _is_known(segment, index, already):
                dropped += 1
                continue
            kept.append(segment)
            path = out / "audio" / f"{name}.flac"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, segment.samples, SAMPLE_RATE)
            seconds = round(len(segment.samples) / SAMPLE_RATE, 3)
            rows.append(_Row(f"{name}.flac", source.collection, seconds, segment.how))
        if kept:
            answers.append(_ask(teacher, kept))
        logger.info("%s: %d segments kept, %d left out", source.collection, len(kept), dropped)
    if not rows:
        raise DatasetError(
            f"Expected sound files of the table's repositories in {sources}, found none. Fetch them first."
        )
    all_logits, all_embeddings = (np.concatenate(part) for part in zip(*answers, strict=True))
    if hours is not None:
        amounts = None if known is None else _probabilities(np.load(known / "teacher.npz")["logits"]).sum(0)
        durations = np.array([row.seconds for row in rows])
        chosen = np.sort(choose_by_coverage(_probabilities(all_logits), durations, hours * 3600.0, amounts))
        for number in set(range(len(rows))) - set(chosen.tolist()):
            (out / "audio" / rows[number].file).unlink()
        rows = [rows[number] for number in chosen]
        all_logits, all_embeddings = all_logits[chosen], all_embeddings[chosen]
    _write(out, table, rows, all_logits, all_embeddings)


def _probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-logits.astype(np.float64))))


def _write(
    out: Path,
    table: Sequence[Source],
    rows: Sequence[_Row],
    logits: NDArray[np.float16],
    embeddings: NDArray[np.float16],
) -> None:
    np.savez(out / "teacher.npz", files=np.array([row.file for row in rows]), logits=logits, embeddings=embeddings)
    with (out / "segments.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(_Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    with (out / "sources.csv").open("w", newline="", encoding="utf-8") as stream:
        plain = csv.writer(stream)
        plain.writerow(["collection", "repository", "kind", "segments", "hours", "licence_as_stated"])
        for source in table:
            taken = [row.seconds for row in rows if row.collection == source.collection]
            if taken:
                hours = round(sum(taken) / 3600.0, 2)
                plain.writerow([source.collection, source.repository, source.kind, len(taken), hours, source.licence])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="CSV table of sources")
    parser.add_argument("--sources", type=Path, required=True, help="folder of the repositories, each as owner+name")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--teacher", type=Path, required=True, help="mn04_as.safetensors")
    parser.add_argument("--evaluation", type=Path, nargs="*", default=[], help="folders of sounds not to train on")
    parser.add_argument("--exclude", type=Path, help="text file of segments to leave out, one collection/number a line")
    parser.add_argument("--forbidden", type=Path, help="text file of Freesound numbers not to use, one a line")
    parser.add_argument("--known", type=Path, help="folder of the same form whose segments are not taken again")
    parser.add_argument("--hours", type=float, help="keep so much at most, by coverage of sound events")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lines = arguments.exclude.read_text(encoding="utf-8").splitlines() if arguments.exclude else []
    collect(
        read_table(arguments.table),
        arguments.sources,
        arguments.out,
        load_teacher(arguments.teacher),
        evaluation=[
            path for folder in arguments.evaluation for path in sorted(folder.rglob("*")) if _SOUND.search(path.name)
        ],
        exclude=frozenset(
            line.strip().rsplit(".", 1)[0] for line in lines if line.strip() and not line.startswith("#")
        ),
        forbidden=frozenset(arguments.forbidden.read_text(encoding="utf-8").split())
        if arguments.forbidden
        else frozenset(),
        known=arguments.known,
        hours=arguments.hours,
    )


if __name__ == "__main__":
    main()
