"""Train the backbone of a network together with the head of a probe: ``python examples/finetune.py --data ESC-50``.

A LinearProbe is fitted on the embeddings of the training clips and becomes the head of the network, by
`probe.to_torch()`; then both are trained for a few epochs with a small learning rate. The batch normalisations keep
the statistics that they have: those of small batches would be worse. The fine-tuned network is saved as a model
directory, loaded again by `load_model`, and scored on clips that neither the probe nor the network was trained on. The
packaged weights stay as they are.

Without --data it runs on the sounds beside this script, cut into pieces of a second: enough to see it work, far too few
to measure anything.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import sedembed
from sedembed.audio.reader import load_audio
from sedembed.models.base import Backbone
from sedembed.models.weights import load_network
from sedembed.probe.label_table import read_labels

HERE = Path(__file__).parent
LONGEST = 10.0  # seconds of a clip that the training looks at


@dataclass
class Clips:
    """Sounds as `Embedder.embed` takes them; those of one group are never on both sides of a split."""

    sounds: list[Path | np.ndarray]
    labels: np.ndarray
    groups: np.ndarray

    def where(self, chosen: np.ndarray) -> Clips:
        """Only those clips where `chosen` is true."""
        sounds = [sound for sound, take in zip(self.sounds, chosen, strict=True) if take]
        return Clips(sounds, self.labels[chosen], self.groups[chosen])


def read_esc50(data: Path, fold: int, esc10: bool) -> tuple[Clips, Clips]:
    """Clips to train on and clips held out."""
    with (data / "meta" / "esc50.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if not esc10 or row["esc10"] == "True"]
    # Copies in other formats keep the official names but for the suffix.
    there = {path.stem: path for path in (data / "audio").iterdir()}
    folds = np.array([int(row["fold"]) for row in rows])
    if fold not in folds:
        raise SystemExit(f"--fold: expected one of {sorted(set(folds.tolist()))}, got {fold}")
    sounds: list[Path | np.ndarray] = [there[Path(row["filename"]).stem] for row in rows]
    clips = Clips(sounds, np.array([row["category"] for row in rows]), folds)
    return clips.where(folds != fold), clips.where(folds == fold)


def read_shipped(rate: int) -> tuple[Clips, Clips]:
    """Pieces of one second to train on and held out; those of one recording are a group."""
    table = read_labels(HERE / "labels.csv")
    sounds, labels, groups, held_out = [], [], [], []
    for path, (label,), split in zip(table.paths, table.labels, table.column("split"), strict=True):
        waveform, _ = load_audio(HERE / "sounds" / path, rate)
        pieces = np.split(waveform, range(rate, len(waveform), rate))
        pieces = [piece for piece in pieces if len(piece) >= rate // 2]
        sounds += pieces
        labels += [label] * len(pieces)
        groups += [path] * len(pieces)
        held_out += [split == "test"] * len(pieces)
    clips, test = Clips(sounds, np.array(labels), np.array(groups)), np.array(held_out)
    return clips.where(~test), clips.where(test)


def read_features(network: Backbone, sounds: Sequence[Path | np.ndarray]) -> list[torch.Tensor]:
    """Log-mel features of each sound, shape (frames, 64), from its first seconds."""
    features = []
    for sound in sounds:
        waveform = load_audio(sound, network.sample_rate)[0] if isinstance(sound, Path) else sound
        waveform = waveform[: round(LONGEST * network.sample_rate)]
        waveform = np.pad(waveform, (0, max(0, network.min_samples - len(waveform))))
        features.append(network.features(torch.from_numpy(waveform)))
    return features


def embed_batch(network: Backbone, features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Clip embeddings (batch, size) as `Embedder.embed` gives them, but with gradients."""
    device = network.mean.device
    lengths = torch.tensor([len(item) for item in features], device=device)
    padded = nn.utils.rnn.pad_sequence(list(features), batch_first=True).to(device)
    output = network(padded, lengths)
    valid = torch.arange(output.frames.shape[1], device=device) < output.lengths[:, None]
    if network.config.architecture == "talnet":
        return (output.frames * valid[..., None]).sum(1) / output.lengths[:, None]
    if network.config.embedding_pooling == "max":
        return functional.normalize(output.frames.masked_fill(~valid[..., None], -torch.inf).amax(1), dim=1)
    return functional.normalize((output.frames * valid[..., None]).sum(1), dim=1)


