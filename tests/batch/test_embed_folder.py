"""embed_folder on folders that are in order: the same vectors however it is run, and what is found and left out."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed.audio import reader as audio
from sedembed.audio.reader import AudioReader
from sedembed.batch import embed_folder as folder
from sedembed.batch.embed_folder import embed_folder
from sedembed.embedder import Embedder
from sedembed.errors import ModelNotFoundError, StoreError
from sedembed.loading import load_model
from sedembed.store.store import EmbeddingStore, open_store

Write = Callable[..., Path]
SHORT = {f"{i}.wav": 0.1 + 0.13 * i for i in range(8)}


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Length of the difference over the length of the vector, of the worst row."""
    return float((np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, write_sounds: Write) -> Path:
    """One sample, less than a frame, seconds, more than a window; other rates, channels and formats."""
    root = tmp_path_factory.mktemp("mixed")
    write_sounds(root, {"one.wav": 0, "a/tenth.wav": 0.1, "a/b/second.flac": 1, "a-b.ogg": 1.7, "long.wav": 61})
    write_sounds(root, {"stereo.wav": 3}, rate=44_100, channels=2)
    write_sounds(root, {"phone.WAV": 0.9}, rate=8_000)
    return root


@pytest.fixture(scope="module")
def stored(mixed: Path, tmp_path_factory: pytest.TempPathFactory, untrained_embedder: Embedder) -> EmbeddingStore:
    return embed_folder(mixed, tmp_path_factory.mktemp("stored") / "new" / "out", untrained_embedder, frames=True)


class TestVectors:
    def test_every_file_has_its_row(self, stored: EmbeddingStore):
        assert stored.paths == [
            "a-b.ogg", "a/b/second.flac", "a/tenth.wav", "long.wav", "one.wav", "phone.WAV", "stereo.wav"
        ]  # fmt: skip
        assert len(stored.failures) == 0
        index = stored.index.to_pydict()
        assert index["sample_rate"] == [16_000, 16_000, 16_000, 16_000, 16_000, 8_000, 44_100]
        assert index["channels"] == [1, 1, 1, 1, 1, 1, 2]
        assert index["duration"] == pytest.approx([1.7, 1, 0.1, 61, 1 / 16_000, 0.9, 3])

    def test_equal_those_of_embed(self, stored: EmbeddingStore, mixed: Path, untrained_embedder: Embedder):
        expected = np.stack([untrained_embedder.embed(mixed / path) for path in stored.paths])
        assert relative_error(stored.vectors, expected) < 1e-5

    def test_frames_equal_those_of_embed_frames(
        self, stored: EmbeddingStore, mixed: Path, untrained_embedder: Embedder
    ):
        for path in stored.paths:
            frames, expected = stored.frames(path), untrained_embedder.embed_frames(mixed / path)
            np.testing.assert_array_equal(frames.times, expected.times)
            assert frames.embeddings.shape == expected.embeddings.shape
            assert relative_error(frames.embeddings, expected.embeddings) < 1e-5

    @pytest.mark.parametrize("batch_size", [1, 16])
    @pytest.mark.parametrize("workers", [1, 4])
    def test_do_not_depend_on_workers_batches_or_order(
        self, workers: int, batch_size: int, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder
    ):
        root = write_sounds(tmp_path / "in", SHORT)
        expected = {name: untrained_embedder.embed(root / name) for name in SHORT}
        if workers == 1:  # another order of the same sounds
            for name in SHORT:
                (root / name).rename(root / f"{9 - int(name[0])}-{name}")
        store = embed_folder(root, tmp_path / "out", untrained_embedder, workers=workers, batch_size=batch_size)
        for path, vector in zip(store.paths, store.vectors, strict=True):
            assert relative_error(vector, expected[path.split("-")[-1]]) < 1e-5

    def test_a_model_can_be_named(
        self, tmp_path: Path, write_sounds: Write, untrained_model_dir: Path, untrained_embedder: Embedder
    ):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.3})
        store = embed_folder(str(root), str(tmp_path / "out"), str(untrained_model_dir))
        assert relative_error(store.vectors[0], untrained_embedder.embed(root / "a.wav")) < 1e-5
        settings = store.run["settings"]
        assert settings["model_sha256"] == untrained_embedder.record.sha256
        assert (settings["precision"], settings["frames"], settings["window_seconds"]) == ("float32", False, 60.0)
        assert len(store.run["fingerprint"]) == 64
        assert {"python", "sedembed", "torch", "numpy", "soxr", "soundfile"} <= store.run["versions"].keys()

    def test_packaged_weights_agree_in_every_number(self, tmp_path: Path, write_sounds: Write):
        """Component by component: the untrained network amplifies rounding too much for that."""
        model = load_model("talnet", device="cpu")
        root = write_sounds(tmp_path / "in", SHORT)
        store = embed_folder(root, tmp_path / "out", model)
        for path, vector in zip(store.paths, store.vectors, strict=True):
            expected = model.embed(root / path)
            assert np.abs(vector - expected).max() < 1e-5 * np.abs(expected).max()

    def test_precision_is_a_setting(self, tmp_path: Path, write_sounds: Write, untrained_model_dir: Path):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.3})
        embed_folder(root, tmp_path / "out", untrained_model_dir)
        with pytest.raises(StoreError, match="precision is 'float32' there and 'bfloat16' now"):
            embed_folder(root, tmp_path / "out", untrained_model_dir, precision="bfloat16")


