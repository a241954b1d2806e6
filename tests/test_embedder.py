"""Embedder from outside: forms of input, windows, independence of neighbours, refusals."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import soundfile
import torch

import sedembed
from sedembed.embedder import Embedder
from sedembed.errors import AudioDecodeError, InvalidArgumentError, InvalidWaveformError, ModelNotFoundError

RATE = 16_000


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Noise that swells and fades, so that no two frames are alike."""
    n = max(1, round(seconds * rate))
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 0.1, n) * (1.2 + np.sin(np.arange(n) * 7 / rate))).astype(np.float32)


def assert_same(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-5) -> None:
    """Equal to `tolerance` of the norm."""
    assert a.shape == b.shape
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


class TestForms:
    """Promise 1: the same sound gives the same vector, whatever form it comes in."""

    def test_shapes(self, untrained_embedder):
        model = untrained_embedder
        one = model.embed(noise(1))
        assert one.shape == (model.embedding_size,)
        assert one.dtype == np.float32
        assert model.embed([noise(1)]).shape == (1, 1024)
        assert model.embed(np.stack([noise(1), noise(1, 1)])).shape == (2, 1024)
        assert model.tag(noise(1)).shape == (527,)
        assert model.tag([noise(1), noise(0.5)]).shape == (2, 527)
        assert (model.sample_rate, model.embedding_size, model.frame_rate) == (16_000, 1024, 10.0)
        assert len(model.labels) == 527
        assert (model.labels[0], model.labels[526]) == ("Speech", "Field recording")
        assert model.record.parameters == 9_980_527
        assert "Embedder(" in repr(model)

    def test_array_tensor_file_and_integers_agree(self, untrained_embedder, tmp_path):
        model = untrained_embedder
        integers = np.round(noise(2) * 20_000).clip(-32_768, 32_767).astype(np.int16)
        floats = (integers / 32_768).astype(np.float32)
        expected = model.embed(floats)
        soundfile.write(tmp_path / "a.wav", integers, RATE)
        soundfile.write(tmp_path / "a.flac", integers, RATE)
        soundfile.write(tmp_path / "stereo.wav", np.stack([integers, integers], 1), RATE)
        for form in (integers, torch.from_numpy(floats), floats.astype(np.float64), tmp_path / "a.wav"):
            assert_same(model.embed(form), expected)
        assert_same(model.embed(str(tmp_path / "a.flac")), expected)
        assert_same(model.embed(tmp_path / "stereo.wav"), expected)

    @pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
    def test_resampled_array_equals_resampled_file(self, untrained_embedder, tmp_path, rate):
        wave = noise(3, rate=rate)
        soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
        assert_same(untrained_embedder.embed(wave, rate), untrained_embedder.embed(tmp_path / "a.wav"))

    def test_one_liner(self, untrained_embedder):
        np.testing.assert_array_equal(
            sedembed.embed(noise(1), model=untrained_embedder), untrained_embedder.embed(noise(1))
        )


class TestNeighbours:
    """Promise 1: neither batch, order nor neighbours matter."""

    def test_mixed_lengths(self, untrained_embedder):
        seconds = [0.00001, 0.05, 0.075, 0.3, 1.0, 1.01, 1.05, 2.0, 2.5, 5.0, 9.99, 10.0, 10.02, 12.5]
        clips = [noise(s, i) for i, s in enumerate(seconds)]
        alone = np.stack([untrained_embedder.embed(clip) for clip in clips])
        tags = np.stack([untrained_embedder.tag(clip) for clip in clips])
        for order in (range(len(clips)), reversed(range(len(clips))), np.random.default_rng(0).permutation(len(clips))):
            order = list(order)
            together = untrained_embedder.embed([clips[i] for i in order])
            for row, i in zip(together, order, strict=True):
                assert_same(row, alone[i])
        for row, expected in zip(untrained_embedder.tag(clips), tags, strict=True):
            assert_same(row, expected)

    def test_many_clips_of_one_length(self, untrained_embedder):
        clips = [noise(0.5, i) for i in range(70)]
        together = untrained_embedder.embed(clips)
        for i in (0, 15, 16, 63, 64, 69):
            assert_same(together[i], untrained_embedder.embed(clips[i]))