def train(
    network: Backbone,
    head: nn.Module,
    features: Sequence[torch.Tensor],
    targets: np.ndarray,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    device: torch.device,
    seed: int = 0,
) -> list[float]:
    """Train network and head in place; return the mean loss of each epoch."""
    network.to(device).train()
    head.to(device).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    # Layers that tag events have no part in the embedding; in a WEANet they begin after B5.
    tagging = ("fc_", "b6.", "b7.", "b8.", "attention.")
    trained = [p for name, p in network.named_parameters() if not name.startswith(tagging)]
    optimizer = torch.optim.AdamW([*trained, *head.parameters()], learning_rate)
    classes = torch.from_numpy(targets).to(device)
    order = np.random.default_rng(seed)
    losses = []
    for epoch in range(epochs):
        total = 0.0
        for batch in np.array_split(order.permutation(len(features)), -(-len(features) // batch_size)):
            logits = head(embed_batch(network, [features[i] for i in batch]))
            loss = functional.cross_entropy(logits, classes[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*trained, *head.parameters()], 1.0)
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(features))
        print(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.4f}", flush=True)
    network.eval()
    head.eval()
    return losses


def fit_probe(model: sedembed.Embedder, clips: Clips) -> sedembed.LinearProbe:
    return sedembed.LinearProbe(normalize=model.default_normalize).fit(
        model.embed(clips.sounds), clips.labels, groups=clips.groups
    )


def share_right(head: nn.Module, embeddings: np.ndarray, targets: np.ndarray) -> float:
    with torch.inference_mode():
        logits = head.cpu()(torch.from_numpy(embeddings))
    return float((logits.argmax(1).numpy() == targets).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="folder with audio/ and meta/esc50.csv (default: the example sounds)")
    parser.add_argument("--fold", type=int, default=5, help="fold of ESC-50 to hold out (default: 5)")
    parser.add_argument("--esc10", action="store_true", help="only the ten classes of ESC-10, a fifth of the clips")
    parser.add_argument("--model", default="talnet", help="what load_model takes (default: talnet)")
    parser.add_argument("--out", type=Path, default=Path("finetuned"), help="directory of the result")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", help="such as cpu or cuda:0")
    options = parser.parse_args(arguments)

    model = sedembed.load_model(options.model, device=options.device)
    shipped = options.data is None
    training, held_out = (
        read_shipped(model.sample_rate) if shipped else read_esc50(options.data, options.fold, options.esc10)
    )

    before = model.embed(held_out.sounds)
    probe = fit_probe(model, training)
    print(f"{len(training.labels)} clips to train on, {len(held_out.labels)} held out, {len(probe.classes_)} classes")
    truth = np.searchsorted(probe.classes_, held_out.labels)

    # `model` keeps its own copy of the network, made for speed; this one has gradients.
    network, head = load_network(options.model), probe.to_torch()
    first = share_right(head, before, truth)
    train(
        network,
        head,
        read_features(network, training.sounds),
        np.searchsorted(probe.classes_, training.labels),
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        device=model.device,
    )
    sedembed.save_pretrained(network, options.out / "model")

    tuned = sedembed.load_model(options.out / "model", device=options.device)
    after = tuned.embed(held_out.sounds)
    refitted = fit_probe(tuned, training)
    print(f"\naccuracy on the {len(held_out.labels)} clips held out")
    print(f"  probe on the network as it was        {first:.4f}")
    print(f"  network and head trained together     {share_right(head, after, truth):.4f}")
    print(f"  new probe on the fine-tuned network   {refitted.score(after, held_out.labels):.4f}")
    if shipped:
        print("(pieces of a few synthetic sounds: this shows that it runs, not that it helps)")
    print(f'\nthe fine-tuned network is in {options.out}/model: sedembed.load_model("{options.out}/model")')


if __name__ == "__main__":
    main()
