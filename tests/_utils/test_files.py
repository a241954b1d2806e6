"""Writing whole files, locks and checksums."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from sedembed._utils import files
from sedembed._utils.files import Lock, LockedError, atomic_file, sha256_of, write_atomic
from sedembed.errors import SedembedError, WriteError


def test_a_file_is_whole_or_as_before(tmp_path: Path):
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    with pytest.raises(TypeError), atomic_file(file) as opened:
        opened.writelines([b"half of the new", None])  # type: ignore[list-item]
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_atomic(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are files on POSIX systems only")
def test_on_windows_a_reader_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, tries, replace = tmp_path / "a.txt", [], Path.replace

    def shared(partial: Path, target: Path) -> Path:
        tries.append(target)
        if len(tries) % 3:
            raise PermissionError(13, "it is being used by another process", str(target))
        return replace(partial, target)

    monkeypatch.setattr(Path, "replace", shared)
    with pytest.raises(WriteError, match="being used by another process"):
        write_atomic(file, "elsewhere it is an error at once")
    assert len(tries) == 1
    tries.clear()
    monkeypatch.setattr(files, "_IS_WINDOWS", True)
    write_atomic(file, "new")
    assert (len(tries), file.read_text()) == (3, "new")
    tries.clear()
    monkeypatch.setattr(files, "_SHARING_SECONDS", -1.0)
    with pytest.raises(WriteError, match="being used by another process"):
        write_atomic(file, "too late")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_pipe_is_written_to(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, "through the pipe")
        assert os.read(reader, 100) == b"through the pipe"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_the_null_device_stays(tmp_path: Path):
    if not Path("/dev/null").is_char_device():
        pytest.skip("there is no null device")
    write_atomic(Path("/dev/null"), "nothing")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("make", [lambda folder: folder, lambda folder: folder / "missing" / "a.txt"])
def test_what_cannot_be_written_is_said(tmp_path: Path, make):
    with pytest.raises(WriteError, match=r"(Could not write|Expected the name of a file).*") as caught:
        write_atomic(make(tmp_path), "x")
    assert isinstance(caught.value, SedembedError)
    assert isinstance(caught.value, OSError)


def test_a_second_lock_is_refused_and_the_first_can_be_given_up(tmp_path: Path):
    first = Lock(tmp_path / ".lock")
    with pytest.raises(LockedError, match="another process holds"):
        Lock(tmp_path / ".lock")
    first.close()
    with Lock(tmp_path / ".lock"):
        pass


def test_sha256(tmp_path: Path):
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()
