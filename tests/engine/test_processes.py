"""A loaded model in other processes: sent to them, forked into them, copied."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone

from sedembed.embedder import Embedder
from sedembed.loading import load_model
from sedembed.models.registry import describe_model

CLIP = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


class Embedding(TransformerMixin, BaseEstimator):
    """A step of a scikit-learn pipeline."""

    def __init__(self, model: Embedder) -> None:
        self.model = model


class Clips(torch.utils.data.Dataset):
    def __init__(self, model: Embedder) -> None:
        self.model = model

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> np.ndarray:
        return self.model.embed(CLIP)


@pytest.fixture(scope="module")
def small(small_weanet_dir: Path) -> Embedder:
    return load_model(small_weanet_dir, device="cpu")


class TestCopies:
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_pickle_and_deepcopy(self, small_weanet_dir: Path, precision: str):
        model = load_model(small_weanet_dir, device="cpu", precision=precision)
        for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
            np.testing.assert_array_equal(again.embed(CLIP), model.embed(CLIP))
            assert (again.record, again.device, again.precision) == (model.record, model.device, model.precision)

    def test_talnet(self, untrained_embedder: Embedder):
        again = pickle.loads(pickle.dumps(untrained_embedder))
        np.testing.assert_array_equal(again.embed(CLIP), untrained_embedder.embed(CLIP))

    def test_record(self):
        record = describe_model("talnet")
        assert copy.deepcopy(record) == pickle.loads(pickle.dumps(record)) == record

    def test_clone(self, small: Embedder):
        step = clone(Embedding(small))
        assert step.model is not small
        np.testing.assert_array_equal(step.model.embed(CLIP), small.embed(CLIP))


class TestProcesses:
    def test_spawned_pool(self, small: Embedder):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            np.testing.assert_array_equal(pool.submit(small.embed, CLIP).result(120), small.embed(CLIP))

    def test_loader(self, small: Embedder):
        loader = torch.utils.data.DataLoader(
            Clips(small), batch_size=2, num_workers=1, multiprocessing_context="spawn", timeout=120
        )
        (batch,) = loader
        np.testing.assert_array_equal(batch.numpy(), np.stack([small.embed(CLIP)] * 2))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    def test_forked_child(self, small_weanet_dir: Path):
        """With two threads or more, PyTorch waits in the child for threads that only the parent has."""
        code = (
            "import os, sys, signal, numpy, torch, sedembed; torch.set_num_threads(2);"
            "clip = numpy.random.default_rng(0).normal(0, 0.1, 16000).astype('f4');"
            "model = sedembed.load_model(sys.argv[1], 'cpu'); expected = model.embed([clip] * 8); child = os.fork();"
            "child or signal.alarm(60);"
            "child or os._exit(0 if numpy.allclose(model.embed([clip] * 8), expected, atol=1e-5) else 9);"
            "print(os.waitpid(child, 0)[1], torch.get_num_threads())"
        )
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(small_weanet_dir)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )
        assert run.stdout.split() == ["0", "2"], f"{run.stdout} {run.stderr}, {signal.SIGALRM} is a hang"

    def test_threads(self, small: Embedder):
        expected = small.embed(CLIP)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: small.embed(CLIP), range(12)):
                np.testing.assert_array_equal(found, expected)
