"""The example scripts run, on small data."""

from __future__ import annotations

import csv
import importlib.util
import json
import queue
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile

import sedembed
from sedembed.audio.reader import load_audio

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import an example script."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def esc50(tmp_path_factory, write_esc50) -> Path:
    return write_esc50(tmp_path_factory.mktemp("data") / "esc50", suffix=".ogg")


@pytest.mark.parametrize("features", ["log-mel", "untrained"])
def test_esc50_baselines(esc50, features):
    result = json.loads(run("esc50_baselines.py", "--data", esc50, "--features", features))
    assert result["clips"] == 20
    assert len(result["folds"]) == 5
    assert result["accuracy"] >= 0.9  # noise against tones


def test_measure_c(esc50, tmp_path, monkeypatch, capsys):
    sedembed.embed_folder(esc50, tmp_path / "store", "talnet", progress=False)
    arguments = ["--data", esc50, "--store", tmp_path / "store", "--C", 1]
    monkeypatch.setattr(sys, "argv", ["measure_c.py", *map(str, arguments)])
    load("measure_c", monkeypatch).main()
    result = json.loads(capsys.readouterr().out)
    assert result["clips"] == 20
    assert result["rows"][0]["C"] == 1.0
    assert result["rows"][0]["accuracy"] >= 0.9
    assert sum(row["auto"] for row in result["rows"]) == 1
    assert all(-1.0 <= row["largest_cosine"] <= 1.0 for row in result["rows"])


@pytest.mark.slow
def test_compare_speed(esc50):
    printed = run("compare_speed.py", esc50 / "audio", "--limit", 4, "--rounds", 1)
    assert "by hand" in printed
    assert float(printed.rsplit("at most ", 1)[1]) < 1e-4


@pytest.mark.slow
def test_measure_engines(esc50, small_weanet_dir, tmp_path):
    file = tmp_path / "figures.json"
    engines = ("torch-float32", "torch-bfloat16")
    options = ("--model", small_weanet_dir, "--limit", 4, "--rounds", 1, "--json", file, "--engines", *engines)
    printed = run("measure_engines.py", esc50 / "audio", *options)
    assert all(engine in printed for engine in engines)
    figures = json.loads(file.read_text())["engines"]
    assert figures["torch-float32"]["difference"] == 0
    assert 0 < figures["torch-bfloat16"]["difference"] < 0.1


def test_compare_training_speed():
    printed = run("compare_training_speed.py", "--models", "talnet", "--rounds", 1, "--clips", 2, "--seconds", 0.5)
    rows = [line.split(" | ") for line in printed.splitlines()[2:]]
    assert [row[1] for row in rows] == ["float32", "float32, Winograd", "bfloat16"]
    assert float(rows[0][3].rstrip(" |")) == 1.0
    for row in rows[1:]:  # to the two decimals that are printed
        assert float(row[3].rstrip(" |")) * float(row[2]) == pytest.approx(float(rows[0][2]), abs=0.03, rel=0.2)


def test_compare_probe_speed():
    printed = run("compare_probe_speed.py", "--rounds", 1, "--rows", 120, "--size", 8, "--classes", 3)
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ") and "---" not in line]
    assert [row[0].lstrip("| ") for row in rows[1:]] == [
        "LinearProbe",
        "GridSearchCV, default tolerance",
        "GridSearchCV, same optimum",
    ]
    # Three made-up classes: all ways agree on what to predict.
    assert min(float(row[5]) for row in rows[1:]) > 0.95


def test_measure_probe(tmp_path):
    sizes = ("--size", 8, "--classes", 3, "--memory", 1000)
    (line,) = run("measure_probe.py", "--rows", 5000, *sizes, "--folder", tmp_path).splitlines()
    result = json.loads(line)
    assert not result["in memory"]
    assert result["passes"] >= 1
    assert not list(tmp_path.iterdir())


