"""Compare two models on your own labels: ``python examples/compare_models.py CLIPS LABELS.csv OUT``."""

import sys
from pathlib import Path

import sedembed

clips, labels, out = map(Path, sys.argv[1:])
found = {}
for name in ("talnet", "weanet"):
    model = sedembed.load_model(name)
    store = sedembed.embed_folder(clips, out / name, model)
    probe = sedembed.LinearProbe(normalize=model.default_normalize)
    found[name] = probe.evaluate(store, labels, folds=3)  # the same folds for both
    print(f"{name}: {found[name]}")
    for row in found[name].confused(3):
        print(f"  {row['path']} is {row['label']}, taken for {row['predicted']}")
print(f"weanet - talnet: {found['weanet'].compare(found['talnet'])}")
