"""Compare a trained model with its teacher on held-out recordings.

Run by ``python -m sedembed._training.distillation.held_out --help``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed import metrics
from sedembed._training.distillation.collection import SAMPLE_RATE, open_collection
from sedembed._training.distillation.teacher import load_teacher, to_teacher_rate
from sedembed._utils.machine import describe_machine
from sedembed._utils.versions import list_versions
from sedembed.loading import load_model

__all__ = ["compare", "main"]


def compare(ours: NDArray[np.floating], theirs: NDArray[np.floating], threshold: float) -> dict[str, float]:
    """Figures of clip probabilities, both of shape (clips, classes), the second the teacher's.

    Returns
    -------
    dict of str to float
        Mean over the clips of the correlation over the classes, of the binary cross-entropy and of the
        Kullback-Leibler divergence (nats, summed over the classes); the share of clips with the same top event; MAP
        and MAUC where what the teacher gives `threshold` or more counts as present.
    """
    p, q = (np.clip(values.astype(np.float64), 1e-7, 1.0 - 1e-7) for values in (ours, theirs))
    cross = -(q * np.log(p) + (1.0 - q) * np.log1p(-p)).sum(1)
    entropy = -(q * np.log(q) + (1.0 - q) * np.log1p(-q)).sum(1)
    tags = theirs >= threshold
    return {
        "clips": len(p),
        "correlation": float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])),
        "top1_agreement": float(np.mean(p.argmax(1) == q.argmax(1))),
        "bce": float(cross.mean()),
        "kl": float((cross - entropy).mean()),
        "map": metrics.compute("map", tags, ours),
        "mauc": metrics.compute("mauc", tags, ours),
        "classes_present": int(tags.any(0).sum()),
    }


def main() -> None:
    """Print the figures of one model as JSON, with all that is needed to repeat them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="name or directory, as for load_model")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders that the model was trained on")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the decoded audio")
    parser.add_argument("--share", type=float, default=0.01, help="held_out_share of the run's settings")
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="teacher probability above which a class counts as present"
    )
    arguments = parser.parse_args()
    collection = open_collection(arguments.data, arguments.cache, arguments.share)
    teacher = load_teacher(arguments.data[0] / "teacher" / "mn04_as.safetensors")
    model = load_model(arguments.model, device="cpu")
    held, ours, theirs = np.flatnonzero(collection.held_out), [], []
    for index in held:
        waveform = collection.repeated(int(index))
        with torch.inference_mode():
            theirs.append(torch.sigmoid(teacher(to_teacher_rate(waveform[None], SAMPLE_RATE)).logits)[0].numpy())
        ours.append(model.tag(waveform))
    listed = "".join(f"{collection.files[index]}\n" for index in held)
    result = {
        "model": model.record.name,
        "model_version": model.record.version,
        "model_sha256": model.record.sha256,
        **compare(np.stack(ours), np.stack(theirs), arguments.threshold),
        "threshold": arguments.threshold,
        "command": f"python -m sedembed._training.distillation.held_out --model {model.record.name} --data "
        f"{' '.join(folder.name for folder in arguments.data)} --cache runs/cache",
        "seed": None,  # nothing is drawn
        "versions": list_versions("torch", "numpy", "scipy"),
        "clips_sha256": hashlib.sha256(listed.encode()).hexdigest(),
        "hardware": describe_machine(),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
