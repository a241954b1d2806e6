"""Embed audio as with Hugging Face libraries: a feature extraction like those of transformers, and `datasets.map`.

python examples/hugging_face.py        needs: pip install datasets
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sedembed

SOUNDS = Path(__file__).parent / "sounds"


class FeatureExtraction:
    """Called as ``pipeline("feature-extraction")`` of transformers is: one input or several, features as lists."""

    def __init__(self, model: str = "talnet", device: str | None = None) -> None:
        self.model = sedembed.load_model(model, device=device)

    def __call__(self, inputs: Any, return_tensors: bool = False) -> Any:
        """Give frame features, (1, frames, size) for each input: a path, bytes, or {"array": …, "sampling_rate": …}."""
        if isinstance(inputs, (list, tuple)):
            return [self(item, return_tensors) for item in inputs]
        frames = self.model.embed_frames(inputs).embeddings[None]
        return frames if return_tensors else frames.tolist()


def map_dataset(paths: list[str], model: sedembed.Embedder) -> Any:
    """Make a data set of recordings with a column of embeddings; the cache of `datasets` keeps it."""
    from datasets import Dataset

    recordings = Dataset.from_dict({"audio": paths})
    return recordings.map(lambda batch: {"embedding": model.embed(batch["audio"])}, batched=True, batch_size=8)


def main() -> None:
    extract = FeatureExtraction("talnet")
    features = extract(str(SOUNDS / "rain.ogg"), return_tensors=True)
    print(f"rain.ogg: features {features.shape}")
    paths = sorted(str(path) for path in SOUNDS.iterdir() if path.suffix != ".md")
    embedded = map_dataset(paths[:4], extract.model)
    print(embedded)
    print(f"the first embedding has {len(embedded[0]['embedding'])} numbers")


if __name__ == "__main__":
    main()
