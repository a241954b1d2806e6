"""Tests of tag files."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed._evaluation.tasks.audioset import AudioSet
from sedembed.audio.reader import AudioReader
from sedembed.batch import loop
from sedembed.batch.embed_folder import embed_folder
from sedembed.batch.tag_files import tag_files
from sedembed.embedder import Embedder
from sedembed.engine.runner import Runner
from sedembed.engine.workers import WorkerPool
from sedembed.errors import StoreError
from sedembed.loading import load_model
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import save_pretrained
from sedembed.store import writer as shards
from tests._evaluation.tasks.video_helpers import audioset_copy  # noqa: F401

Write = Callable[..., Path]


@pytest.fixture
def sounds(tmp_path: Path, write_sounds: Write) -> tuple[Path, list[str]]:
    names = {f"{letter}/{i}.wav": 0.3 + 0.1 * i for letter in "ab" for i in range(4)}
    return write_sounds(tmp_path / "sounds", names), sorted(names, reverse=True)


def watch_reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are opened from now on."""
    read: list[str] = []
    init = AudioReader.__init__

    def remember(self: AudioReader, path: Path, **options: Any) -> None:
        read.append(path.name)
        init(self, path, **options)

    monkeypatch.setattr(AudioReader, "__init__", remember)
    return read


