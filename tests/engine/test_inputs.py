"""Every form in which a clip may come gives the vector of its samples; every other is refused by a sentence."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sedembed.embedder import Embedder
from sedembed.engine.inputs import clip_blocks, is_several, list_clips, stream_blocks
from sedembed.errors import AudioDecodeError, AudioError, InvalidWaveformError, MissingFileError

RATE = 16_000


def tone(seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.3 * np.sin(np.arange(round(seconds * rate)) / 7) + rng.normal(0, 0.01, round(seconds * rate))).astype(
        "f4"
    )


def samples(clip: object, sample_rate: int | None = None) -> np.ndarray:
    return np.concatenate(list(clip_blocks(clip, sample_rate, RATE)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", tone(), RATE, subtype="FLOAT")
    return tmp_path / "a.wav"


class TestForms:
    def test_bytes_and_file_objects(self, file: Path):
        data = file.read_bytes()
        for form in (data, bytearray(data), memoryview(data), io.BytesIO(data), file, str(file)):
            np.testing.assert_array_equal(samples(form), tone())
        with file.open("rb") as opened:
            np.testing.assert_array_equal(samples(opened), tone())

    def test_a_file_object_is_read_from_where_it_stands(self, file: Path):
        joined = io.BytesIO(b"head of the archive" + file.read_bytes())
        joined.seek(len(b"head of the archive"))
        np.testing.assert_array_equal(samples(joined), tone())

    def test_nothing_is_left_behind(self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        before = sorted(tmp_path.iterdir())
        samples(file.read_bytes())
        blocks = clip_blocks(file.read_bytes(), None, RATE)
        next(blocks)
        blocks.close()
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize("key", ["sampling_rate", "sample_rate"])
    def test_a_row_of_a_data_set(self, key: str):
        row = {"path": None, "array": tone(rate=8000), key: 8000}
        np.testing.assert_array_equal(samples(row), samples(tone(rate=8000), 8000))

    def test_home(self, file: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HOME", str(file.parent))
        monkeypatch.setenv("USERPROFILE", str(file.parent))
        np.testing.assert_array_equal(samples("~/a.wav"), tone())
        np.testing.assert_array_equal(samples(Path("~/a.wav")), tone())

    def test_embedder(self, untrained_embedder: Embedder, file: Path):
        model = untrained_embedder
        expected = model.embed(tone())
        forms = [file.read_bytes(), {"array": tone(), "sampling_rate": RATE}, io.BytesIO(file.read_bytes()), str(file)]
        for row in model.embed(forms):
            np.testing.assert_allclose(row, expected, atol=1e-5 * np.linalg.norm(expected))
        np.testing.assert_array_equal(model.tag(file.read_bytes()), model.tag(tone()))
        assert model.detect(io.BytesIO(file.read_bytes()), threshold=0.0) == model.detect(tone(), threshold=0.0)
        np.testing.assert_array_equal(model.embed_frames(file.read_bytes()).embeddings, model.embed_frames(tone())[0])


class TestColumns:
    def test_arrays_of_paths(self, file: Path):
        for column in (np.array([str(file)] * 2), np.array([file, str(file)], object)):
            assert is_several(column)
            assert list(map(str, list_clips(column))) == [str(file)] * 2

    def test_pandas(self, file: Path):
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")
        frame = pandas.DataFrame({"path": [str(file)] * 2, "level": [0.5, 1.0]}, index=[7, 3])
        assert list_clips(frame["path"]) == [str(file)] * 2
        assert list_clips(frame["path"].astype("category")) == [str(file)] * 2
        assert not is_several(frame["level"])
        np.testing.assert_array_equal(samples(pandas.Series(tone())), tone())
        arrays = list_clips(pandas.Series([tone(), tone(0.2)]))
        np.testing.assert_array_equal(arrays[1], tone(0.2))

    def test_polars(self, file: Path):
        polars = pytest.importorskip("polars", reason="Polars is not installed")
        assert list_clips(polars.Series([str(file)] * 2)) == [str(file)] * 2
        np.testing.assert_array_equal(samples(polars.Series(tone())), tone())
        np.testing.assert_array_equal(list_clips(polars.Series([tone().tolist(), [0.5, 0.25]]))[1], [0.5, 0.25])

    def test_arrow(self, file: Path):
        import pyarrow

        assert list_clips(pyarrow.chunked_array([[str(file)], [str(file)]])) == [str(file)] * 2

    def test_a_gap_in_a_column_is_named(self, untrained_embedder: Embedder, file: Path):
        with pytest.raises(InvalidWaveformError, match=r"clip 1 of 2.*NoneType"):
            untrained_embedder.embed(np.array([str(file), None], object))


class TestRefusals:
    @pytest.mark.parametrize(
        ("clip", "rate", "sentence"),
        [
            (
                "https://example.org/a.wav",
                None,
                "a file on this machine, got the URL https://example.org/a.wav; download",
            ),
            ("s3://bucket/a.wav", None, "got the URL s3://bucket/a.wav"),
            ("", None, "path of a sound file as text, got ''"),
            (b"RIFF", RATE, "sample_rate=16000 was given with a sound file"),
            ({"array": tone(), "sampling_rate": RATE}, RATE, "has its own sampling_rate; leave"),
            ({"array": tone()}, None, "mapping of array and sampling_rate, got one of 'array'"),
            ({}, None, "got one of nothing"),
            ({"array": tone(), "sampling_rate": None}, None, "sample rate in Hz"),
            (io.StringIO("text"), None, "binary file that is open for reading, got StringIO"),
            (io.BytesIO, None, "got a type"),
        ],
    )
    def test_sentences(self, clip: object, rate: int | None, sentence: str):
        with pytest.raises(InvalidWaveformError, match=sentence) as caught:
            samples(clip, rate)
        assert str(caught.value)[0].isupper() or str(caught.value).startswith("sample_rate")

    def test_bytes_that_are_no_sound(self):
        with pytest.raises(AudioDecodeError) as caught:
            samples(b"<html>")
        assert "the bytes given" in str(caught.value)
        assert "sedembed-" not in str(caught.value)

    def test_a_closed_file(self, file: Path):
        opened = file.open("rb")
        opened.close()
        with pytest.raises(InvalidWaveformError, match="mode 'rb'"):
            samples(opened)

    def test_a_missing_file_stays_a_missing_file(self):
        with pytest.raises(MissingFileError):
            samples("nowhere.wav")


class TestStreams:
    @pytest.mark.parametrize("empty", [np.zeros(0, np.float32), torch.zeros(0), [], torch.zeros(0, dtype=torch.int16)])
    def test_empty_blocks_are_skipped(self, empty: object):
        wave = tone()
        found = np.concatenate(list(stream_blocks([empty, wave[:99], empty, torch.from_numpy(wave[99:])], RATE, RATE)))
        np.testing.assert_array_equal(found, wave)

    @pytest.mark.parametrize("blocks", [tone(), torch.from_numpy(tone()), None, 3, "a.wav", b"RIFF", {"array": tone()}])
    def test_what_is_no_iterable_of_blocks(self, blocks: object):
        with pytest.raises(InvalidWaveformError, match="iterable of blocks"):
            stream_blocks(blocks, RATE, RATE)


class TestOutOfRange:
    """NaN out of the network is refused wherever results leave it."""

    def test_every_way_out(self, untrained_embedder: Embedder):
        model, loud = untrained_embedder, np.full(RATE, 3e38, np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for ask in (model.embed, model.tag, model.embed_frames, model.detect):
                with pytest.raises(InvalidWaveformError, match="Expected finite numbers from the network"):
                    ask(loud)
            with pytest.raises(InvalidWaveformError, match="clip 1 of 2: Expected finite numbers"):
                model.embed([tone(), loud])
            with pytest.raises(InvalidWaveformError, match="finite numbers"):
                list(model.stream([loud], RATE))
            with pytest.raises(InvalidWaveformError, match="finite numbers"):
                list(model.detect_stream([loud], RATE))


# --- rules, by hypothesis ------------------------------------------------------------------------------------------

DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "?", "c8", "U3", "O", "M8[s]"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    clip=DTYPES.flatmap(
        lambda kind: arrays.arrays(np.dtype(kind), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0))
    ),
    rate=st.sampled_from([None, 8000, 16_000, 44_100, 0, -1, 1.5, "16000", True]),
)
def test_an_array_is_samples_or_refused(clip: np.ndarray, rate: object):
    """Never NaN, never another length than the rate says, never an error of NumPy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            found = samples(clip, rate)  # type: ignore[arg-type]
        except AudioError:
            return
    assert clip.ndim == 1
    assert clip.dtype.kind in "iuf"
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert abs(len(found) - len(clip) * RATE / (rate or RATE)) <= 1  # type: ignore[operator]
    if clip.dtype.kind in "iu":
        assert np.abs(found).max() <= 1.5  # a resampled square wave overshoots


@settings(max_examples=100, deadline=None)
@given(
    x=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=30),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["array", "sampling_rate", "x"]), inner)
        ),
        max_leaves=5,
    )
)
def test_whatever_comes_is_refused_by_a_sentence(x: object):
    """Nothing here is a sound; lists are taken apart first."""
    try:
        clips = list_clips(x) if is_several(x) else [x]
        for clip in clips:
            samples(clip)
    except (AudioError, MissingFileError):
        return
    pytest.fail(f"{x!r} was taken for sound")