class TestAgain:
    def test_goes_on_where_it_was(
        self,
        tmp_path: Path,
        write_sounds: Write,
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
    ):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.2, "b.wav": 0.3, "d.wav": 0.1})
        (root / "c.wav").write_bytes(b"no sound at all")
        (root / "gone.wav").touch()
        first = embed_folder(root, tmp_path / "out", untrained_embedder)
        assert first.failures["path"].to_pylist() == ["c.wav", "gone.wav"]
        write_sounds(root, {"c.wav": 0.2, "e.wav": 0.2})
        (root / "gone.wav").unlink()
        (root / "d.wav").unlink()
        opened = []
        init = AudioReader.__init__
        monkeypatch.setattr(
            AudioReader,
            "__init__",
            lambda self, path, **options: (opened.append(path.name), init(self, path, **options))[1],
        )
        again = embed_folder(root, tmp_path / "out", untrained_embedder)
        assert sorted(opened) == ["c.wav", "e.wav"]
        assert again.paths == ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]
        assert len(again.failures) == 0
        np.testing.assert_array_equal(again.vectors[[0, 1, 3]], first.vectors)

    def test_nothing_left_to_do(self, mixed: Path, stored: EmbeddingStore, untrained_embedder: Embedder):
        def times() -> dict[Path, int]:  # some versions of filelock touch the lock
            files = (file for file in stored.directory.rglob("*.*") if file.name != ".lock")
            return {file: file.stat().st_mtime_ns for file in files}

        before = times()
        embed_folder(mixed, stored.directory, untrained_embedder, frames=True)
        assert times() == before

    @pytest.mark.parametrize("frames", [False, True])
    def test_a_changed_recording_is_embedded_again(
        self,
        tmp_path: Path,
        write_sounds: Write,
        untrained_embedder: Embedder,
        caplog: pytest.LogCaptureFixture,
        frames: bool,
    ):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.2, "b.wav": 0.3, "c.wav": 0.4})
        out = tmp_path / "out"
        first = embed_folder(root, out, untrained_embedder, frames=frames)
        late = open_store(out)
        before = first.vectors
        write_sounds(tmp_path / "other", {"b.wav": 0.7})
        shutil.copy(tmp_path / "other" / "b.wav", root / "b.wav")
        again = embed_folder(root, out, untrained_embedder, frames=frames)
        assert "they have changed: 1 files (b.wav)" in caplog.text
        assert again.paths == ["a.wav", "b.wav", "c.wav"]
        assert again.index["duration"].to_pylist() == pytest.approx([0.2, 0.7, 0.4])
        np.testing.assert_array_equal(again.vectors[[0, 2]], before[[0, 2]])
        np.testing.assert_allclose(again.vectors[1], untrained_embedder.embed(root / "b.wav"), atol=1e-6)
        if frames:
            np.testing.assert_array_equal(
                again.frames("b.wav").times, untrained_embedder.embed_frames(root / "b.wav").times
            )
        with pytest.raises(StoreError, match="has changed since it was opened; open it again"):
            _ = late.vectors
        caplog.clear()
        embed_folder(root, out, untrained_embedder, frames=frames)
        assert "changed" not in caplog.text

    def test_another_folder_or_frames(
        self, mixed: Path, stored: EmbeddingStore, untrained_embedder: Embedder, tmp_path: Path, write_sounds: Write
    ):
        with pytest.raises(StoreError, match="frames is True there and False now"):
            embed_folder(mixed, stored.directory, untrained_embedder)
        other = write_sounds(tmp_path, {"one.wav": 0.1})
        with pytest.raises(StoreError, match="if the folder has only moved"):
            embed_folder(other, stored.directory, untrained_embedder, frames=True)

    def test_another_network_of_the_same_record(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder
    ):
        """A record without a sha256 does not open the door to mixing."""
        import copy
        import dataclasses

        record = dataclasses.replace(untrained_embedder.record, sha256="")
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1})
        network = copy.deepcopy(untrained_embedder.runner.network)
        embed_folder(root, tmp_path / "out", Embedder(network, record))
        embed_folder(root, tmp_path / "out", Embedder(network, record))
        network.fc_prob.bias.data += 1
        with pytest.raises(StoreError, match="model_sha256"):
            embed_folder(root, tmp_path / "out", Embedder(network, record))