def test_measure_memory(tmp_path):
    pytest.importorskip("matplotlib", reason="draws the figures")
    file, picture = tmp_path / "memory.json", tmp_path / "memory.png"
    printed = run("measure_memory.py", "--files", 3, "--hours", 0.005, "--json", file, "--plot", picture)
    rows = json.loads(file.read_text())
    assert [(row["files"], row["vectors"], row["failures"]) for row in rows] == [(3, 3, 0), (1, 1, 0)]
    assert all(row["peak MiB"] >= row["model alone MiB"] > 0 for row in rows)  # loading itself may be the peak
    assert len(printed.splitlines()) == 4
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_benchmark(tmp_path):
    file = tmp_path / "figures.json"
    options = ("--sections", "folder", "busy", "imports", "--models", "talnet", "--files", 4, "--rounds", 1)
    printed = run("benchmark.py", *options, "--json", file)
    assert "embed_folder over by hand" in printed
    rows = json.loads(file.read_text())["rows"]
    assert [row["target"] for row in rows] == ["1", "1", "1", "5", "5"]
    assert all(np.isfinite(row["value"]) for row in rows)


def test_make_sounds(tmp_path):
    pytest.importorskip("scipy")
    command = [sys.executable, str(EXAMPLES / "make_sounds.py"), "--out", str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True)  # exit status 1 without espeak-ng, the others are made
    for path in EXAMPLES.joinpath("sounds").iterdir():
        if path.suffix == ".md" or path.name.startswith("speech"):
            continue
        made, rate = soundfile.read(tmp_path / path.name)
        shipped, shipped_rate = soundfile.read(path)
        assert rate == shipped_rate
        assert made.shape == shipped.shape
        assert np.corrcoef(made.ravel(), shipped.ravel())[0, 1] > 0.99


