"""The ONNX file: its outputs, run by onnxruntime, are those of the library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.engine.export import export_onnx
from sedembed.errors import InvalidArgumentError, MissingPackageError
from sedembed.models.talnet import TALNet, TALNetConfig, packaged_normalizer
from sedembed.models.weanet import WEANet

EXAMPLES = Path(__file__).parents[2] / "examples"
SOUND = EXAMPLES / "sounds" / "speech_english.wav"


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnx", reason="exporting needs the extra onnx")
    return pytest.importorskip("onnxruntime", reason="exported files are checked with onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, small_weanet_dir, untrained_model_dir, runtime) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    files = {"talnet": folder / "talnet.onnx", "weanet": folder / "weanet.onnx"}
    assert main(["export", str(untrained_model_dir), "-o", str(files["talnet"])]) == 0
    assert main(["export", str(small_weanet_dir), "-o", str(files["weanet"])]) == 0
    return files


@pytest.fixture(params=["talnet", "weanet"])
def embedder(request, untrained_embedder: Embedder, small_weanet: WEANet) -> Embedder:
    return untrained_embedder if request.param == "talnet" else Embedder(small_weanet, device="cpu")


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("batch", "seconds"), [(1, 1.0), (3, 2.7), (2, 10.0)])
def test_outputs_are_those_of_the_library(embedder, exported, runtime, batch: int, seconds: float):
    session = runtime.InferenceSession(exported[embedder.record.architecture])
    clips = np.random.default_rng(0).normal(0, 0.1, (batch, round(16_000 * seconds))).astype(np.float32)
    features = np.stack([embedder.runner.features(clip).numpy() for clip in clips])
    frames, embedding, probabilities = session.run(None, {"log_mel": features})
    assert relative(embedding, embedder.embed(clips)) < 1e-5
    assert relative(probabilities, embedder.tag(clips)) < 1e-5
    assert relative(frames[-1], embedder.embed_frames(clips[-1]).embeddings) < 1e-5


@pytest.mark.parametrize("pooling", ["max", "attention"])
def test_every_pooling(pooling: str, runtime, tmp_path: Path):
    mean, std = packaged_normalizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TALNet(TALNetConfig(mean, std, classes=5, pooling=pooling)).eval()
    embedder = Embedder(network, device="cpu")
    session = runtime.InferenceSession(export_onnx(network, embedder.record, tmp_path / "m.onnx"))
    clip = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    features = embedder.runner.features(clip).numpy()[None]
    assert relative(session.run(["probabilities"], {"log_mel": features})[0][0], embedder.tag(clip)) < 1e-5


def test_a_silent_embedding_stays_zero(runtime, small_weanet: WEANet, tmp_path: Path):
    network = small_weanet.traceable()
    with torch.no_grad():
        network.b5.bn.weight.zero_()
        network.b5.bn.bias.fill_(-1.0)
    session = runtime.InferenceSession(export_onnx(network, Embedder(network).record, tmp_path / "m.onnx"))
    embedding = session.run(["embedding"], {"log_mel": np.zeros((2, 128, 64), np.float32)})[0]
    np.testing.assert_array_equal(embedding, np.zeros((2, 24)))


def test_the_file_says_what_it_is(embedder, exported, runtime):
    meta = runtime.InferenceSession(exported[embedder.record.architecture]).get_modelmeta().custom_metadata_map
    assert json.loads(meta["labels"]) == list(embedder.labels)
    assert json.loads(meta["front_end"])["hop_length"] == embedder.runner.network.spectrogram.hop_length
    assert json.loads(meta["model"])["licence"] == embedder.record.licence


@pytest.mark.parametrize(
    ("embedder", "seconds"), [("talnet", 10), ("talnet", 0.05), ("weanet", None)], indirect=["embedder"]
)
def test_the_example_needs_no_torch(embedder, exported, seconds, tmp_path: Path):
    import soundfile

    sound = tmp_path / "sound.wav"
    samples, rate = soundfile.read(SOUND)
    soundfile.write(sound, samples if seconds is None else np.resize(samples, round(seconds * rate)), rate)
    program = (
        "import runpy, sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'sedembed'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        f"sys.argv = ['run_onnx.py', {str(exported[embedder.record.architecture])!r}, {str(sound)!r}]\n"
        f"runpy.run_path({str(EXAMPLES / 'run_onnx.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    vector, probabilities = embedder.embed(sound), embedder.tag(sound)
    assert first.startswith(f"embedding of {len(vector)} numbers")
    got = np.array(json.loads(first[first.index("[") :]))
    assert np.abs(got - vector[:4]).max() < 1e-4 * np.abs(vector).max()
    for line, i in zip(rest, probabilities.argsort()[::-1][:5], strict=True):
        assert float(line.split()[0]) == pytest.approx(probabilities[i], abs=2e-4)


def test_another_ending_is_refused(small_weanet: WEANet, tmp_path: Path):
    with pytest.raises(InvalidArgumentError, match=r"ends in \.onnx"):
        export_onnx(small_weanet, Embedder(small_weanet).record, tmp_path / "m.pb")


def test_without_onnx_the_error_says_what_to_install(small_weanet: WEANet, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=r"sedembed\[onnx\]"):
        export_onnx(small_weanet, Embedder(small_weanet).record, tmp_path / "m.onnx")
