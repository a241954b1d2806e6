"""How a store lies on disk: names, columns, and reading of single files.

``run.json`` says what the vectors were made with. ``embeddings/vectors-N.parquet`` hold them, one row a recording,
``frames/frames-N-M.parquet`` the frame vectors, and ``failures.parquet`` what gave no vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sedembed._utils.schema import read_json_object
from sedembed.errors import StoreError

__all__ = [
    "FAILURES_FILE",
    "FAILURES_SCHEMA",
    "FORMAT_VERSION",
    "FRAMES",
    "RUN_FILE",
    "SHARDS",
    "as_matrix",
    "frames_schema",
    "list_shards",
    "naming_damage",
    "read_failures",
    "read_run",
    "read_shard",
    "shard_number",
    "shard_schema",
]

FORMAT_VERSION = 1
RUN_FILE = "run.json"
FAILURES_FILE = "failures.parquet"
SHARDS = "embeddings"
FRAMES = "frames"
FAILURES_SCHEMA = pa.schema([("path", pa.string()), ("error", pa.string()), ("message", pa.string())])


def shard_schema(embedding_size: int) -> pa.Schema:
    """Columns of a shard of clip vectors."""
    return pa.schema(
        [
            ("path", pa.string()),
            ("duration", pa.float64()),
            ("sample_rate", pa.int32()),
            ("channels", pa.int32()),
            ("embedding", pa.list_(pa.float32(), embedding_size)),
        ]
    )


def frames_schema(embedding_size: int) -> pa.Schema:
    """Columns of a shard of frame vectors."""
    return pa.schema(
        [("path", pa.string()), ("time", pa.float64()), ("embedding", pa.list_(pa.float32(), embedding_size))]
    )


def as_matrix(column: pa.ChunkedArray, embedding_size: int) -> NDArray[np.float32]:
    """Rows of an embedding column, shape (rows, embedding_size)."""
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.float32), *flat]).reshape(-1, embedding_size)


def shard_number(file: Path) -> int:
    """Return the number of a shard; frames shards carry that of the shard they were committed with."""
    return int(file.name.split("-")[1].split(".")[0])


def list_shards(directory: Path, kind: str = SHARDS) -> list[Path]:
    """Finished shards in the order in which they were written; files half written begin with a dot."""
    return sorted((directory / kind).glob(f"{'vectors' if kind == SHARDS else FRAMES}-*.parquet"), key=shard_number)


def read_shard(file: Path, embedding_size: int, columns: list[str]) -> pa.Table:
    """Columns of one shard, checked against what this library writes."""
    with naming_damage(file), pq.ParquetFile(file, page_checksum_verification=True) as opened:
        if not opened.schema_arrow.equals(shard_schema(embedding_size)):
            raise ValueError(f"its columns are {opened.schema_arrow.names}, of other names or types than expected")
        return opened.read(columns)


def read_failures(directory: Path) -> pa.Table:
    """Failures of a store; an empty table if there were none."""
    file = directory / FAILURES_FILE
    if not file.exists():
        return FAILURES_SCHEMA.empty_table()
    with naming_damage(file):
        return pq.read_table(file, schema=FAILURES_SCHEMA, partitioning=None)


def read_run(directory: Path) -> dict[str, Any]:
    """Contents of `run.json`."""
    file = directory / RUN_FILE
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"expected a store at {directory}, found no {RUN_FILE} there; make one with embed_folder"
        ) from None
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror or error}; check its permissions") from error
    try:
        run = read_json_object(text, "its text")
        version, settings = run["format_version"], run["settings"]
        strings = run["fingerprint"], run["folder"]
        size, frames = settings["embedding_size"], settings["frames"]
        if not (type(size) is int and size >= 1 and type(frames) is bool and all(type(s) is str for s in strings)):
            raise ValueError("a value is of another type than expected")
        if not isinstance(run.get("model", {}), dict) or not isinstance(run.get("versions", {}), dict):
            raise ValueError("a value is of another type than expected")
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{file} is damaged ({error!r}); restore it from a copy, or delete the store and run embed_folder again"
        ) from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{directory} has format {version}, and this sedembed reads format {FORMAT_VERSION}; "
            "use the version of sedembed that wrote it, or embed the folder again"
        )
    return dict(run)


@contextmanager
def naming_damage(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a damaged file into a `StoreError` that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{file} is damaged ({error}); restore it from a copy, or delete it and run embed_folder again, "
            "which embeds the files that were in it"
        ) from error
