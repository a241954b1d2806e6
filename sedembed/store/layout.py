"""How a store lies on disk: names, columns, and reading of single files.

``run.json`` says what the vectors were made with. ``embeddings/vectors-N.parquet`` hold them, one row a recording,
``frames/frames-N-M.parquet`` the frame vectors, and ``failures.parquet`` what gave no vector. ``manifest.json`` names
all of them (`sedembed.store.manifest`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sedembed._utils.files import sha256_of
from sedembed._utils.schema import Range, check_fields, from_table, read_json_object
from sedembed.errors import StoreError
from sedembed.store.manifest import MANIFEST_FILE, Content, Manifest, content_of

__all__ = [
    "FAILURES_FILE",
    "FAILURES_SCHEMA",
    "FORMAT_VERSION",
    "FRAMES",
    "RECORDINGS_KEY",
    "RUN_FILE",
    "SHARDS",
    "as_lists",
    "as_matrix",
    "check_files",
    "damaged",
    "frames_schema",
    "list_shards",
    "missing",
    "name_of",
    "naming_damage",
    "open_shard",
    "read_failures",
    "read_frames",
    "read_run",
    "read_shard",
    "schema_of",
    "shard_number",
    "shard_schema",
]

FORMAT_VERSION = 1
RUN_FILE = "run.json"
FAILURES_FILE = "failures.parquet"
SHARDS = "embeddings"
FRAMES = "frames"
# In the metadata of a shard: size and time of change (ns) of each recording, as JSON.
RECORDINGS_KEY = b"sedembed.recordings"
PARQUET_OPTIONS: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["path"], "write_page_checksum": True}
FAILURES_SCHEMA = pa.schema([("path", pa.string()), ("error", pa.string()), ("message", pa.string())])


def shard_schema(embedding_size: int, windows: bool = False, tags: int = 0) -> pa.Schema:
    """Columns of a shard of vectors.

    Parameters
    ----------
    embedding_size : int
        Length of a vector.
    windows : bool
        Whether a row is a window of a recording. The column ``last`` says whether the recording ends with it.
    tags : int
        How many probabilities of events stand beside a vector.
    """
    place = [("start", pa.float64()), ("end", pa.float64()), ("last", pa.bool_())]
    return pa.schema(
        [
            ("path", pa.string()),
            *(place if windows else [("duration", pa.float64())]),
            ("sample_rate", pa.int32()),
            ("channels", pa.int32()),
            ("embedding", pa.list_(pa.float32(), embedding_size)),
            *([("tags", pa.list_(pa.float16(), tags))] if tags else []),
        ]
    )


def schema_of(run: Mapping[str, Any]) -> pa.Schema:
    """Columns of the shards of a store, by its `run.json`."""
    settings = run["settings"]
    return shard_schema(int(settings["embedding_size"]), "window" in settings, int(settings.get("tags", 0)))


def frames_schema(embedding_size: int) -> pa.Schema:
    """Columns of a shard of frame vectors."""
    return pa.schema(
        [("path", pa.string()), ("time", pa.float64()), ("embedding", pa.list_(pa.float32(), embedding_size))]
    )


def as_matrix(column: pa.ChunkedArray, size: int, dtype: type[np.floating] = np.float32) -> NDArray[Any]:
    """Rows of a column of vectors, shape (rows, size)."""
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, dtype), *flat]).reshape(-1, size)


def as_lists(blocks: list[NDArray[np.float32]], dtype: type[np.floating] = np.float32) -> pa.FixedSizeListArray:
    """Join matrices of one width to a column of lists: the inverse of `as_matrix`."""
    matrix = np.concatenate(blocks).astype(dtype, copy=False)
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def shard_number(file: Path) -> int:
    """Return the number of a shard; frames shards carry that of the shard they were committed with."""
    return int(file.name.split("-")[1].split(".")[0])


def list_shards(directory: Path, kind: str = SHARDS) -> list[Path]:
    """Finished shards in the order in which they were written; files half written begin with a dot."""
    pattern = re.compile(r"vectors-\d+\.parquet" if kind == SHARDS else r"frames-\d+-\d+\.parquet")
    files = (file for file in (directory / kind).glob("*.parquet") if pattern.fullmatch(file.name))
    return sorted(files, key=lambda file: (shard_number(file), file.name))


def name_of(file: Path) -> str:
    """Name of a file of a store as the manifest has it."""
    return file.name if file.name == FAILURES_FILE else f"{file.parent.name}/{file.name}"


def read_shard(file: Path, schema: pa.Schema, columns: list[str], manifest: Manifest | None = None) -> pa.Table:
    """Columns of one shard, checked against the manifest and against what this library writes."""
    return open_shard(file, schema, columns, manifest)[0]


def open_shard(
    file: Path, schema: pa.Schema, columns: list[str] | None, manifest: Manifest | None = None
) -> tuple[pa.Table, Content, list[tuple[int, int]] | None]:
    """Columns (None: all) of one shard, what the file holds, and size and time of change of its recordings if kept."""
    with naming_damage(file):
        data = file.read_bytes()
        found = content_of(data, 0)
        if manifest is not None and not manifest.fits(name_of(file), found):
            _refuse_schema(pq.read_schema(pa.BufferReader(data)), schema)
            current = Manifest.read(file.parents[1])
            if current is not None and current.fits(name_of(file), found):
                raise StoreError(f"{file.parents[1]} has changed since it was opened; open it again.")
            raise ValueError("its size or checksum is not that of the manifest")
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as opened:
            _refuse_schema(opened.schema_arrow, schema)
            # One thread: one of Arrow's that lets go of `data` while Python ends would abort the process.
            table = opened.read(columns, use_threads=False)
            recordings = (opened.schema_arrow.metadata or {}).get(RECORDINGS_KEY)
        pairs = None if recordings is None else [(int(a), int(b)) for a, b in json.loads(recordings)]
        if pairs is not None and len(pairs) != len(table):
            raise ValueError("its rows and the sizes of its recordings differ in number")
        return table, found._replace(rows=len(table)), pairs


def _refuse_schema(found: pa.Schema, expected: pa.Schema) -> None:
    if not found.equals(expected):
        raise ValueError(f"its columns are {found.names}, of other names or types than expected")


def read_failures(directory: Path, manifest: Manifest | None = None) -> pa.Table:
    """Failures of a store; an empty table if there were none."""
    file = directory / FAILURES_FILE
    if not file.exists():
        if manifest is not None and FAILURES_FILE in manifest.files:
            raise missing(file)
        return FAILURES_SCHEMA.empty_table()
    with naming_damage(file):
        data = file.read_bytes()
        if manifest is not None and not manifest.fits(FAILURES_FILE, content_of(data, 0)):
            raise ValueError("its size or checksum is not that of the manifest")
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as opened:
            _refuse_schema(opened.schema_arrow, FAILURES_SCHEMA)
            return opened.read(use_threads=False)  # as above


def read_frames(file: Path, embedding_size: int, path: str, manifest: Manifest | None = None) -> pa.Table:
    """Rows of one recording in a file of frames, an empty table if there are none; what is read is checked."""
    schema = frames_schema(embedding_size)
    with naming_damage(file):
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            _refuse_schema(opened.schema_arrow, schema)
            groups = [group for group in range(opened.num_row_groups) if _may_hold(opened.metadata, group, path)]
            if not groups:
                return schema.empty_table()
            wanted = () if manifest is None else manifest.files.get(name_of(file), ())
            if wanted and sha256_of(file) not in {content.sha256 for content in wanted}:
                raise ValueError("its checksum is not that of the manifest")
            table = opened.read_row_groups(groups)
        return table.filter(pc.equal(table["path"], path))


def _may_hold(metadata: pq.FileMetaData, group: int, path: str) -> bool:
    """Whether the statistics of a row group leave it possible that it holds a path."""
    statistics = metadata.row_group(group).column(0).statistics
    return statistics is None or not statistics.has_min_max or statistics.min <= path <= statistics.max


def read_run(directory: Path) -> dict[str, Any]:
    """Contents of `run.json`, checked.

    Raises
    ------
    StoreError
        If there is none, it is damaged, or of another format.
    """
    file = directory / RUN_FILE
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"Expected a store at {directory}, found no {RUN_FILE} there; make one with embed_folder."
        ) from None
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror or error}; check its permissions.") from error
    try:
        run = read_json_object(text, "its text")
        if type(run.get("format_version")) is int and run["format_version"] != FORMAT_VERSION:
            raise StoreError(
                f"{directory} has format {run['format_version']}, and this sedembed reads format {FORMAT_VERSION}; "
                "use the version of sedembed that wrote it, or embed the folder again."
            )
        _check_run(run)
    except StoreError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(
            f"{file} is damaged ({error}); restore it from a copy, or delete the store and run embed_folder again."
        ) from error
    return run


@dataclass(frozen=True)
class _Settings:
    """Settings that reading depends on; `run.json` holds more."""

    embedding_size: Annotated[int, Range(1, 2**20)]
    frames: bool
    window: Annotated[float, Range(0, open=True)] | None = None
    hop: Annotated[float, Range(0, open=True)] | None = None
    tags: Annotated[int, Range(0, 2**20)] = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class _Shard:
    """Which part of a job a store holds."""

    index: Annotated[int, Range(0)]
    count: Annotated[int, Range(1)]
    complete: bool

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class _Run:
    """Contents of `run.json` that reading depends on."""

    format_version: Literal[1]
    fingerprint: str
    settings: Mapping[str, Any]
    folder: str
    model: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    manifest: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


def _check_run(run: Mapping[str, Any]) -> None:
    json.dumps(run, allow_nan=False)  # refuses NaN and infinity wherever they are
    for cls, values, where in ((_Run, run, "its text"), (_Settings, run.get("settings"), "settings")):
        known = {item.name for item in fields(cls)}
        if isinstance(values, Mapping):
            values = {key: value for key, value in values.items() if key in known}
        from_table(cls, values, where)
    if "shard" in run:
        from_table(_Shard, run["shard"], "shard", whole=True)
    for name in ("model", "versions"):
        if not all(isinstance(value, str) for value in run.get(name, {}).values()):
            raise ValueError(f"{name}: expected texts")
    expected = hashlib.sha256(json.dumps(run["settings"], sort_keys=True).encode()).hexdigest()
    if re.fullmatch("[0-9a-f]{64}", run["fingerprint"]) and run["fingerprint"] != expected:
        raise ValueError("its fingerprint does not fit its settings")


def missing(file: Path) -> StoreError:
    """Make the error for a file that the manifest names and that is not there."""
    return StoreError(
        f"Expected the file {file}, which {MANIFEST_FILE} names, and found none; restore it from a copy, or run "
        "embed_folder again, which embeds what was in it."
    )


def check_files(directory: Path, run: dict[str, Any]) -> tuple[Manifest | None, list[Path]]:
    """Read the manifest and look at each file that it names; once more if a writer was at work meanwhile."""
    for attempt in range(3):
        manifest = Manifest.read(directory)
        shards = list_shards(directory)
        if manifest is None and run.get("manifest", False):
            raise StoreError(
                f"Expected the file {directory / MANIFEST_FILE} and found none; restore it from a copy, or run "
                "embed_folder again, which reads every file of the store and writes a new manifest."
            )
        try:
            for name in () if manifest is None else manifest.files:
                _check_file(directory / name, name, manifest, schema_of(run))
            return manifest, shards
        except StoreError:
            if attempt == 2 or Manifest.read(directory) == manifest:
                raise
    raise AssertionError("unreachable")


def _check_file(file: Path, name: str, manifest: Manifest | None, schema: pa.Schema) -> None:
    """Look at one file: whether it is there, and of the size that the manifest names."""
    assert manifest is not None
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise missing(file) from None
    except OSError as error:
        raise StoreError(f"Could not read {file}: {error.strerror or error}. Check its permissions.") from error
    if manifest.fits_size(name, size):
        return
    if name.startswith(f"{SHARDS}/"):
        read_shard(file, schema, [], manifest)  # says more of what is wrong
    raise damaged(file, f"it has {size} bytes, not as many as the manifest says")


@contextmanager
def naming_damage(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a damaged file into a `StoreError` that names it."""
    try:
        yield
    except StoreError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise damaged(file, error) from error


def damaged(file: Path, problem: object) -> StoreError:
    """Make the error for a damaged file."""
    return StoreError(
        f"{file} is damaged ({problem}); restore it from a copy, or delete it and run embed_folder again, which embeds "
        "the files that were in it."
    )
