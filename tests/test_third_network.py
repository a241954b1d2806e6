"""A network of one's own goes through the whole library: registered, and no line changed elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

import sedembed
from sedembed.cli.main import main
from sedembed.models import registry
from sedembed.models.base import NetworkOutput
from sedembed.models.frontend import Spectrogram


@dataclass(frozen=True)
class TinyConfig:
    classes: int = 527
    mean: float = -30.0
    std: float = 20.0
    architecture: Literal["tiny"] = "tiny"


class Tiny(sedembed.Backbone):
    """One convolution over eight frames, and a linear layer on its output."""

    architecture = "tiny"
    config_class = TinyConfig
    spectrogram = Spectrogram(n_fft=512, win_length=400, hop_length=160, n_mels=16)
    embedding_size = 12
    frame_rate = 12.5
    first_frame_time = 0.035
    min_samples = 1600
    max_batch_frames = 16_000

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv1d(16, 12, 8, stride=8)
        self.out = nn.Linear(12, config.classes)
        self.register_buffer("mean", torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.std), persistent=False)

    @property
    def event_layer(self) -> nn.Linear:
        return self.out

    def forward_normalised(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> NetworkOutput:
        frames = self.conv(x.transpose(1, 2)).relu().transpose(1, 2)
        return NetworkOutput(frames, self.out(frames).sigmoid(), None if lengths is None else lengths // 8)

    def pool(self, output: NetworkOutput) -> torch.Tensor:
        p = output.probabilities
        lengths = output.lengths if output.lengths is not None else torch.tensor([p.shape[1]] * len(p))
        valid = (torch.arange(p.shape[1]) < lengths[:, None])[..., None]
        return (p * valid).sum(1) / valid.sum(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    sedembed.register_model(Tiny)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Tiny(TinyConfig())
    yield sedembed.save_pretrained(network, tmp_path_factory.mktemp("tiny") / "model")
    del registry._ARCHITECTURES["tiny"]


@pytest.fixture(scope="module")
def model(directory: Path) -> sedembed.Embedder:
    return sedembed.load_model(directory, device="cpu")


@pytest.fixture(scope="module")
def recordings(write_esc50: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_esc50(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def store(model: sedembed.Embedder, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "store"
    assert len(sedembed.embed_folder(recordings / "audio", out, model, frames=True, progress=False)) == 20
    return out


@pytest.fixture(scope="module")
def labels(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("labels") / "labels.csv"
    with (recordings / "meta" / "esc50.csv").open(newline="") as stream, file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", "label"])
        writer.writerows([row["filename"], row["category"]] for row in csv.DictReader(stream))
    return file


def test_embedding_of_clips_of_different_length(model: sedembed.Embedder):
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, samples) for samples in (16_000, 15_000, 800, 40_000)]
    together = model.embed(clips)
    assert together.shape == (4, 12)
    np.testing.assert_allclose(together, [model.embed(clip) for clip in clips], atol=1e-5)
    assert model.tag(clips).shape == (4, 527)
    frames = model.embed_frames(clips[0])
    np.testing.assert_allclose(np.diff(frames.times), 0.08)
    assert (model.embedding_size, model.frame_rate, model.default_normalize) == (12, 12.5, "standardize+l2")


def test_events(model: sedembed.Embedder):
    wave = np.random.default_rng(0).normal(0, 0.1, 25 * 16_000)
    events = model.detect(wave, threshold=0.3)
    assert events
    assert all(0 <= event.onset < event.offset <= 25 for event in events)


def test_saved_and_loaded(model: sedembed.Embedder, directory: Path, tmp_path: Path):
    network = sedembed.load_network(directory)
    assert isinstance(network, Tiny)
    again = sedembed.load_model(sedembed.save_pretrained(network, tmp_path / "again"), device="cpu")
    wave = np.random.default_rng(1).normal(0, 0.1, 16_000)
    np.testing.assert_array_equal(again.embed(wave), model.embed(wave))
    np.testing.assert_array_equal(sedembed.Embedder(network, device="cpu").embed(wave), model.embed(wave))


def test_a_record_gives_a_name(model: sedembed.Embedder, directory: Path):
    import dataclasses

    record = dataclasses.replace(model.record, name="tiny-sounds", version="1", source=str(directory))
    sedembed.register_model(Tiny, record)
    try:
        assert "tiny-sounds" in sedembed.list_models()
        assert sedembed.load_model("tiny-sounds", device="cpu").record == record
    finally:
        del registry._RECORDS["tiny-sounds"]


def test_probe_and_analysis(directory: Path, store: Path, labels: Path, tmp_path: Path):
    assert main(["probe", "fit", str(store), "--labels", str(labels), "-o", str(tmp_path / "probe")]) == 0
    assert main(["analyze", str(tmp_path / "probe"), "--model", str(directory), "-o", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.html").exists()


def test_evaluation(directory: Path, recordings: Path, tmp_path: Path):
    command = ["evaluate", "esc50", "--data", str(recordings), "--model", str(directory), "-o", str(tmp_path)]
    assert main([*command, "--partial"]) == 0
    (result,) = tmp_path.glob("esc50-*.json")
    assert json.loads(result.read_text())["normalize"] == "standardize+l2"


def test_map_with_the_networks_own_events(directory: Path, store: Path, tmp_path: Path):
    assert main(["map", str(store), "-o", str(tmp_path / "map.html"), "--model", str(directory)]) == 0
    assert "strongest sound event" in (tmp_path / "map.html").read_text()


def test_training(write_sounds: Callable[..., Path], directory: Path, tmp_path: Path):
    videos = [f"-bcdefgh_{i:02d}" for i in range(6)]
    data = write_sounds(tmp_path / "audioset", {f"Y{video}.wav": 1.0 for video in videos})
    line = '{}, 0.000, 10.000, "{}"\n'
    rows = [line.format(video, ("/m/09x0r", "/m/0jbk")[i % 2]) for i, video in enumerate(videos)]
    header = "# Segments csv created Sun Mar  5 10:54:31 2017\n# YTID, start_seconds, end_seconds, positive_labels\n"
    (data / "balanced_train_segments.csv").write_text(header + "".join(rows))
    (data / "eval_segments.csv").write_text(header + line.format("-missing_00", "/m/09x0r"))
    settings = {"steps": 3, "batch_size": 4, "seconds": 1.0, "validation": "none", "normalization": "measured"}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    out = tmp_path / "run"
    command = ["train", "tiny", "--data", str(data), "--out", str(out), "--config", str(tmp_path / "settings.json")]
    assert main([*command, "--device", "cpu"]) == 0
    trained = sedembed.load_network(out / "model")
    assert isinstance(trained, Tiny)
    assert trained.config.mean != TinyConfig().mean


class TestRegistering:
    def test_what_is_no_network(self):
        with pytest.raises(TypeError, match="subclass of sedembed\\.Backbone"):
            sedembed.register_model(nn.Linear)  # type: ignore[arg-type]

    def test_an_incomplete_network(self):
        class Half(sedembed.Backbone):
            architecture = "half"

        with pytest.raises(TypeError, match=r"Half does not define config_class, embedding_size, event_layer"):
            sedembed.register_model(Half)

    def test_a_configuration_of_another_architecture(self, directory: Path):
        class Other(Tiny):
            architecture = "other"

        with pytest.raises(TypeError, match="Literal\\['other'\\]"):
            sedembed.register_model(Other)

    def test_a_name_that_is_taken(self, directory: Path):
        class Second(Tiny):
            pass

        with pytest.raises(ValueError, match="is another class"):
            sedembed.register_model(Second)