class TestTagFiles:
    def test_same_as_tag_in_the_order_given(
        self, sounds: tuple[Path, list[str]], untrained_embedder: Embedder, tmp_path: Path
    ) -> None:
        folder, paths = sounds
        probabilities, failures = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert failures == {}
        assert probabilities.shape == (8, 527)
        assert probabilities.dtype == np.float32
        expected = untrained_embedder.tag([folder / path for path in paths])
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
        assert np.ptp(expected, axis=0).max() > 1e-3  # the rows could be told apart

    @pytest.mark.parametrize("pooling", ["linear", "max"])
    def test_clips_of_several_windows(
        self,
        pooling: str,
        write_sounds: Write,
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        model = untrained_embedder
        monkeypatch.setattr(type(model.runner), "window_samples", 16_000)
        network = model.runner.network
        monkeypatch.setattr(network, "config", replace(network.config, pooling=pooling))
        folder = write_sounds(tmp_path / "sounds", {"long.wav": 3.4, "short.wav": 0.02})
        probabilities, _ = tag_files(folder, ["long.wav", "short.wav"], tmp_path / "tags", model, progress=False)
        np.testing.assert_allclose(probabilities[0], model.tag(folder / "long.wav"), rtol=1e-5)
        np.testing.assert_allclose(probabilities[1], model.tag(folder / "short.wav"), rtol=1e-5)

    def test_a_bad_file_costs_no_good_one(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        folder, paths = sounds
        good = (folder / "a/1.wav").read_bytes()
        (folder / "a/1.wav").write_bytes(b"RIFF" + bytes(100))
        (folder / "a/2.wav").write_bytes(b"")
        wanted = [*paths, "gone.wav", paths[0]]
        probabilities, failures = tag_files(folder, wanted, tmp_path / "tags", untrained_embedder, progress=False)
        assert {path: error for path, (error, _) in failures.items()} == {
            "a/1.wav": "AudioDecodeError",
            "a/2.wav": "AudioDecodeError",
            "gone.wav": "MissingFileError",
        }
        assert all(message for _, message in failures.values())
        assert [np.isnan(row).all() for row in probabilities] == [path in failures for path in wanted]
        assert np.isfinite(probabilities[[path not in failures for path in wanted]]).all()
        np.testing.assert_array_equal(probabilities[0], probabilities[-1])
        # Once repaired it is read again, and nothing else is but the failures.
        (folder / "a/1.wav").write_bytes(good)
        read = watch_reading(monkeypatch)
        again, failures = tag_files(folder, wanted, tmp_path / "tags", untrained_embedder, progress=False)
        assert sorted(read) == ["1.wav", "2.wav", "gone.wav"]
        assert set(failures) == {"a/2.wav", "gone.wav"}
        repaired = paths.index("a/1.wav")
        np.testing.assert_allclose(again[repaired], untrained_embedder.tag(folder / "a/1.wav"), rtol=1e-5)
        np.testing.assert_array_equal(np.delete(again, repaired, 0), np.delete(probabilities, repaired, 0))

    def test_probabilities_that_are_not_finite_are_a_failure(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        submit = Runner.submit

        def broken(self: Runner, features: Any, **options: Any) -> Any:
            results = submit(self, features, **options)()
            for item, result in zip(features, results, strict=True):
                if len(item) == 13 and result.probabilities is not None:  # that of 0.3 s
                    result.probabilities[5] = np.nan
            return lambda: results

        monkeypatch.setattr(Runner, "submit", broken)
        folder, paths = sounds
        probabilities, failures = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert {path: error for path, (error, _) in failures.items()} == {
            "a/0.wav": "InvalidWaveformError",
            "b/0.wav": "InvalidWaveformError",
        }
        assert np.isnan(probabilities).all(1).sum() == 2

    def test_nothing_to_do(self, untrained_embedder: Embedder, tmp_path: Path) -> None:
        probabilities, failures = tag_files(tmp_path, [], tmp_path / "tags", untrained_embedder, progress=False)
        assert probabilities.shape == (0, 527)
        assert failures == {}

    def test_more_files_are_added(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        folder, paths = sounds
        first, _ = tag_files(folder, paths[:3], tmp_path / "tags", untrained_embedder, progress=False)
        read = watch_reading(monkeypatch)
        both, _ = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert len(read) == 5
        np.testing.assert_array_equal(both[:3], first)
        # Those of an earlier call that are not asked for stay where they are.
        some, _ = tag_files(folder, paths[5:4:-1], tmp_path / "tags", untrained_embedder, progress=False)
        np.testing.assert_array_equal(some, both[5:4:-1])
        assert len(read) == 5

    def test_a_cache_of_other_weights_or_kind_is_refused(
        self, sounds: tuple[Path, list[str]], untrained_embedder: Embedder, tmp_path: Path
    ) -> None:
        folder, paths = sounds
        out = tmp_path / "tags"
        before, _ = tag_files(folder, paths[:2], out, untrained_embedder, progress=False)
        config = untrained_embedder.runner.network.config
        other = load_model(
            save_pretrained(TALNet(TALNetConfig(mean=config.mean, std=config.std)).eval(), tmp_path / "m")
        )
        with pytest.raises(StoreError, match=r"model_sha256 is .* use the same ones, or another output directory"):
            tag_files(folder, paths[:2], out, other, progress=False)
        embed_folder(folder, tmp_path / "vectors", untrained_embedder, progress=False)
        with pytest.raises(StoreError, match="another output directory"):
            tag_files(folder, paths[:2], tmp_path / "vectors", untrained_embedder, progress=False)
        with pytest.raises(StoreError, match="another output directory"):
            embed_folder(folder, out, untrained_embedder, progress=False)
        with pytest.raises(StoreError, match="use another output directory"):
            tag_files(tmp_path, paths[:2], out, untrained_embedder, progress=False)
        with pytest.raises(StoreError, match="choose another directory"):
            tag_files(folder, paths[:2], folder, untrained_embedder, progress=False)
        after, _ = tag_files(folder, paths[:2], out, untrained_embedder, progress=False)
        np.testing.assert_array_equal(after, before)

    def test_a_damaged_shard_is_named(
        self, sounds: tuple[Path, list[str]], untrained_embedder: Embedder, tmp_path: Path
    ) -> None:
        folder, paths = sounds
        tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        (shard,) = (tmp_path / "tags").rglob("vectors-*.parquet")
        shard.write_bytes(shard.read_bytes()[:-20])
        with pytest.raises(StoreError, match=r"vectors-00000\.parquet is damaged"):
            tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        shard.unlink()
        probabilities, failures = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert np.isfinite(probabilities).all()
        assert failures == {}

    def test_goes_on_after_a_crash(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        folder, paths = sounds
        monkeypatch.setattr(shards, "SHARD_ROWS", 1)
        submit, calls = Runner.submit, []

        def crash(self: Runner, *args: Any, **options: Any) -> Any:
            calls.append(len(args[0]))
            if sum(calls) > 3:
                raise MemoryError("no memory left")
            return submit(self, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Runner, "submit", crash)
            patch.setattr(loop, "default_workers", lambda _: 1)  # of more, all may fail before the first shard
            with pytest.raises(MemoryError):
                tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        read = watch_reading(monkeypatch)
        probabilities, failures = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert 0 < len(read) < len(paths)
        assert failures == {}
        expected = untrained_embedder.tag([folder / path for path in paths])
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)

    @pytest.mark.skipif(os.name == "nt", reason="no such signals there")
    def test_goes_on_after_ctrl_c(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        folder, paths = sounds
        monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
        take = WorkerPool.take

        def interrupt(self: Any) -> Any:
            steps = take(self)
            if self.left < len(paths):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            return steps

        with monkeypatch.context() as patch:
            patch.setattr(WorkerPool, "take", interrupt)
            with pytest.raises(KeyboardInterrupt, match="run the same command again"):
                tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        read = watch_reading(monkeypatch)
        probabilities, _ = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert 0 < len(read) < len(paths)
        assert np.isfinite(probabilities).all()

    def test_audioset_end_to_end(
        self, audioset_copy: Path, write_sounds: Write, untrained_embedder: Embedder, tmp_path: Path
    ) -> None:
        write_sounds(
            audioset_copy,
            {"eval_segments/--4gqARaEJE_000000.mp3": 0.5, "balanced_train_segments/Y--PJHxphWEs.wav": 0.5},
            rate=22_050,
        )
        contents = AudioSet().read(audioset_copy)
        clips = [clip for clip in contents.clips if clip.path not in contents.missing]
        (only,) = AudioSet().rounds(clips)
        paths = [clips[i].path for i in only.test]
        probabilities, failures = tag_files(audioset_copy, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert paths == ["eval_segments/--4gqARaEJE_000000.mp3", "eval_segments/Yabcdefghi_5.mp4"]
        assert list(failures) == paths[1:]
        assert np.isfinite(probabilities[0]).all()
        assert np.isnan(probabilities[1]).all()
