"""Take vectors to pandas, a vector database and UMAP: ``python examples/vectors_elsewhere.py FOLDER OUT``."""

import sys
from pathlib import Path

import numpy as np
import umap
from usearch.index import Index

import sedembed

folder, out = map(Path, sys.argv[1:])
store = sedembed.embed_folder(folder, out / "vectors")
table = store.to_pandas()  # path, duration, …, in the order of store.vectors

index = Index(ndim=store.embedding_size, metric="cos", dtype="f32")
index.add(np.arange(len(store)), store.vectors)
index.save(out / "vectors.usearch")
found = index.search(store.vectors, 2)  # the nearest one is the recording itself
table["nearest"] = [store.paths[row] for row in found.keys[:, 1]]

plane = umap.UMAP(n_neighbors=min(15, len(store) - 1), metric="cosine", init="random")
table["x"], table["y"] = plane.fit_transform(store.vectors).T
table.to_csv(out / "recordings.csv", index=False)
print(table[["path", "nearest", "x", "y"]].to_string(index=False))