class TestWindows:
    def test_up_to_a_minute_is_one_window(self, untrained_embedder):
        assert len(untrained_embedder.embed_frames(noise(60)).embeddings) == 600

    def test_longer_clips_average_their_windows(self, untrained_embedder):
        model = untrained_embedder
        wave = noise(125)
        parts = [model.embed_frames(part) for part in np.split(wave, [60 * RATE, 120 * RATE])]
        frames = np.concatenate([part.embeddings for part in parts])
        assert_same(model.embed(wave), frames.mean(0, dtype=np.float64))
        whole = model.embed_frames(wave)
        assert_same(whole.embeddings, frames)
        np.testing.assert_allclose(whole.times, np.concatenate([p.times + 60 * i for i, p in enumerate(parts)]))
        assert whole.times.dtype == np.float64

    @pytest.mark.parametrize(
        ("seconds", "parts"),
        [(10, [10]), (14.9, [14.9]), (24, [12, 12]), (70, [10] * 7), (61.5, [10] * 6 + [1.5])],
    )
    def test_tag_takes_the_highest_of_parts_of_ten_seconds(self, untrained_embedder, seconds, parts):
        model = untrained_embedder
        wave = noise(seconds)
        highest = np.zeros(527)
        for part in np.split(wave, np.cumsum([round(16_000 * part) for part in parts[:-1]])):
            with torch.inference_mode():
                p = model.runner.network(model.runner.features(part)[None]).probabilities[0].double().numpy()
            highest = np.maximum(highest, (p**2).sum(0) / p.sum(0))
        assert_same(model.tag(wave), highest)
        assert_same(model.tag([noise(2), wave, noise(61)])[1], highest)  # beside others

    def test_a_short_remainder_joins_its_neighbour(self, untrained_embedder):
        assert len(untrained_embedder.embed_frames(noise(60.05)).embeddings) == 600
        assert len(untrained_embedder.embed_frames(noise(60.08)).embeddings) == 601

    def test_short_clips_are_padded_with_zeros(self, untrained_embedder):
        wave = noise(0.01)
        assert_same(untrained_embedder.embed(wave), untrained_embedder.embed(np.pad(wave, (0, 1200 - len(wave)))))

    def test_times_are_frame_centres(self, untrained_embedder):
        frames = untrained_embedder.embed_frames(noise(1))
        # Four feature frames at 0, 25, 50 and 75 ms make the first.
        np.testing.assert_allclose(frames.times, 0.0375 + 0.1 * np.arange(10))


class TestStream:
    @pytest.mark.parametrize("block", [997, 16_000, 10_000_000])
    def test_equals_the_whole(self, untrained_embedder, block):
        wave = noise(61)
        expected = untrained_embedder.embed_frames(wave)
        pieces = list(untrained_embedder.stream((wave[i : i + block] for i in range(0, len(wave), block)), RATE))
        assert len(pieces) == 2
        assert_same(np.concatenate([piece.embeddings for piece in pieces]), expected.embeddings)
        np.testing.assert_allclose(np.concatenate([piece.times for piece in pieces]), expected.times)

    def test_resamples(self, untrained_embedder):
        wave = noise(2, rate=44_100)
        (piece,) = untrained_embedder.stream(np.split(wave, 9), 44_100)
        assert_same(piece.embeddings, untrained_embedder.embed_frames(wave, 44_100).embeddings)

    def test_yields_before_the_end(self, untrained_embedder):
        def endless():
            while True:
                yield noise(1)

        assert len(next(untrained_embedder.stream(endless(), RATE)).embeddings) == 600

    def test_refuses_nothing_and_nonsense(self, untrained_embedder):
        with pytest.raises(InvalidWaveformError, match="at least one sample"):
            list(untrained_embedder.stream([], RATE))
        with pytest.raises(InvalidWaveformError, match="NaN"):
            list(untrained_embedder.stream([np.full(100, np.nan)], RATE))


