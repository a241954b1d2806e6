"""Embed and tag the sounds that come with the repository: ``python examples/quickstart.py [OUT]``."""

from __future__ import annotations

import sys
from pathlib import Path

import sedembed

SOUNDS = Path(__file__).parent / "sounds"


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "vectors")
    model = sedembed.load_model("talnet")
    store = sedembed.embed_folder(SOUNDS, out, model)
    probabilities = model.tag([SOUNDS / path for path in store.paths])

    width = max(map(len, store.paths))
    print(f"{'file':{width}}  seconds  strongest sound events")
    for path, seconds, row in zip(store.paths, store.index["duration"].to_pylist(), probabilities, strict=True):
        best = row.argsort()[::-1][:3]
        events = ", ".join(f"{model.labels[i]} {row[i]:.2f}" for i in best)
        print(f"{path:{width}}  {seconds:7.1f}  {events}")
    print(f"\n{len(store)} vectors of {model.embedding_size} numbers are in {out}/ (Parquet):")
    print(f'    sedembed.open_store("{out}").vectors  # shape {store.vectors.shape}')


if __name__ == "__main__":
    main()
