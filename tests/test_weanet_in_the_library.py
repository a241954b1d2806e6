"""Tests of weanet in the library."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sedembed
from sedembed import Embedder, LinearProbe
from sedembed._analysis.timeline import draw_timeline, read_timeline
from sedembed._analysis.weight_vectors import estimate_event_rows, event_rows
from sedembed.cli.main import main
from sedembed.detection.detect import run_windows
from sedembed.detection.events import EventRules
from sedembed.engine.windows import WindowResult
from sedembed.errors import ProbeError
from sedembed.models.base import NetworkOutput
from sedembed.models.weanet import WEANet, WEANetConfig
from sedembed.models.weights import save_pretrained
from tests.models.weanet_helpers import CPU, RATE, network, reference_forward, relative  # noqa: F401

ROOT = Path(__file__).parents[1]


HOP = 5_120  # samples from one segment to the next


def embedder(network: WEANet, directory: Path, **changes: object) -> Embedder:
    """The same weights with another configuration."""
    changed = WEANet(dataclasses.replace(network.config, **changes))
    changed.load_state_dict(network.state_dict())
    return sedembed.load_model(save_pretrained(changed.eval(), directory), device="cpu")


@pytest.fixture(scope="module")
def model(small_weanet_dir: Path) -> Embedder:
    return sedembed.load_model(small_weanet_dir, device="cpu")


@pytest.fixture(scope="module")
def maximum(small_weanet: WEANet, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return embedder(small_weanet, tmp_path_factory.mktemp("models") / "max", embedding_pooling="max")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    swell = 0.02 + 0.2 * np.abs(np.sin(np.arange(samples) / 9_000 + rng.uniform(0, 6)))
    return (swell * rng.standard_normal(samples)).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


class TestEmbedder:
    def test_attributes(self, model: Embedder) -> None:
        assert (model.sample_rate, model.embedding_size, model.frame_rate) == (16_000, 24, 3.125)
        assert len(model.labels) == 527
        assert model.record.architecture == "weanet"

    @pytest.mark.parametrize("samples", [16_000, 80_001, 160_000])
    def test_average_and_maximum(self, small_weanet: WEANet, model: Embedder, maximum: Embedder, samples: int) -> None:
        wave = noise(samples)
        features = model.runner.features(wave).numpy()
        frames, _, clip = reference_forward(small_weanet, features)
        np.testing.assert_allclose(model.embed(wave), unit(frames.mean(0)), atol=1e-5)
        np.testing.assert_allclose(maximum.embed(wave), unit(frames.max(0)), atol=1e-5)
        np.testing.assert_allclose(model.tag(wave), clip, rtol=1e-4)
        raw = model.embed_frames(wave)
        assert relative(raw.embeddings, frames) < 1e-4
        assert np.linalg.norm(raw.embeddings, axis=1).max() != pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(raw.times, 0.475 + 0.32 * np.arange(len(frames)))
        assert np.linalg.norm(model.embed(wave)) == pytest.approx(1, abs=1e-6)
        assert relative(model.embed(wave), maximum.embed(wave)) > 1e-3

    @pytest.mark.parametrize("pooling", ["average", "max"])
    def test_a_long_clip_is_the_sum_of_its_windows(self, model: Embedder, maximum: Embedder, pooling: str) -> None:
        used = model if pooling == "average" else maximum
        wave = noise(125 * RATE)
        windows = [wave[: 60 * RATE], wave[60 * RATE : 120 * RATE], wave[120 * RATE :]]
        outputs = [plain_output(used, window) for window in windows]
        frames = np.concatenate([output.frames[0].double().numpy() for output in outputs])
        expected = unit(frames.mean(0) if pooling == "average" else frames.max(0))
        np.testing.assert_allclose(used.embed(wave), expected, atol=1e-5)
        highest = np.zeros(527)
        for part in np.split(wave, range(10 * RATE, 121 * RATE, 10 * RATE)):
            output = plain_output(used, part)
            attention, p = (x[0].double().numpy() for x in (output.attention, output.probabilities))
            highest = np.maximum(highest, (np.exp(attention) / np.exp(attention).sum(0) * p).sum(0))
        np.testing.assert_allclose(used.tag(wave), highest, rtol=1e-4)

        found = used.embed_frames(wave)
        assert relative(found.embeddings, frames) < 1e-4
        counts = [output.frames.shape[1] for output in outputs]
        times = [60 * i + 0.475 + 0.32 * np.arange(count) for i, count in enumerate(counts)]
        np.testing.assert_allclose(found.times, np.concatenate(times))
        streamed = list(used.stream((wave[i : i + 70_001] for i in range(0, len(wave), 70_001)), RATE))
        np.testing.assert_array_equal(np.concatenate([part.embeddings for part in streamed]), found.embeddings)
        np.testing.assert_array_equal(np.concatenate([part.times for part in streamed]), found.times)

    def test_a_short_remainder_joins_the_window_before(self, model: Embedder) -> None:
        assert len(list(model.stream([noise(60 * RATE + 15_199)], RATE))) == 1
        assert len(list(model.stream([noise(60 * RATE + 15_200)], RATE))) == 2

    def test_same_sound_same_vector(self, model: Embedder, maximum: Embedder) -> None:
        lengths = [1, 160, 9_000, 15_199, 15_200, 15_201, 16_000, 20_479, 20_480, 30_000, 80_000, 79_000, 160_000]
        clips = [noise(n, seed=n) for n in lengths] * 2
        for used in (model, maximum):
            alone = np.stack([used.embed(clip) for clip in clips])
            tags = np.stack([used.tag(clip) for clip in clips])
            np.testing.assert_allclose(used.embed(clips), alone, atol=1e-5)
            np.testing.assert_allclose(used.embed(clips[::-1])[::-1], alone, atol=1e-5)
            np.testing.assert_allclose(used.tag(clips), tags, rtol=1e-4)

    @pytest.mark.parametrize("samples", [1, 160, 15_199])
    def test_short_clips_are_padded(self, model: Embedder, samples: int) -> None:
        wave = noise(samples)
        padded = np.pad(wave, (0, 15_200 - samples))
        np.testing.assert_array_equal(model.embed(wave), model.embed(padded))
        assert model.embed_frames(wave).embeddings.shape == (1, 24)
        np.testing.assert_allclose(model.embed_frames(wave).times, [0.475])

    def test_a_vector_without_direction_stays_zero(self, small_weanet: WEANet, tmp_path: Path) -> None:
        silent = WEANet(small_weanet.config)
        silent.load_state_dict(small_weanet.state_dict())
        torch.nn.init.constant_(silent.b5.bn.bias, -1e3)
        for pooling in ("average", "max"):
            used = embedder(silent, tmp_path / pooling, embedding_pooling=pooling)
            assert not used.embed(noise(20_000)).any()
        assert np.isfinite(used.embed(np.zeros(20_000))).all()

    def test_batches_are_bounded(self, model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        assert WEANet(WEANetConfig()).max_batch_frames == pytest.approx(2 * 1024, rel=0.5)
        monkeypatch.setattr(type(model.runner.network), "max_batch_frames", 512)
        sizes: list[list[int]] = []
        submit = model.runner.submit

        def run(features: list[torch.Tensor], **options: bool) -> Callable[[], list[WindowResult]]:
            sizes.append([len(item) for item in features])
            return submit(features, **options)

        monkeypatch.setitem(vars(model.runner), "submit", run)
        clips = [noise(n) for n in [20_000] * 7 + [100_000, 79_000]]
        vectors = model.embed(clips)
        assert sorted(map(len, sizes)) == [1, 1, 1, 2, 4]
        assert all(len(size) == 1 or len(size) * max(size) <= 512 for size in sizes)
        monkeypatch.undo()
        np.testing.assert_allclose(vectors, model.embed(clips), atol=1e-5)

    def test_bfloat16(self, model: Embedder, small_weanet_dir: Path) -> None:
        rough = sedembed.load_model(small_weanet_dir, device="cpu", precision="bfloat16")
        wave = noise(40_000)
        assert 0.995 < float(rough.embed(wave) @ model.embed(wave)) < 1 - 1e-9
        assert rough.embed(wave).dtype == np.float32


def plain_output(model: Embedder, wave: np.ndarray) -> NetworkOutput:
    with torch.inference_mode():
        output: NetworkOutput = model.runner.network(model.runner.features(wave)[None])
    return output


@pytest.fixture(scope="module")
def sounds(write_sounds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = [0.3, 0.95, 1.0, 1.5, 2.0, 2.3, 3.1, 5.0, 10.0, 61.0] + [1.2] * 12
    return write_sounds(tmp_path_factory.mktemp("sounds"), {f"{i:02}.wav": s for i, s in enumerate(lengths)})


@pytest.fixture(scope="module")
def store(sounds: Path, model: Embedder, tmp_path_factory: pytest.TempPathFactory) -> sedembed.EmbeddingStore:
    out = tmp_path_factory.mktemp("stores") / "vectors"
    return sedembed.embed_folder(sounds, out, model, frames=True, progress=False)


class TestFolders:
    def test_vectors_are_those_of_embed(self, store, sounds: Path, model: Embedder, maximum: Embedder, tmp_path: Path):
        assert store.failures.num_rows == 0
        expected = np.stack([model.embed(sounds / path) for path in store.paths])
        np.testing.assert_allclose(store.vectors, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(store.vectors, axis=1), 1, atol=1e-6)
        largest = sedembed.embed_folder(sounds, tmp_path / "max", maximum, workers=1, batch_size=3, progress=False)
        expected = np.stack([maximum.embed(sounds / path) for path in largest.paths])
        np.testing.assert_allclose(largest.vectors, expected, atol=1e-5)

    def test_frames(self, store, sounds: Path, model: Embedder) -> None:
        for path in ("00.wav", "08.wav", "09.wav"):
            stored, found = store.frames(path), model.embed_frames(sounds / path)
            np.testing.assert_allclose(stored.times, found.times)
            assert relative(stored.embeddings, found.embeddings) < 1e-5

    def test_search_and_map(self, store, model: Embedder, small_weanet_dir: Path, tmp_path: Path, capsys) -> None:
        (hit,) = store.search(model.embed(Path(store.run["folder"]) / "07.wav"), 1)
        assert (hit.path, hit.score) == ("07.wav", pytest.approx(1))
        again = sedembed.open_store(store.directory)
        assert again.embedding_size == 24
        page = tmp_path / "map.html"
        arguments = ["map", str(store.directory), "-o", str(page), "--method", "pca", "--model", str(small_weanet_dir)]
        assert main(arguments) == 0
        assert "coloured by folder" in capsys.readouterr().err  # no layer of WEANet tags a clip's embedding
        assert page.stat().st_size > 1000

    def test_other_pooling_is_another_model(self, store, sounds: Path, maximum: Embedder) -> None:
        with pytest.raises(sedembed.SedembedError, match="sha256"):
            sedembed.embed_folder(sounds, store.directory, maximum, frames=True, progress=False)

    def test_networks_without_a_file_are_told_apart(self, small_weanet: WEANet, model: Embedder) -> None:
        from sedembed.engine.provenance import describe_run

        record = dataclasses.replace(model.record, sha256="")
        runs = []
        for pooling in ("average", "max", "average"):
            network = WEANet(dataclasses.replace(small_weanet.config, embedding_pooling=pooling))
            network.load_state_dict(small_weanet.state_dict())
            runs.append(describe_run(Embedder(network.eval(), record, device="cpu").runner, Path())["fingerprint"])
        assert runs[0] == runs[2] != runs[1]


@pytest.fixture
def loudness(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    """A model whose segments are all sounds at once where the middle of their middle 0.32 s is loud."""

    def probabilities(features: torch.Tensor) -> np.ndarray:
        hops = features.reshape(-1, 32, 64)
        loud = (hops[1:-1, 14:18].amax((1, 2)) > -40).float()
        return loud[:, None].expand(-1, 527).numpy()

    monkeypatch.setitem(vars(model.runner), "frame_probabilities", probabilities)
    return model


def bursts(seconds: float, *spans: tuple[float, float]) -> np.ndarray:
    wave = np.zeros(round(seconds * RATE), np.float32)
    for onset, offset in spans:
        part = slice(round(onset * RATE), round(offset * RATE))
        wave[part] = np.random.default_rng(0).normal(0, 0.2, part.stop - part.start)
    return wave


class TestDetect:
    SPANS = ((1.0, 2.0), (7.7, 9.5), (12.3, 31.7), (33.0, 33.9), (36.0, 36.9))

    def test_onsets_to_half_a_segment(self, loudness: Embedder) -> None:
        """A boundary is found at the edge of the grid that is nearest, across all windows."""
        events = loudness.detect(bursts(38.13, *self.SPANS), labels="Speech")
        assert [event.label for event in events] == ["Speech"] * len(self.SPANS)
        np.testing.assert_allclose([event[1:3] for event in events], self.SPANS, atol=0.18)
        grid = np.array([event[1:3] for event in events]) / 0.32
        np.testing.assert_allclose(grid, np.round(grid), atol=1e-6)

    def test_a_segment_stands_for_the_time_around_its_centre(self, model: Embedder, monkeypatch) -> None:
        """One segment after the other is active alone: its event holds its time in `Frames.times`."""
        wave = noise(6 * RATE)
        times = model.embed_frames(wave).times
        assert len(times) == 17
        for n, time in enumerate(times):
            track = np.zeros((len(times), 527), np.float32)
            track[n] = 1
            monkeypatch.setitem(vars(model.runner), "frame_probabilities", lambda _, track=track: track)
            (event,) = model.detect(wave, labels="Dog")
            assert event.onset < time < event.offset
            begin, end = 0.32 * (n + 1), 0.32 * (n + 2)
            expected = (0.0 if n == 0 else begin, 6.0 if n == len(times) - 1 else end)
            assert event[1:3] == pytest.approx(expected)

    @pytest.mark.parametrize(
        "seconds", [0.05, 0.5, 0.96, 1.28, 5.12, 9.99, 10.0, 10.24, 10.25, 18.0, 18.56, 26.0, 35.2]
    )
    def test_a_sound_throughout(self, loudness: Embedder, seconds: float) -> None:
        (event,) = loudness.detect(bursts(max(seconds, 0.7), (0, max(seconds, 0.7))), labels=["Speech"])
        assert (event.onset, event.offset) == (0.0, max(seconds, 0.7))

    @pytest.mark.parametrize("seconds", [0.05, 1.0, 5.12, 10.0, 38.13])
    def test_stretches_cover_the_clip_once(self, loudness: Embedder, seconds: float) -> None:
        wave = bursts(seconds, (0, seconds))
        stretches = list(run_windows(loudness.runner, np.array_split(wave, 3)))
        starts = [s.start + i * 0.32 for s in stretches for i in range(len(s.probabilities))]
        np.testing.assert_allclose(starts, 0.32 * np.arange(np.ceil(seconds / 0.32 - 1e-9)), atol=1e-9)
        np.testing.assert_allclose([s.end for s in stretches[:-1]], [s.start for s in stretches[1:]])
        assert stretches[-1].end == pytest.approx(seconds)
        assert sum(len(s.features) for s in stretches) == 1 + len(wave) // 160
        whole = loudness.runner.features(wave[: 10 * RATE]).numpy()[:900]
        heard = np.concatenate([s.features for s in stretches])[: min(900, len(wave) // 160)]
        np.testing.assert_allclose(heard, whole[: len(heard)], atol=1e-3)

    def test_windows_hear_what_the_network_hears(self, model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a replaced network: frames of a window are those of that piece of sound alone."""
        wave = noise(20 * RATE)
        stretches = list(run_windows(model.runner, [wave]))
        hop, edge, window = 26, 3, 32
        assert len(stretches) == 3
        for k, stretch in enumerate(stretches):
            piece = wave[k * hop * HOP : (k * hop + window) * HOP]
            alone = plain_output(model, piece).probabilities[0].numpy()
            first = edge if k else 1
            last = window - edge if k < 2 else len(alone) + 1
            expected = alone[first - 1 : last - 1]
            found = stretch.probabilities[0 if k else 1 :][: len(expected)]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert stretch.start == pytest.approx((k * hop + (edge if k else 0)) * 0.32)

    def test_however_the_sound_arrives(self, loudness: Embedder) -> None:
        wave = bursts(38.13, *self.SPANS)
        expected = loudness.detect(wave, labels=["Speech", "Dog"])
        for block in (997, 64_000, 10_000_000):
            blocks = (wave[i : i + block] for i in range(0, len(wave), block))
            streamed = loudness.detect_stream(blocks, RATE, labels=["Speech", "Dog"])
            assert sorted(streamed, key=lambda e: (e.onset, e.offset, e.label)) == expected

    def test_picture(self, model: Embedder, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        wave = noise(7 * RATE + 80)
        soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
        rules = EventRules.check(model.labels, model.frame_rate)
        read = read_timeline(model, tmp_path / "a.wav", rules)
        assert read.events == model.detect(tmp_path / "a.wav")
        assert read.spectrogram.shape == (701, 64)
        assert read.spectrogram_step == read.feature_step == pytest.approx(0.01)
        assert read.probabilities.shape == (22, 527)
        assert (read.probability_step, read.probability_start) == (pytest.approx(0.32), 0.0)
        np.testing.assert_allclose(read.spectrogram, model.runner.features(wave).numpy()[:701], atol=1e-3)
        spectrum, strips = (axes.get_images()[0].get_extent() for axes in draw_timeline(read).axes[:2])
        assert spectrum[:2] == pytest.approx([-0.005, 7.005])
        assert strips[:2] == pytest.approx([0, 22 * 0.32])

    def test_command(self, small_weanet_dir: Path, model: Embedder, tmp_path: Path, capsys) -> None:
        soundfile.write(tmp_path / "a.wav", noise(4 * RATE), RATE)
        assert main(["detect", str(tmp_path / "a.wav"), "--model", str(small_weanet_dir), "--device", "cpu"]) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        events = model.detect(tmp_path / "a.wav")
        assert len(events) > 0
        assert [row["label"] for row in rows] == [event.label for event in events]


@pytest.fixture(scope="module")
def esc50(tmp_path_factory: pytest.TempPathFactory, write_esc50: Callable[..., Path]) -> Path:
    return write_esc50(tmp_path_factory.mktemp("data") / "esc50")


class TestEvaluate:
    def test_command(self, esc50: Path, small_weanet_dir: Path, tmp_path: Path) -> None:
        out = tmp_path / "results"
        arguments = ["evaluate", "esc50", "--data", str(esc50), "--model", str(small_weanet_dir), "--partial"]
        assert main([*arguments, "-o", str(out), "--device", "cpu"]) == 0
        result = json.loads((out / f"esc50-{small_weanet_dir.name}.json").read_text())
        assert result["normalize"] == "l2"
        assert result["paper"] == 0.941
        assert result["score"] >= 0.9  # noise against tones
        assert result["model_version"].startswith("local-")

    def test_the_name_does_not_decide(self, small_weanet: WEANet, model: Embedder) -> None:
        record = dataclasses.replace(model.record, name="better-than-talnet")
        assert Embedder(small_weanet, record, device="cpu").default_normalize == "l2"
        assert sedembed.load_model("talnet", device="cpu").default_normalize == "standardize+l2"


class TestAnalysis:
    def test_event_rows_are_estimated(self, model: Embedder, store, sounds: Path) -> None:
        with pytest.raises(ProbeError, match="WEANet does not feed its event layer"):
            event_rows(model)
        rows = estimate_event_rows(model, store)
        assert rows.rows.shape == (527, 24)
        assert rows.recordings == len(store)

    def test_probe_on_a_store(self, store) -> None:
        labels = np.array(["long" if int(path[:2]) in range(4, 10) else "short" for path in store.paths])
        probe = LinearProbe(normalize="l2").fit(store, labels)
        assert probe.coef_.shape[1] == 24