class TestWalk:
    @pytest.fixture
    def found(self, tmp_path: Path) -> Callable[..., list[str]]:
        return lambda root=tmp_path, out=tmp_path / "nowhere": folder.list_recordings(root, out).files

    def test_sorted_visible_sound_files(self, tmp_path: Path, found: Callable[..., list[str]]):
        for name in ("b/2.wav", "b/10.WAV", "b-a.mp3", "a.FlAc", "text.txt", "noext", ".wav", ".hidden/a.wav",
                     "b/._b.wav", "wav", "x.wav.txt", "ü 音/é.ogg", "c/d/e/f.m4a", "dir.wav/inside.aif"):  # fmt: skip
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        expected = ["a.FlAc", "b-a.mp3", "b/10.WAV", "b/2.wav", "c/d/e/f.m4a", "dir.wav/inside.aif", "ü 音/é.ogg"]
        assert found() == expected
        assert folder.list_recordings(tmp_path, tmp_path / "nowhere").ignored == 4

    def test_links(self, tmp_path: Path, found: Callable[..., list[str]], caplog: pytest.LogCaptureFixture):
        root, outside = tmp_path / "root", tmp_path / "outside"
        for file in (root / "a" / "1.wav", outside / "2.wav"):
            file.parent.mkdir(parents=True)
            file.touch()
        try:
            (root / "file.wav").symlink_to(outside / "2.wav")
        except OSError:
            pytest.skip("links are not allowed here")
        (root / "broken.wav").symlink_to(tmp_path / "nothing")
        (root / "self.wav").symlink_to("self.wav")
        (root / "elsewhere").symlink_to(outside)
        (root / "twice").symlink_to(root / "a")
        (root / "a" / "loop").symlink_to(root)
        (outside / "back").symlink_to(root / "a")
        with caplog.at_level(logging.WARNING):
            names = found(root)
        assert names == [
            "a/1.wav", "broken.wav", "elsewhere/2.wav", "elsewhere/back/1.wav", "file.wav", "self.wav", "twice/1.wav"
        ]  # fmt: skip
        assert "a/loop links back" in caplog.text

    def test_output_inside_the_folder(self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder):
        root = write_sounds(tmp_path, {"a.wav": 0.1})
        out = root / "vectors"
        embed_folder(root, out, untrained_embedder)
        write_sounds(out, {"made-by-hand.wav": 0.1})
        assert embed_folder(root, out, untrained_embedder).paths == ["a.wav"]

    def test_nothing_to_embed(self, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match="found nothing"):
            embed_folder(tmp_path / "missing", tmp_path / "out")
        (tmp_path / "a.txt").touch()
        with pytest.raises(NotADirectoryError, match=r"embed\(\) takes a single file"):
            embed_folder(tmp_path / "a.txt", tmp_path / "out")
        with pytest.raises(FileNotFoundError, match=r"found none among 1 files\. Supported are .*\.flac"):
            embed_folder(tmp_path, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the file system allows no such name")
    def test_names_that_are_not_utf8(self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1})
        shutil.copy(root / "a.wav", os.fsencode(root) + b"/caf\xe9.wav")
        for _ in range(2):
            store = embed_folder(root, tmp_path / "out", untrained_embedder)
            assert store.paths == ["a.wav"]
            (failure,) = store.failures.to_pylist()
            assert failure["path"] == "caf\\udce9.wav"
            assert "rename the file" in failure["message"]

    def test_folder_that_cannot_be_listed(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1, "secret/b.wav": 0.1})
        scandir = os.scandir

        def refuse(path: Path) -> object:
            if Path(path).name == "secret":
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        store = embed_folder(root, tmp_path / "out", untrained_embedder)
        assert store.paths == ["a.wav"]
        (failure,) = store.failures.to_pylist()
        assert (failure["path"], failure["error"]) == ("secret", "PermissionError")
        monkeypatch.undo()
        store = embed_folder(root, tmp_path / "out", untrained_embedder)
        assert (store.paths, len(store.failures)) == (["a.wav", "secret/b.wav"], 0)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"workers": 0}, "workers must be a whole number of at least 1"),
            ({"workers": 1.5}, "workers must be"),
            ({"batch_size": 0}, "batch_size must be"),
            ({"timeout": 0}, "timeout must be a positive number"),
            ({"timeout": float("nan")}, "timeout must be a positive number"),
            ({"precision": "bfloat16"}, "the model was loaded with 'float32'"),
        ],
    )
    def test_refused(self, mixed: Path, tmp_path: Path, untrained_embedder: Embedder, options: dict, message: str):
        with pytest.raises(ValueError, match=message):
            embed_folder(mixed, tmp_path / "out", untrained_embedder, **options)
        assert not (tmp_path / "out").exists()

    def test_unknown_ones(self, mixed: Path, tmp_path: Path, untrained_embedder: Embedder):
        with pytest.raises(TypeError, match="overlap"):
            embed_folder(mixed, tmp_path / "out", untrained_embedder, overlap=0.5)
        with pytest.raises(ModelNotFoundError):
            embed_folder(mixed, tmp_path / "out", "talnot")
        assert not (tmp_path / "out").exists()


