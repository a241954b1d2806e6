from __future__ import annotations

import dataclasses
import hashlib

import pytest

from sedembed.errors import ModelNotFoundError
from sedembed.models import registry, weights
from sedembed.models.registry import ModelRecord, describe_model, list_models


def test_names_are_sorted_and_described() -> None:
    assert list_models() == sorted(list_models())
    assert "talnet" in list_models()
    for name in list_models():
        assert describe_model(name).name == name


def test_records_cannot_be_changed() -> None:
    record = describe_model("talnet")
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.sha256 = "0" * 64  # type: ignore[misc]
    with pytest.raises(TypeError):
        record.metrics["map"] = 1.0  # type: ignore[index]


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Did you mean 'talnet'\? Registered: .*talnet"):
        describe_model("TALnett")
    with pytest.raises(LookupError, match=r"No model is called 'zzz'\. Registered: "):
        describe_model("zzz")


@pytest.mark.parametrize("record", registry._RECORDS.values(), ids=lambda record: record.name)
def test_record_says_what_is_needed(record: ModelRecord) -> None:
    assert record.version
    assert record.source.startswith(("package:", "hf://"))
    assert not record.source.startswith("hf://") or len(record.revision) == 40
    for text in (record.licence, record.paper, record.provenance):
        assert text.strip()
    assert min(record.sample_rate, record.embedding_size, record.classes, record.parameters, record.min_samples) > 0


@pytest.mark.parametrize("record", registry._RECORDS.values(), ids=lambda record: record.name)
def test_record_matches_its_network(record: ModelRecord) -> None:
    if not weights._packaged(record.name).is_file():
        pytest.skip(f"the weights of {record.name} are not in the package")
    network = weights._outline(weights.load_config(weights._packaged(record.name).parent))
    assert record.architecture == network.config.architecture
    for field in ("sample_rate", "embedding_size", "frame_rate", "min_samples"):
        assert getattr(record, field) == getattr(network, field)


@pytest.mark.parametrize("name", [name for name, r in registry._RECORDS.items() if r.source.startswith("package:")])
def test_record_matches_its_packaged_file(name: str) -> None:
    file = weights._packaged(name)
    if not file.is_file():
        pytest.skip(f"the weights of {name} are not in the package yet")
    record = describe_model(name)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record.sha256
    assert file.stat().st_size == record.bytes
    assert (file.parent / "README.md").is_file()
    resolved = weights.resolve(name)
    assert resolved.record is record
    assert resolved.config.classes == record.classes
    network = weights.load_network(resolved)
    assert sum(parameter.numel() for parameter in network.parameters()) == record.parameters
