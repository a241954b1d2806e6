"""Networks go to a hub and come back the same; the card tells machines what they are and how good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import sedembed
from sedembed.errors import ModelNotFoundError, OfflineError, UploadError, WeightsError
from sedembed.models.weanet import WEANet
from tests.models.hub_helpers import WritableHub, writable_hub

# Of huggingface_hub's own call of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FIGURES = {"ESC-50": {"accuracy": 0.9105, "macro_accuracy": 0.91}}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    with writable_hub(monkeypatch) as hub:
        yield hub


def test_round_trip(hub: WritableHub, small_weanet: WEANet, tmp_path: Path):
    uri = sedembed.push_to_hub(
        small_weanet, "org/small", private=True, token="hf_secret", figures=FIGURES, licence="cc0-1.0"
    )
    commit = uri.removeprefix("hf://org/small@")
    assert hub.repos.keys() == {"org/small"}
    assert hub.private == {"org/small": True}
    assert list(hub.repos["org/small"]) == [commit]
    assert hub.files("org/small").keys() == {"config.json", "model.safetensors", "README.md"}
    assert hub.tokens == {"Bearer hf_secret"}
    network = sedembed.load_network(sedembed.models.weights.resolve(uri, cache_dir=tmp_path))
    for key, tensor in small_weanet.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(network.state_dict()[key], tensor, rtol=0, atol=0)
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    loaded = sedembed.load_model(uri, cache_dir=tmp_path, local_files_only=True)
    np.testing.assert_array_equal(loaded.embed(noise), sedembed.Embedder(small_weanet, device="cpu").embed(noise))


def test_card(hub: WritableHub, small_weanet: WEANet):
    sedembed.push_to_hub(small_weanet, "org/small", figures=FIGURES, licence="cc0-1.0")
    card = ModelCard(hub.files("org/small")["README.md"].decode())
    assert (card.data.library_name, card.data.license) == ("sedembed", "cc0-1.0")
    assert {"audio", "sedembed", "sound-event-detection"} <= set(card.data.tags)
    assert card.data.model_name == "small"
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        ("ESC-50", "accuracy", 0.9105),
        ("ESC-50", "macro_accuracy", 0.91),
    ]


def test_a_directory_goes_as_it_is_and_again(hub: WritableHub, small_weanet: WEANet, tmp_path: Path):
    directory = sedembed.save_pretrained(small_weanet, tmp_path / "mine", card="---\nlicense: mit\n---\nMine.\n")
    (directory / "notes.txt").write_text("private")
    first = sedembed.push_to_hub(directory, "hf://org/mine")
    assert hub.files("org/mine") == {
        name: (directory / name).read_bytes() for name in ("config.json", "model.safetensors", "README.md")
    }
    (directory / "README.md").write_text("---\nlicense: mit\n---\nBetter.\n")
    second = sedembed.push_to_hub(directory, "org/mine", message="Say more")
    assert first != second
    assert hub.files("org/mine")["README.md"].endswith(b"Better.\n")


class TestRefused:
    def test_a_directory_without_a_network(self, hub: WritableHub, tmp_path: Path):
        with pytest.raises(WeightsError, match=r"model\.safetensors"):
            sedembed.push_to_hub(tmp_path, "org/nothing")
        assert hub.repos == {}

    def test_no_permission(self, hub: WritableHub, small_weanet_dir: Path):
        hub.refuse = 403
        with pytest.raises(UploadError, match=r"(?s)Could not publish .* as org/x: .*403.*Check the name, the token"):
            sedembed.push_to_hub(small_weanet_dir, "org/x")

    @pytest.mark.parametrize("repo", ["nothing", "a/b/c", "org/../x", ""])
    def test_no_repository(self, repo: str, hub: WritableHub, small_weanet_dir: Path):
        with pytest.raises(ModelNotFoundError, match="Expected org/repo"):
            sedembed.push_to_hub(small_weanet_dir, repo)

    def test_offline(self, hub: WritableHub, small_weanet_dir: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SEDEMBED_OFFLINE", "1")
        with pytest.raises(OfflineError, match="SEDEMBED_OFFLINE is set; unset it"):
            sedembed.push_to_hub(small_weanet_dir, "org/x")
        assert hub.repos == {}


@pytest.mark.parametrize("name", ["talnet", "weanet"])
def test_cards_of_the_packaged_weights_hold_the_figures_of_their_records(name: str):
    folder = Path(sedembed.__file__).parent / "weights" / name
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    record = sedembed.describe_model(name)
    assert card.data.library_name == "sedembed"
    assert card.data.license.upper() == record.licence
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type) == ("ESC-50", "accuracy")
    assert result.metric_value == record.metrics["esc50_accuracy"]
