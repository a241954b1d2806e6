"""The engine OpenVINO: the vectors of PyTorch, and sentences where it cannot run."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from sedembed.batch.embed_folder import embed_folder
from sedembed.batch.store_model import load_store_model
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.engine import openvino as engine
from sedembed.errors import InvalidArgumentError, MissingPackageError, StoreError
from sedembed.loading import load_model
from sedembed.models.base import Backbone, NetworkOutput
from sedembed.models.talnet import TALNet
from sedembed.models.weanet import WEANet
from sedembed.models.weights import load_network, resolve

Write = Callable[..., Path]
SECONDS = (0.05, 0.9, 1.0, 2.7, 61.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def installed() -> None:
    # Not importorskip: a plain import of OpenVINO would call its makers.
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("the engine needs the extra openvino")


@pytest.fixture(scope="module")
def untrained(untrained_model_dir: Path) -> Backbone:
    return load_network(resolve(untrained_model_dir))


@pytest.fixture(scope="module")
def pairs(untrained: Backbone, small_weanet: WEANet) -> dict[str, tuple[Embedder, Embedder]]:
    """Each network by PyTorch and by OpenVINO."""
    installed()
    networks = {"talnet": untrained, "weanet": small_weanet}
    return {
        name: (Embedder(network, device="cpu"), Embedder(network, engine="openvino"))
        for name, network in networks.items()
    }


@pytest.fixture(params=["talnet", "weanet"])
def pair(request, pairs) -> tuple[Embedder, Embedder]:
    return pairs[request.param]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, round(16_000 * seconds)).astype(np.float32) for seconds in SECONDS]


@pytest.fixture(scope="module")
def narrow(small_weanet_dir: Path) -> Embedder:
    """A network in bfloat16."""
    installed()
    if not engine._has_bfloat16():
        pytest.skip("this processor has no bfloat16 instructions")
    return load_model(small_weanet_dir, precision="bfloat16", engine="openvino")


def error(got: np.ndarray, expected: np.ndarray) -> float:
    """Length of the difference over the length of the vector, of the worst row."""
    return float((np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())


class TestFloat32:
    def test_vectors_are_those_of_torch(self, pair, clips):
        expected, got = (embedder.embed(clips) for embedder in pair)
        assert error(got, expected) < 1e-5

    def test_probabilities_and_frames_too(self, pair, clips):
        torch_, openvino = pair
        np.testing.assert_allclose(openvino.tag(clips), torch_.tag(clips), rtol=1e-4, atol=1e-6)
        assert error(openvino.embed_frames(clips[3]).embeddings, torch_.embed_frames(clips[3]).embeddings) < 1e-5

    def test_neighbours_in_a_batch_do_not_matter(self, pair, clips):
        openvino = pair[1]
        runner = openvino.runner
        features = [runner.features(clip) for clip in (clips[3], clips[3][: 3 * len(clips[3]) // 4])]
        together = runner.run(features, probabilities=True)
        for result, alone in zip(
            together, (runner.run([item], probabilities=True)[0] for item in features), strict=True
        ):
            assert result.frames.shape == alone.frames.shape
            assert error(result.frames, alone.frames) < 1e-5

    def test_threads_do_not_matter(self, pair, clips):
        openvino, found = pair[1], dict[int, np.ndarray]()

        def embed(number: int) -> None:
            found[number] = openvino.embed(clips[number])

        threads = [threading.Thread(target=embed, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, vector in found.items():
            assert error(vector, openvino.embed(clips[number])) < 1e-6
        assert len(found) == 4

    def test_a_store_may_be_continued_by_the_other_engine(self, pairs, tmp_path: Path, write_sounds: Write):
        torch_, openvino = pairs["weanet"]
        root = write_sounds(tmp_path / "in", {"a.wav": 1.0})
        embed_folder(root, tmp_path / "out", torch_)
        write_sounds(root, {"b.wav": 1.5})
        store = embed_folder(root, tmp_path / "out", openvino)
        assert store.paths == ["a.wav", "b.wav"]
        assert error(store.vectors, torch_.embed([root / path for path in store.paths])) < 1e-5

    def test_the_model_says_so(self, pair):
        assert pair[1].engine == "openvino"
        assert "engine='openvino'" in repr(pair[1])
        assert (pair[0].engine, "engine" in repr(pair[0])) == ("torch", False)


class TestBfloat16:
    def test_vectors_are_near_those_of_float32(self, narrow, pairs, clips):
        expected, got = pairs["weanet"][0].embed(clips[1:]), narrow.embed(clips[1:])
        assert (expected * got).sum(1).min() > 0.999
        assert error(got, expected) > 1e-5

    def test_a_store_keeps_the_engine(self, narrow, small_weanet_dir: Path, tmp_path: Path, write_sounds: Write):
        root = write_sounds(tmp_path / "in", {"a.wav": 1.0})
        store = embed_folder(root, tmp_path / "out", narrow)
        assert store.run["settings"]["engine"] == "openvino"
        assert "openvino" in store.run["versions"]
        assert load_store_model(store, str(small_weanet_dir)).engine == "openvino"
        other = load_model(small_weanet_dir, "cpu", "bfloat16")
        with pytest.raises(StoreError, match="engine is 'openvino' there and None now"):
            embed_folder(root, tmp_path / "out", other)


class TestChoosing:
    @pytest.mark.parametrize(
        ("capability", "found", "bfloat16", "precision", "device", "expected"),
        [
            ("AVX512", True, True, "float32", "cpu", "openvino"),
            ("AVX512", True, False, "float32", "cpu", "openvino"),
            ("AVX512", True, True, "bfloat16", "cpu", "openvino"),
            ("AVX512", True, False, "bfloat16", "cpu", "torch"),
            ("AVX512", False, True, "float32", "cpu", "torch"),
            ("AVX512", True, True, "float32", "cuda", "torch"),
            ("AVX2", True, True, "float32", "cpu", "torch"),
        ],
    )
    def test_auto(self, capability, found, bfloat16, precision, device, expected, untrained: Backbone, monkeypatch):
        monkeypatch.setattr(TALNet, "faster_in_openvino", ("float32", "bfloat16"))
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: object() if found else None)
        monkeypatch.setattr(engine, "_has_bfloat16", lambda: bfloat16)
        assert engine.choose_engine("auto", untrained, torch.device(device), precision) == expected

    def test_auto_takes_it_in_the_precision_that_was_measured(self, untrained: Backbone, monkeypatch):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(engine, "_has_bfloat16", lambda: True)
        assert engine.choose_engine("auto", untrained, torch.device("cpu"), "float32") == "torch"
        assert engine.choose_engine("auto", untrained, torch.device("cpu"), "bfloat16") == "openvino"

    def test_what_is_asked_for_and_missing_is_said(self, untrained: Backbone, small_weanet_dir, monkeypatch, capsys):
        monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingPackageError, match=r'pip install "sedembed\[openvino\]"'):
            Embedder(untrained, engine="openvino")
        assert main(["tag", __file__, "--model", str(small_weanet_dir), "--engine", "openvino"]) == 2
        assert "sedembed[openvino]" in capsys.readouterr().err

    def test_another_device_or_name_is_refused(self, untrained: Backbone, monkeypatch):
        with pytest.raises(InvalidArgumentError, match="OpenVINO runs on the CPU only, and device='cuda:0'"):
            engine.choose_engine("openvino", untrained, torch.device("cuda:0"), "float32")
        with pytest.raises(InvalidArgumentError, match="engine must be one of torch, openvino, auto, got 'onnx'"):
            Embedder(untrained, device="cpu", engine="onnx")

    def test_a_processor_without_bfloat16_is_said(self, untrained: Backbone, monkeypatch):
        monkeypatch.setattr(engine, "_has_bfloat16", lambda: False)
        with pytest.raises(
            InvalidArgumentError, match="no bfloat16 instructions, so OpenVINO would compute in float32"
        ):
            Embedder(untrained, engine="openvino", precision="bfloat16")

    def test_a_network_that_cannot_be_converted_is_said(self, small_weanet: WEANet, monkeypatch):
        installed()

        def refuse(self: WEANet, x: torch.Tensor, lengths: torch.Tensor | None = None) -> NetworkOutput:
            raise RuntimeError("an operation of its own")

        monkeypatch.setattr(WEANet, "forward_normalised", refuse)
        level = logging.root.level
        with pytest.raises(InvalidArgumentError, match=r"(?s)cannot convert this network \(.*; use engine='torch'"):
            Embedder(small_weanet, engine="openvino")
        assert logging.root.level == level  # the converter raises it


def test_copies_and_other_processes(pairs, clips):
    openvino, clip = pairs["weanet"][1], clips[2]
    expected = openvino.embed(clip)
    again = pickle.loads(pickle.dumps(openvino))
    np.testing.assert_array_equal(again.embed(clip), expected)
    assert again.engine == "openvino"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert error(pool.submit(openvino.embed, clip).result(120), expected) < 1e-6


def test_a_forked_child_says_what_to_do(small_weanet_dir: Path):
    installed()
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    program = (
        "import os, signal, numpy, sedembed\n"
        "clip = numpy.random.default_rng(0).normal(0, 0.1, 16000).astype('f4')\n"
        f"model = sedembed.load_model({str(small_weanet_dir)!r}, engine='openvino')\n"
        "model.embed([clip] * 8)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.alarm(60)\n"
        "    try:\n"
        "        model.embed([clip] * 8)\n"
        "    except RuntimeError as error:\n"
        "        os._exit(0 if 'spawn' in str(error) else 8)\n"
        "    os._exit(9)\n"
        "print(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["0"], done.stderr


def test_nothing_is_sent_home(small_weanet_dir: Path):
    installed()
    program = (
        "import sys, sedembed\n"
        f"sedembed.load_model({str(small_weanet_dir)!r}, engine='openvino')\n"
        "assert 'openvino' in sys.modules\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
