"""merge_stores: the store of a single run, from the stores of its shards."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from sedembed.batch.embed_folder import embed_folder
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.errors import InvalidArgumentError, StoreError
from sedembed.store.merge import merge_stores
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter
from tests.store.store_helpers import describe

Write = Callable[..., Path]
SOUNDS = {f"{folder}/{i:02d}.wav": 0.2 for folder in "ab" for i in range(7)}


def write_store(out: Path, paths: list[str], **settings: object) -> EmbeddingStore:
    with StoreWriter(out, describe(**settings)) as writer:
        for path in paths:
            value = np.full(int(settings.get("embedding_size", 4)), float(int(path[:2])), np.float32)
            writer.add(path, 1.0, 16_000, 1, value, recording=(int(path[:2]), 1))
        writer.commit()
    return open_store(out)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory, write_sounds: Write) -> Path:
    root = write_sounds(tmp_path_factory.mktemp("sounds"), SOUNDS)
    (root / "broken.wav").write_text("no sound")
    return root


@pytest.fixture(scope="module")
def single(sounds: Path, tmp_path_factory: pytest.TempPathFactory, untrained_embedder: Embedder) -> EmbeddingStore:
    return embed_folder(sounds, tmp_path_factory.mktemp("single") / "out", untrained_embedder, frames=True)


def close(got: np.ndarray, expected: np.ndarray) -> bool:
    """Whether vectors are equal to the rounding of other batches."""
    error = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return bool(error.max() < 1e-5)


def assert_same_stores(got: EmbeddingStore, expected: EmbeddingStore) -> None:
    assert got.index.equals(expected.index)
    assert close(got.vectors, expected.vectors)
    assert got.failures.to_pylist() == expected.failures.to_pylist()
    assert got.run["settings"] == expected.run["settings"]
    assert got.run["fingerprint"] == expected.run["fingerprint"]
    assert "shard" not in got.run


class TestShards:
    def test_merged_they_are_the_store_of_a_single_run(
        self, sounds: Path, single: EmbeddingStore, tmp_path: Path, untrained_embedder: Embedder
    ):
        outs = [tmp_path / str(i) for i in range(4)]
        for i, out in enumerate(outs):
            store = embed_folder(sounds, out, untrained_embedder, frames=True, shard=(i, 4))
            assert store.paths + store.failures["path"].to_pylist() == sorted([*SOUNDS, "broken.wav"])[i::4]
        merged = merge_stores(tmp_path / "merged", reversed(outs))
        assert_same_stores(merged, single)
        for path in ("a/03.wav", "b/06.wav"):
            assert close(merged.frames(path).embeddings, single.frames(path).embeddings)
            np.testing.assert_array_equal(merged.frames(path).times, single.frames(path).times)

    def test_with_many_recordings_they_are_the_bytes_of_a_single_run(
        self, write_sounds: Write, tmp_path: Path, untrained_embedder: Embedder
    ):
        lengths = np.random.default_rng(0).uniform(0.1, 0.9, 100)
        names = {f"{i:03d}.wav": float(length) for i, length in enumerate(lengths)}
        folder = write_sounds(tmp_path / "sounds", names)
        single = embed_folder(folder, tmp_path / "single", untrained_embedder)
        outs = [tmp_path / str(i) for i in range(2)]
        for i, out in enumerate(outs):
            store = embed_folder(folder, out, untrained_embedder, shard=(i, 2), workers=1 + i)
            # Every second block of those that a single run takes: seven of twelve, then four of four.
            block = [k // 12 if k < 84 else 7 + (k - 84) // 4 for k in range(100)]
            assert store.paths == [path for k, path in enumerate(sorted(names)) if block[k] % 2 == i]
        merged = merge_stores(tmp_path / "merged", outs)
        assert merged.paths == single.paths
        assert np.asarray(merged.vectors).tobytes() == np.asarray(single.vectors).tobytes()

    def test_four_processes_one_killed_and_resumed(
        self,
        sounds: Path,
        single: EmbeddingStore,
        tmp_path: Path,
        untrained_model_dir: Path,
        start_process: Callable[..., BaseProcess],
    ):
        program = (
            "import os, signal, torch\n"
            "torch.set_num_threads(1)\n"
            "from sedembed.batch import vector_job\n"
            "from sedembed.batch.embed_folder import embed_folder\n"
            "from sedembed.store.writer import StoreWriter\n"
            "if killed:\n"
            "    StoreWriter.due = True\n"
            "    commit = StoreWriter.commit\n"
            "    def commit_and_die(writer):\n"
            "        commit(writer)\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    StoreWriter.commit = commit_and_die\n"
            "embed_folder(folder, out, model, shard=(i, 4), frames=True, batch_size=1, workers=1)\n"
        )
        outs = [tmp_path / str(i) for i in range(4)]
        fixed = {"folder": str(sounds), "model": str(untrained_model_dir)}
        processes = [start_process(program, out=str(out), i=i, killed=i == 2, **fixed) for i, out in enumerate(outs)]
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, -signal.SIGKILL, 0]
        with pytest.raises(StoreError, match=r"the shard 2/4, is not complete.*Run the same command again"):
            merge_stores(tmp_path / "merged", outs)
        kept = len(open_store(outs[2]))
        again = start_process(program, out=str(outs[2]), i=2, killed=False, **fixed)
        again.join(60)
        assert again.exitcode == 0
        assert len(open_store(outs[2])) >= kept
        assert_same_stores(merge_stores(tmp_path / "merged", outs), single)

    def test_one_is_not_continued_as_another(self, sounds: Path, tmp_path: Path, untrained_embedder: Embedder):
        embed_folder(sounds, tmp_path / "out", untrained_embedder, shard=(14, 15))
        for shard, what in (((13, 15), "the shard 13/15"), (None, "the whole folder")):
            with pytest.raises(StoreError, match=f"holds the shard 14/15, this run is about {what}"):
                embed_folder(sounds, tmp_path / "out", untrained_embedder, shard=shard)

    @pytest.mark.parametrize("shard", [(4, 4), (-1, 4), (0, 0), (0,), (0, 1, 2), (0.0, 4), (True, 4), "0/4", 3])
    def test_must_be_one_of_n(self, shard: object, sounds: Path, tmp_path: Path, untrained_embedder: Embedder):
        with pytest.raises(InvalidArgumentError, match="shard must be"):
            embed_folder(sounds, tmp_path / "out", untrained_embedder, shard=shard)

    def test_a_gap_is_refused(self, sounds: Path, tmp_path: Path, untrained_embedder: Embedder):
        embed_folder(sounds, tmp_path / "0", untrained_embedder, shard=(14, 15))
        with pytest.raises(StoreError, match=r"The shards 0/15, 1/15, .* are missing"):
            merge_stores(tmp_path / "merged", [tmp_path / "0"])
        run = json.loads((tmp_path / "0" / "run.json").read_text())
        (tmp_path / "1").mkdir()
        write_store(tmp_path / "1", [])
        other = {**run, "shard": {"index": 0, "count": 3, "complete": True}}
        (tmp_path / "1" / "run.json").write_text(json.dumps(other))
        with pytest.raises(StoreError, match="shards of 3 and of 15"):
            merge_stores(tmp_path / "merged", [tmp_path / "0", tmp_path / "1"])

    def test_on_the_command_line(self, sounds: Path, tmp_path: Path, untrained_model_dir: Path, capsys):
        for i in range(2):
            arguments = ["embed", str(sounds), "-o", str(tmp_path / str(i)), "--model", str(untrained_model_dir)]
            assert main([*arguments, "--shard", f"{i}/2"]) == (1 if i == 0 else 0)
        capsys.readouterr()
        assert main(["merge", str(tmp_path / "all"), str(tmp_path / "0"), str(tmp_path / "1")]) == 1
        printed = capsys.readouterr()
        assert "14 merged, 1 failed" in printed.out
        assert "broken.wav: AudioDecodeError" in printed.err
        with pytest.raises(SystemExit):
            main([*arguments, "--shard", "2/2"])
        assert "expected I/N" in capsys.readouterr().err


class TestMerge:
    def test_continues_and_takes_in_what_is_new(self, tmp_path: Path):
        stores = [tmp_path / "0", tmp_path / "1"]
        write_store(stores[0], ["00.wav", "02.wav"])
        write_store(stores[1], ["01.wav"])
        assert merge_stores(tmp_path / "out", stores).paths == ["00.wav", "01.wav", "02.wav"]
        write_store(stores[1], ["03.wav"])
        merged = merge_stores(tmp_path / "out", stores)
        assert merged.paths == ["00.wav", "01.wav", "02.wav", "03.wav"]
        np.testing.assert_array_equal(merged.vectors[:, 0], [0, 1, 2, 3])

    def test_takes_a_changed_recording_anew(self, tmp_path: Path):
        write_store(tmp_path / "0", ["00.wav"])
        merge_stores(tmp_path / "out", [tmp_path / "0"])
        with StoreWriter(tmp_path / "0", describe()) as writer:
            writer.forget(["00.wav"])
            writer.add("00.wav", 2.0, 16_000, 1, np.full(4, 9.0, np.float32), recording=(77, 2))
            writer.commit()
        merged = merge_stores(tmp_path / "out", [tmp_path / "0"])
        assert merged.paths == ["00.wav"]
        assert merged.vectors[0, 0] == 9

    def test_keeps_what_tells_whether_a_recording_has_changed(self, tmp_path: Path):
        write_store(tmp_path / "0", ["07.wav"])
        merge_stores(tmp_path / "out", [tmp_path / "0"])
        with StoreWriter(tmp_path / "out", describe()) as writer:
            assert writer.unchanged("07.wav", 7, 1)
            assert not writer.unchanged("07.wav", 8, 1)

    def test_makes_few_files_of_many(self, tmp_path: Path):
        for _ in range(5):
            write_store(tmp_path / "0", [f"{len(list((tmp_path).rglob('*.parquet'))):02d}.wav"])
        merge_stores(tmp_path / "out", [tmp_path / "0"])
        assert len(list((tmp_path / "0" / "embeddings").glob("*.parquet"))) == 5
        assert len(list((tmp_path / "out" / "embeddings").glob("*.parquet"))) == 1

    def test_a_vector_wins_over_a_failure(self, tmp_path: Path):
        write_store(tmp_path / "0", ["00.wav"])
        write_store(tmp_path / "1", ["01.wav"])
        for number, path in enumerate(["01.wav", "02.wav"]):
            with StoreWriter(tmp_path / str(number), describe()) as writer:
                writer.fail(path, "OSError", "unreadable")
                writer.commit()
        merged = merge_stores(tmp_path / "out", [tmp_path / "0", tmp_path / "1"])
        assert merged.paths == ["00.wav", "01.wav"]
        assert merged.failures["path"].to_pylist() == ["02.wav"]

    def test_the_same_vector_twice_is_taken_once_and_others_are_refused(self, tmp_path: Path):
        write_store(tmp_path / "0", ["00.wav", "01.wav"])
        write_store(tmp_path / "1", ["01.wav", "02.wav"])
        merged = merge_stores(tmp_path / "out", [tmp_path / "0", tmp_path / "1"])
        assert merged.paths == ["00.wav", "01.wav", "02.wav"]
        with StoreWriter(tmp_path / "2", describe()) as writer:
            writer.add("01.wav", 1.0, 16_000, 1, np.full(4, 5.0, np.float32))
            writer.commit()
        with pytest.raises(StoreError, match=r"01\.wav has different vectors in .*0 and .*2"):
            merge_stores(tmp_path / "out2", [tmp_path / "0", tmp_path / "2"])

    def test_other_settings_and_folders_are_refused(self, tmp_path: Path):
        write_store(tmp_path / "0", ["00.wav"])
        write_store(tmp_path / "1", ["01.wav"], precision="bfloat16")
        with pytest.raises(StoreError, match=r"precision is .* there and 'bfloat16' in .*; merge stores of the same"):
            merge_stores(tmp_path / "out", [tmp_path / "0", tmp_path / "1"])
        with StoreWriter(tmp_path / "2", {**describe(), "folder": "/elsewhere"}):
            pass
        with pytest.raises(StoreError, match="merge stores of one folder"):
            merge_stores(tmp_path / "out", [tmp_path / "0", tmp_path / "2"])
        assert not (tmp_path / "out").exists()

    def test_its_own_place_and_repeated_stores_are_refused(self, tmp_path: Path):
        write_store(tmp_path / "0", ["00.wav"])
        with pytest.raises(StoreError, match="is one of the stores"):
            merge_stores(tmp_path / "0", [tmp_path / "0"])
        (tmp_path / "1").mkdir()
        with pytest.raises(StoreError, match="named twice"):
            merge_stores(tmp_path / "out", [tmp_path / "0", tmp_path / "1" / ".." / "0"])
        with pytest.raises(StoreError, match="at least one store"):
            merge_stores(tmp_path / "out", [])
        with pytest.raises(InvalidArgumentError, match="a list of stores"):
            merge_stores(tmp_path / "out", str(tmp_path / "0"))

    def test_killed_in_the_middle_it_continues(
        self, tmp_path: Path, start_process: Callable[..., BaseProcess], monkeypatch: pytest.MonkeyPatch
    ):
        for i in range(3):
            write_store(tmp_path / str(i), [f"{10 * i + j:02d}.wav" for j in range(4)])
        program = (
            "import os, signal\n"
            "from sedembed.store import merge\n"
            "from sedembed.store.writer import StoreWriter\n"
            "merge.SHARD_ROWS = 4\n"
            "add = StoreWriter.add_shard\n"
            "def add_and_die(*arguments):\n"
            "    add(*arguments)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "StoreWriter.add_shard = add_and_die\n"
            "merge.merge_stores(out, stores)\n"
        )
        stores = [str(tmp_path / str(i)) for i in range(3)]
        process = start_process(program, out=str(tmp_path / "out"), stores=stores)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert len(open_store(tmp_path / "out")) == 4
        merged = merge_stores(tmp_path / "out", stores)
        assert merged.paths == [f"{10 * i + j:02d}.wav" for i in range(3) for j in range(4)]

    def test_damaged_frames_are_not_copied(self, tmp_path: Path, sounds: Path, untrained_embedder: Embedder):
        store = embed_folder(sounds, tmp_path / "0", untrained_embedder, frames=True, shard=(0, 15))
        (file,) = (store.directory / "frames").glob("*.parquet")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(bytes(data))
        run = json.loads((store.directory / "run.json").read_text())
        del run["shard"]
        (store.directory / "run.json").write_text(json.dumps(run))
        with pytest.raises(StoreError, match=r"frames-00000-00000\.parquet is damaged"):
            merge_stores(tmp_path / "out", [store.directory])