class TestReports:
    @pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
    def test_progress(
        self,
        tmp_path: Path,
        write_sounds: Write,
        untrained_embedder: Embedder,
        capsys: pytest.CaptureFixture[str],
        progress: bool | None,
        shown: bool,
    ):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1, "b.wav": 0.1})
        embed_folder(root, tmp_path / "out", untrained_embedder, progress=progress)
        output = capsys.readouterr()
        assert output.out == ""
        assert ("2/2" in output.err and "s of sound/s" in output.err) == shown
        assert shown or output.err == ""

    def test_warnings_are_logged_under_the_path(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder, caplog: pytest.LogCaptureFixture
    ):
        root = write_sounds(tmp_path / "in", {"fine.wav": 0.5, "cut.wav": 0.5})
        data = (root / "cut.wav").read_bytes()
        (root / "cut.wav").write_bytes(data[: len(data) // 2])
        soundfile.write(root / "loud.wav", 100 * np.ones(1600, np.float32), 16_000, subtype="FLOAT")
        (root / "notes.txt").touch()
        with caplog.at_level(logging.INFO):
            store = embed_folder(root, tmp_path / "out", untrained_embedder)
        assert store.paths == ["cut.wav", "fine.wav", "loud.wav"]
        messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert any(message.startswith("cut.wav: ") and "cut short" in message for message in messages)
        assert any(message.startswith("loud.wav: ") and "full scale" in message for message in messages)
        assert any("1 file is ignored, because the suffix is not one of sound: 1 .txt" in text for text in messages)
        assert len(messages) == 3
        assert "3 sound files" in caplog.text


def test_every_promised_suffix_is_walked(tmp_path: Path):
    for suffix in audio.AUDIO_EXTENSIONS:
        (tmp_path / f"x{suffix}").touch()
    assert len(folder.list_recordings(tmp_path, tmp_path / "out").files) == len(audio.AUDIO_EXTENSIONS)


def test_opens_as_returned(stored: EmbeddingStore):
    again = open_store(stored.directory)
    assert again.paths == stored.paths
    np.testing.assert_array_equal(again.vectors, stored.vectors)
