"""An untrained network that behaves like a trained one: same shapes, embeddings that differ from sound to sound."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from multiprocessing.process import BaseProcess
from pathlib import Path

# One thread for each of the processes that the tests run in: more would get in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import soundfile
import torch

from sedembed.embedder import Embedder
from sedembed.loading import load_model
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weanet import WEANet, WEANetConfig
from sedembed.models.weights import save_pretrained
from tests.network_guard import sitecustomize  # guards this process

# No test may use the network, nor may a process that it starts: such a process imports `sitecustomize` from the path.
_REFUSED = Path(tempfile.gettempdir()) / f"sedembed-tests-refused-{os.getpid()}"
os.environ[sitecustomize.LOG] = str(_REFUSED)
_GUARD = str(Path(__file__).parent / "network_guard")
os.environ["PYTHONPATH"] = os.pathsep.join([_GUARD, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    yield
    if _REFUSED.exists():
        refused = _REFUSED.read_text(encoding="utf-8")
        _REFUSED.unlink()
        pytest.fail(f"the test, or a process that it started, tried to use the network: {refused}")


@pytest.fixture(scope="session")
def untrained_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    normalizer = json.loads((files("sedembed") / "models" / "talnet_normalizer.json").read_text())
    config = TALNetConfig(mean=tuple(normalizer["mu"]), std=tuple(normalizer["sigma"]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TALNet(config)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        # Batch statistics of some sound: with the initial ones, all sounds would come out nearly the same.
        with torch.no_grad():
            network(torch.tensor(config.mean) + torch.tensor(config.std) * torch.randn(8, 1, 64).expand(-1, 40, -1))
    return save_pretrained(network.eval(), tmp_path_factory.mktemp("models") / "untrained")


@pytest.fixture(scope="session")
def untrained_embedder(untrained_model_dir: Path) -> Embedder:
    return load_model(untrained_model_dir, device="cpu")


@pytest.fixture(scope="session")
def small_weanet() -> WEANet:
    """Untrained, of a few thousand parameters and all AudioSet events, in evaluation mode; not to be changed."""
    config = WEANetConfig(channels=(8, 8, 12, 16), segment_channels=24, hidden_channels=(20, 16))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = WEANet(config)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            network(-25 + 12 * torch.randn(8, 1, 64).expand(-1, 160, -1))
            # As far apart as those of a trained one: some events likely, most not.
            network.b8.bias.normal_(-2, 1)
    return network.eval()


@pytest.fixture(scope="session")
def small_weanet_dir(small_weanet: WEANet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(small_weanet, tmp_path_factory.mktemp("models") / "small-weanet")


@pytest.fixture(scope="session")
def write_sounds() -> Callable[..., Path]:
    """Function that fills a folder with tones in noise, each file with its own: {name: seconds}."""

    def write(folder: Path, sounds: Mapping[str, float], rate: int = 16_000, channels: int = 1) -> Path:
        for name, seconds in sounds.items():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            samples = max(1, round(seconds * rate))
            tone = np.sin(2 * np.pi * rng.uniform(100, 4000) / rate * np.arange(samples))
            wave = 0.3 * tone[:, None] + rng.uniform(0.01, 0.2) * rng.standard_normal((samples, channels))
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, wave.clip(-1, 1), rate)
        return folder

    return write


@pytest.fixture(scope="session")
def start_process() -> Callable[..., BaseProcess]:
    """Function that runs a program in a process of its own, torch already imported: (program, **its variables)."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("processes that can be killed cheaply need a fork server")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sedembed.batch.embed_folder"])

    def start(program: str, **variables: object) -> BaseProcess:
        process = context.Process(target=exec, args=(program, variables))
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def write_esc50() -> Callable[..., Path]:
    """Function that fills a folder with two kinds of sound in five folds, laid out and named as ESC-50 is."""

    def write(folder: Path, seconds: float = 1.0, suffix: str = ".wav") -> Path:
        (folder / "audio").mkdir(parents=True)
        (folder / "meta").mkdir()
        rows = []
        samples = round(16_000 * seconds)
        for fold in range(1, 6):
            for target in range(2):
                for take in "AB":
                    name = f"{fold}-{100 + target}-{take}-{target}.wav"
                    rng = np.random.default_rng([fold, target, ord(take)])
                    wave = rng.normal(0, 0.1, samples)
                    if target:
                        tone = np.sin(2 * np.pi * rng.uniform(400, 600) * np.arange(samples) / 16_000)
                        wave = 0.3 * tone + wave / 50
                    soundfile.write(folder / "audio" / name.replace(".wav", suffix), wave, 16_000)
                    row = {"filename": name, "fold": fold, "target": target, "category": f"class {target}"}
                    rows.append({**row, "esc10": False, "src_file": 100 * fold + target, "take": take})
        with (folder / "meta" / "esc50.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return folder

    return write