class TestRefusals:
    """Promise 6: nothing silent."""

    def test_rate_with_a_path(self, untrained_embedder, tmp_path):
        with pytest.raises(InvalidWaveformError, match="leave sample_rate out"):
            untrained_embedder.embed(tmp_path / "a.wav", 16_000)

    def test_samples_by_channels(self, untrained_embedder):
        with pytest.raises(InvalidWaveformError, match="mean"):
            untrained_embedder.embed(np.zeros((16_000, 2), np.float32))

    def test_the_clip_is_named(self, untrained_embedder):
        with pytest.raises(InvalidWaveformError, match="clip 1 of 2"):
            untrained_embedder.embed([noise(1), np.full(10, np.inf)])

    def test_empty_list(self, untrained_embedder):
        with pytest.raises(InvalidWaveformError, match="at least one clip"):
            untrained_embedder.embed([])

    def test_missing_file(self, untrained_embedder, tmp_path):
        with pytest.raises(FileNotFoundError):
            untrained_embedder.embed(tmp_path / "none.wav")

    def test_not_sound(self, untrained_embedder, tmp_path):
        (tmp_path / "a.wav").write_text("hello")
        with pytest.raises(AudioDecodeError):
            untrained_embedder.embed(tmp_path / "a.wav")

    def test_frames_of_several(self, untrained_embedder):
        with pytest.raises(InvalidWaveformError, match="one clip"):
            untrained_embedder.embed_frames([noise(1), noise(1)])

    def test_unknown_names(self, untrained_embedder, untrained_model_dir):
        with pytest.raises(ModelNotFoundError, match="talnet"):
            sedembed.load_model("tallnet")
        with pytest.raises(ValueError, match="precision must be one of"):
            sedembed.load_model(untrained_model_dir, precision="int3")
        with pytest.raises(InvalidArgumentError, match="third digit"):
            sedembed.load_model(untrained_model_dir, precision="tf32")
        for device in ("toaster", "xla", "meta", "hpu", "cpu:-1", 3.5, True, torch.device("meta")):
            with pytest.raises(InvalidArgumentError, match="Expected a device"):
                sedembed.load_model(untrained_model_dir, device=device)
        with pytest.raises(AttributeError, match="load_model"):
            _ = sedembed.load_modell

    def test_cuda_where_there_is_none(self, untrained_model_dir):
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        with pytest.raises(ValueError, match="choose 'cpu'"):
            sedembed.load_model(untrained_model_dir, device="cuda")


def test_bfloat16_is_close(untrained_model_dir):
    exact = sedembed.load_model(untrained_model_dir).embed(noise(2))
    fast = sedembed.load_model(untrained_model_dir, precision="bfloat16").embed(noise(2))
    assert fast.dtype == np.float32
    assert exact @ fast / np.linalg.norm(exact) / np.linalg.norm(fast) > 0.999


def test_cuda_agrees_with_cpu(untrained_model_dir):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    clips = [noise(s, i) for i, s in enumerate((0.1, 1.0, 3.3))]
    cpu = sedembed.load_model(untrained_model_dir, device="cpu").embed(clips)
    assert_same(sedembed.load_model(untrained_model_dir, device="cuda").embed(clips), cpu, 1e-4)


def test_public_names_and_lazy_import():
    assert isinstance(sedembed, types.ModuleType)
    for name in sedembed.__all__:
        assert getattr(sedembed, name) is not None
    assert sedembed.Embedder is Embedder
    import subprocess

    code = (
        "import sys, sedembed; heavy = {'torch', 'librosa', 'sklearn', 'pyarrow', 'numba', 'huggingface_hub'}; "
        "print(*heavy & set(sys.modules)); import sedembed.cli.main; print(*heavy & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_embedding_needs_no_librosa(untrained_model_dir, tmp_path):
    import subprocess

    soundfile.write(tmp_path / "a.wav", noise(1), RATE)
    code = (
        "import sys, sedembed; sedembed.load_model(sys.argv[1]).embed(sys.argv[2]); "
        "print(*{'librosa', 'numba', 'huggingface_hub', 'sklearn'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(untrained_model_dir), str(tmp_path / "a.wav")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []


class TestTopTags:
    def test_are_the_highest_of_tag(self, untrained_embedder: Embedder):
        rng = np.random.default_rng(0)
        clips = [rng.normal(0, 0.1, 16_000).astype(np.float32) for _ in range(2)]
        probabilities = untrained_embedder.tag(clips)
        several = untrained_embedder.top_tags(clips, k=3)
        for row, tags in zip(probabilities, several, strict=True):
            assert [tag.label for tag in tags] == [untrained_embedder.labels[i] for i in np.argsort(-row)[:3]]
            np.testing.assert_allclose([tag.probability for tag in tags], np.sort(row)[::-1][:3], rtol=1e-5)
        assert [tag.label for tag in untrained_embedder.top_tags(clips[0], k=3)] == [tag.label for tag in several[0]]

    @pytest.mark.parametrize("k", [0, 1.5, True, "3"])
    def test_k_is_a_whole_number(self, untrained_embedder: Embedder, k: object):
        with pytest.raises(ValueError, match="k must be a whole number"):
            untrained_embedder.top_tags(np.zeros(16_000), k=k)  # type: ignore[call-overload]
