"""Recordings by folder, pattern, name and URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from sedembed.audio.listing import list_recordings
from sedembed.audio.remote import locate
from sedembed.errors import InvalidArgumentError, MissingFileError, MissingPackageError

NAMES = ["a.wav", "notes.txt", "sub/b.FLAC", "sub/deep/c.ogg", "sub/.hidden.wav"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def memory() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for name in NAMES:
        system.pipe(f"/bucket/{name}", name.encode())
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


class TestLocal:
    def test_a_folder_is_listed_as_ever(self, folder: Path):
        location = locate(folder)
        assert location.folder == folder.resolve()
        assert location.listing == list_recordings(folder)
        assert locate(f"file://{folder}").listing == location.listing

    def test_a_pattern(self, folder: Path):
        location = locate(f"{folder}/**/*.*")
        assert (location.folder, location.listing.files) == (folder, ["a.wav", "sub/b.FLAC", "sub/deep/c.ogg"])
        assert location.listing.suffixes == {".txt": 1}
        assert locate(folder / "sub" / "*").listing.files == ["b.FLAC"]

    def test_a_name_that_looks_like_a_pattern(self, folder: Path):
        (folder / "[1].wav").write_bytes(b"")
        assert locate(folder / "[1].wav").listing.files == ["[1].wav"]

    def test_files_are_taken_as_they_are(self, folder: Path):
        location = locate([folder / "sub" / "b.FLAC", str(folder / "notes.txt"), folder / "none.wav"])
        assert (location.folder, location.listing.files) == (folder, ["none.wav", "notes.txt", "sub/b.FLAC"])
        assert locate(folder / "a.wav").listing.files == ["a.wav"]

    def test_relative_paths(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(folder)
        assert locate("sub").folder == folder / "sub"
        assert locate(["sub/b.FLAC", "./a.wav"]).listing.files == ["a.wav", "sub/b.FLAC"]


class TestRemote:
    @pytest.mark.parametrize("what", ["", "/", "/**/*.*", "/**"])
    def test_a_folder_or_pattern(self, what: str, memory: str):
        location = locate(memory + what)
        assert location.folder is None
        assert location.listing.files == ["a.wav", "sub/b.FLAC", "sub/deep/c.ogg"]
        assert location.listing.suffixes == {".txt": 1}
        assert location.full("a.wav").endswith("bucket/a.wav")

    def test_the_part_before_the_wildcard_is_the_folder(self, memory: str):
        location = locate(f"{memory}/sub/*/c.*")
        assert location.url.endswith("bucket/sub")
        assert location.listing.files == ["deep/c.ogg"]

    def test_files_and_fetching(self, memory: str, tmp_path: Path):
        location = locate([f"{memory}/sub/b.FLAC", f"{memory}/a.wav"])
        assert location.listing.files == ["a.wav", "sub/b.FLAC"]
        location.fetch("sub/b.FLAC", tmp_path / "b")
        assert (tmp_path / "b").read_text() == "sub/b.FLAC"
        with pytest.raises(FileNotFoundError):
            location.fetch("none.wav", tmp_path / "c")


class TestRefused:
    def test_nothing_to_embed(self, folder: Path, memory: str):
        for what in (folder / "*.mp3", f"{memory}/*.mp3", []):
            with pytest.raises(MissingFileError):
                locate(what)

    def test_urls_of_two_kinds(self, folder: Path, memory: str):
        with pytest.raises(InvalidArgumentError, match="paths of one kind, got local, memory"):
            locate([folder / "a.wav", f"{memory}/a.wav"])

    def test_an_unknown_kind(self):
        with pytest.raises(InvalidArgumentError, match="a URL that fsspec knows, got 'nowhere://a'"):
            locate("nowhere://a")

    def test_a_package_that_is_missing(self, monkeypatch: pytest.MonkeyPatch):
        def refuse(*_: object, **__: object) -> None:
            raise ImportError("Install s3fs to access S3")

        monkeypatch.setattr("sedembed.audio.remote.url_to_fs", refuse)
        with pytest.raises(MissingPackageError, match="Install s3fs to access S3"):
            locate("s3://bucket/a.wav")