class TestFinetune:
    @pytest.fixture
    def finetune(self, monkeypatch) -> ModuleType:
        return load("finetune", monkeypatch)

    def test_clips(self, finetune, esc50, tmp_path):
        train, test = finetune.make_crickets(tmp_path, 2, 1)
        assert len(set(train.labels)) == len(test.rows) == 8
        assert all(path.exists() for path in [*train.paths, *test.paths])
        # The strongest frequency of the envelope is the rate of pulses of the species, or twice that.
        for path, label in zip(train.paths, train.labels, strict=True):
            sound, _ = soundfile.read(path)
            envelope = np.abs(np.fft.rfft(sound**2 - np.mean(sound**2)))[: 2 * 20]
            times = np.argmax(envelope) / 2 / (4 * 4 ** (int(label[-1]) / 7))
            assert min(abs(times - 1), abs(times - 2)) < 0.2
        train, test = finetune.read_esc50(esc50, 2)
        assert {path.name[0] for path in test.paths} == {"2"}
        assert {path.name[0] for path in train.paths} == {"1", "3", "4", "5"}
        with pytest.raises(SystemExit, match="--fold"):
            finetune.read_esc50(esc50, 6)

    def test_speakers_of_the_test_are_not_trained_on(self, finetune, tmp_path):
        for name in ("3/8-m-20-3-0-1", "3/9-f-22-3-2-2", "0/11-m-21-0-1-3"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.wav").touch()
        train, test = finetune.read_words(tmp_path)
        assert train.rows == [("0/11-m-21-0-1-3.wav", "word 0", "11"), ("3/9-f-22-3-2-2.wav", "word 3", "9")]
        assert test.rows == [("3/8-m-20-3-0-1.wav", "word 3", "8")]

    def test_it_measures_a_tuned_copy(self, finetune, small_weanet_dir, esc50, tmp_path, monkeypatch, capsys):
        before = (small_weanet_dir / "model.safetensors").read_bytes()
        arguments = ["--data", esc50, "--model", small_weanet_dir, "--out", tmp_path, "--epochs", 1, "--device", "cpu"]
        finetune.main([*map(str, arguments)])
        printed = capsys.readouterr().out
        assert "16 clips to train on, 4 to test on, 2 classes" in printed
        assert re.search(r"\| 0 \| [01] of 1 \| \d\.\d{4}, \d\.\d{4} \| \d\.\d{4} \| \d\.\d min \|", printed)
        assert (small_weanet_dir / "model.safetensors").read_bytes() == before
        assert sedembed.load_model(tmp_path / "seed-0", device="cpu").embedding_size == 24


def test_field_recording(tmp_path):
    file = tmp_path / "SITE_20260501_043000.ogg"
    file.write_bytes((EXAMPLES / "sounds" / "police_siren.ogg").read_bytes())
    assert "sounds in" in run("field_recording.py", file, "SIREN")
    rows = (tmp_path / "SITE_20260501_043000.events.csv").read_text().splitlines()
    assert any(",Siren," in row and ",2026-05-01T04:30:00." in row for row in rows)
    assert len(list((tmp_path / "SITE_20260501_043000").iterdir())) == len(rows) - 1
    tracks = (tmp_path / "SITE_20260501_043000.labels.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in tracks] == [row.split(",")[1:3] for row in rows[1:]]


class TestJobs:
    """The scripts of docs/jobs.md."""

    @pytest.mark.parametrize("script", ["classify_folders", "field_recording", "vectors_elsewhere", "compare_models"])
    def test_are_short(self, script):
        assert len((EXAMPLES / f"{script}.py").read_text().splitlines()) <= 25

    def test_classify_folders(self, tmp_path):
        for line in (EXAMPLES / "labels.csv").read_text().splitlines()[1:]:
            name, label, _ = line.split(",")
            (tmp_path / "clips" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(EXAMPLES / "sounds" / name, tmp_path / "clips" / label)
        (tmp_path / "new").mkdir()
        shutil.copy(EXAMPLES / "sounds" / "rain.ogg", tmp_path / "new")
        printed = run("classify_folders.py", tmp_path / "clips", tmp_path / "new", tmp_path / "out")
        assert printed.startswith("cross-validated accuracy ")
        header, row = (tmp_path / "out" / "predicted.csv").read_text().splitlines()
        assert header == "path,predicted,probability"
        assert row.startswith("rain.ogg,background,")  # it was among those fitted on
        classes = sedembed.LinearProbe.load(tmp_path / "out" / "probe").classes_
        assert classes.tolist() == ["background", "device", "living"]

    def test_vectors_elsewhere(self, tmp_path):
        for package in ("pandas", "usearch", "umap"):
            pytest.importorskip(package, reason=f"{package} is not installed")
        run("vectors_elsewhere.py", EXAMPLES / "sounds", tmp_path)
        header, *rows = (tmp_path / "recordings.csv").read_text().splitlines()
        assert header == "path,duration,sample_rate,channels,nearest,x,y"
        store = sedembed.open_store(tmp_path / "vectors")
        nearest = {row.split(",")[0]: row.split(",")[4] for row in rows}
        assert nearest == {path: store.search(path, k=1)[0].path for path in store.paths}

    def test_compare_models(self, tmp_path):
        printed = run("compare_models.py", EXAMPLES / "sounds", EXAMPLES / "labels.csv", tmp_path)
        assert re.search(r"^talnet: cross-validated accuracy 0\.\d{4} ", printed, re.M)
        assert re.search(r"^weanet - talnet: [+-]\d\.\d{4} \(paired 95 % interval ", printed, re.M)


class TestMicrophone:
    @pytest.fixture
    def module(self, monkeypatch) -> ModuleType:
        return load("microphone", monkeypatch)

    def test_a_file(self, module, monkeypatch, capsys):
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        module.main(["--file", str(EXAMPLES / "sounds" / "police_siren.ogg")])
        printed = capsys.readouterr().out
        assert "Siren" in printed
        last = printed.splitlines()[-1]
        assert " 0 of them twice" in last
        # 0.35 s until an event is over, at most a hop until the next look, and the block that is under way.
        assert float(last.split(" ")[-2]) <= 1.0 + 0.35 + module.BLOCK + 1e-6

    def test_a_microphone(self, module, monkeypatch, capsys):
        """A stand-in for the sound card: it calls back from a thread of its own, then comes Ctrl-C."""
        waveform, _ = load_audio(EXAMPLES / "sounds" / "police_siren.ogg", 16_000)
        opened = []

        class InputStream:
            def __init__(self, samplerate, blocksize, channels, dtype, callback):
                opened.append((samplerate, blocksize, channels, dtype))
                self.call, self.size = callback, blocksize

            def __enter__(self):
                self.thread = threading.Thread(target=self.run)
                self.thread.start()

            def run(self):
                block = np.zeros((self.size, 1), np.float32)  # one buffer for all, as the real one has
                for first in range(0, len(waveform) - self.size, self.size):
                    block[:, 0] = waveform[first : first + self.size]
                    self.call(block, self.size, None, "input overflow" if first == 0 else "")

            def __exit__(self, *problem):
                self.thread.join()

        class Queue(queue.Queue):
            def get(self):
                try:
                    return super().get(timeout=1.0)
                except queue.Empty:
                    raise KeyboardInterrupt from None

        monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=InputStream))
        monkeypatch.setattr("queue.Queue", Queue)
        module.main(["--labels", "siren", "--hop", "0.5"])
        lines = capsys.readouterr().out.splitlines()
        assert opened == [(16_000, 1_600, 1, "float32")]
        assert lines[0] == "the sound card says: input overflow"
        assert lines[-1].startswith(f"{len(lines) - 2} events, 0 of them twice")
        assert all("Siren (" in line for line in lines[1:-1])

    def test_events_that_come_twice_are_counted(self, module):
        events = [("Dog", 0, 2), ("Dog", 2, 3), ("Cat", 0, 1), ("Dog", 2.5, 4), ("Dog", 3, 4)]
        assert module.count_repeated(sedembed.Event(*event, 0.9) for event in events) == 2


class TestFieldRecording:
    @pytest.fixture
    def module(self, monkeypatch) -> ModuleType:
        return load("make_field_recording", monkeypatch)

    def test_what_is_planted_is_there(self, module, tmp_path, monkeypatch, capsys):
        rng = np.random.default_rng(0)
        for folder in ("background", "data/audio", "data/meta"):
            (tmp_path / folder).mkdir(parents=True)
        for name in ("rain", "wind", "dogs"):
            soundfile.write(tmp_path / "background" / f"{name}.wav", rng.normal(0, 0.1, 160_000), 16_000)
        for name in ("1-1-A-0", "1-2-A-42"):
            soundfile.write(tmp_path / "data" / "audio" / f"{name}.wav", rng.normal(0, 0.1, 32_000), 16_000)
        rows = ["filename,category", "1-1-A-0.wav,dog", "1-2-A-42.wav,siren"]
        (tmp_path / "data" / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
        (tmp_path / "skip.txt").write_text("dogs.wav\n")
        out = tmp_path / "SITE.wav"
        options = [
            "--background",
            tmp_path / "background",
            "--skip",
            tmp_path / "skip.txt",
            "--data",
            tmp_path / "data",
        ]
        module.main([*map(str, [out, *options, "--hours", 0.1])])
        assert "0.1 h of 2 recordings, 6 planted sounds" in capsys.readouterr().out
        sound, rate = soundfile.read(out)
        assert len(sound) == 360 * rate
        with (tmp_path / "SITE.planted.csv").open() as stream:
            planted = list(csv.DictReader(stream))
        assert [row["class"] for row in planted].count("dog") == 3
        for row in planted:
            begin, end = (round(float(row[name]) * rate) for name in ("onset", "offset"))
            assert end - begin == 32_000
            assert np.std(sound[begin:end]) > 1.5 * np.std(sound[max(0, begin - 32_000) : begin])

        # Two events on one dog are one; a siren where a dog is counts as false.
        first, second, _ = (row for row in planted if row["class"] == "dog")
        found = [("Bark", first, 0.5), ("Dog", first, 0.25), ("Siren", second, 0.0)]
        with (tmp_path / "events.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "onset", "offset", "label", "probability"])
            writer.writerows(
                ["SITE.wav", float(row["onset"]) + late, float(row["onset"]) + late + 1, label, 0.9]
                for label, row, late in found
            )
        module.main([str(out), "--score", str(tmp_path / "events.csv")])
        rows = capsys.readouterr().out.splitlines()[2:]
        assert rows == ["| dog | 1 of 3 | 0 | 0.25 s, 0.25 s |", "| siren | 0 of 3 | 1 | none |"]


def test_measure_robustness(esc50):
    data = esc50.parent / "named"
    data.mkdir()
    (data / "meta").mkdir()
    (data / "audio").symlink_to(esc50 / "audio")
    listed = (esc50 / "meta" / "esc50.csv").read_text().replace(".wav", ".ogg")
    (data / "meta" / "esc50.csv").write_text(listed)
    printed = run("measure_robustness.py", "--data", data, "--models", "talnet", "--clips", 4)
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ")[1] for row in printed.splitlines()[2:]}
    assert len(cells) == 5
    for change in ("16 bit", "over 44.1 kHz"):
        assert float(cells[change].split(" ")[0]) > 0.95


class TestLongScenes:
    @pytest.fixture
    def module(self, monkeypatch) -> ModuleType:
        return load("measure_long_scenes", monkeypatch)

    @pytest.fixture
    def clips(self) -> dict[str, list[np.ndarray]]:
        rng = np.random.default_rng(0)
        return {name: [rng.normal(size=32_000).astype(np.float32)] for name in ("rain", "dog", "cat", "cow", "pig")}

    def test_every_label_is_known(self, module):
        known = set(sedembed.load_model("talnet").labels)
        assert {label for labels in module.LABELS.values() for label in labels} <= known
        assert set(module.AMBIENCES) <= set(module.LABELS)

    def test_found_false_and_onset_error(self, module):
        waveform = np.zeros(36 * 16_000, np.float32)  # a hundredth of an hour
        scene = module.Scene(
            waveform, [("rain", 0.0, 36.0), ("dog", 10.0, 12.0), ("dog", 20.0, 21.0), ("cat", 5.0, 6.0)]
        )
        events = [
            sedembed.Event("Bark", 10.5, 11.0, 0.9),
            sedembed.Event("Bark", 9.75, 11.0, 0.9),
            sedembed.Event("Dog", 25.0, 26.0, 0.9),  # where there is none
            sedembed.Event("Rain", 1.0, 2.0, 0.9),
            sedembed.Event("Siren", 1.0, 2.0, 0.9),  # not asked for
        ]
        count = module.Count()
        count.add(scene, events, {"dog": {"Dog", "Bark"}, "cat": {"Cat"}, "rain": {"Rain"}})
        assert (count.found, count.placed, count.false, count.errors) == (1, 3, 1, [0.25])
        assert count.describe() == "1 of 3 | 100 | 0.25 s"

    def test_a_scene_holds_its_events(self, module, clips):
        scene = module.make_scene(clips, 1.0, 5, np.random.default_rng(1))
        assert len(scene.waveform) == 60 * 16_000
        assert np.abs(scene.waveform).max() == pytest.approx(0.7)
        assert scene.events[0] == ("rain", 0.0, 60.0)
        assert len(scene.events) == 6
        quiet = np.std(scene.waveform)
        for _, begin, end in scene.events[1:]:
            assert np.std(scene.waveform[int(begin * 16_000) : int(end * 16_000)]) > quiet

    def test_figures_of_a_model_that_knows_everything(self, module, clips):
        scene = module.make_scene(clips, 1.0, 5, np.random.default_rng(1))
        labels = sedembed.load_model("talnet").labels
        right = {label for name, _, _ in scene.events for label in module.LABELS[name]}

        class Knowing:
            def __init__(self):
                self.labels = labels

            def tag(self, x, sample_rate):
                answer = np.array([0.9 if label in right else 0.0 for label in labels])
                return answer if isinstance(x, np.ndarray) else np.stack([answer] * len(x))

            def detect(self, x, sample_rate):
                events = [(module.LABELS[name][0], begin, end) for name, begin, end in scene.events]
                wrong = ("Helicopter", 0.0, 60.0)
                return [sedembed.Event(label, begin, end, 0.9) for label, begin, end in [*events, wrong]]

        for seconds, reduce in ((None, ""), (10.0, "maximum"), (10.0, "mean")):
            assert module.measure_tags(Knowing(), scene, seconds, reduce) == (1.0, 1.0)
        assert module.measure_events(Knowing(), scene, 10.0) == (5, 5, 6, 7)


def test_decoding_table(monkeypatch, capsys):
    pytest.importorskip("av", reason="PyAV is not installed")
    module = load("decoding_table", monkeypatch)
    monkeypatch.setattr(module, "SNDFILE", {"FLAC": module.SNDFILE["FLAC"]})
    monkeypatch.setattr(module, "FFMPEG", {"TTA": module.FFMPEG["TTA"]})
    flac, tta = module.rows()
    assert flac[:3] == ["FLAC", "read / warned 50 % / warned 50 %", "read / warned 50 % / read"]
    assert tta[:2] == ["TTA", "refused / refused / refused"]
    assert tta[2].startswith("read / warned")


def test_compare_decoding(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(16_000), 16_000)
    printed = run("compare_decoding.py", EXAMPLES.parent, tmp_path, "--rounds", 1)
    assert "1 files, 0 of another length, samples differ by at most 0.0e+00" in printed
