"""Classify clips sorted into a folder for each class: ``python examples/classify_folders.py CLIPS NEW OUT``."""

import csv
import sys
from pathlib import Path

import sedembed

clips, new, out = map(Path, sys.argv[1:])
model = sedembed.load_model("talnet")
store = sedembed.embed_folder(clips, out / "vectors", model)
probe = sedembed.LinearProbe().fit(store, "folder")  # dog/001.wav is a dog
print(probe.evaluate(store, "folder", folds=3))  # an honest figure: each clip is scored by a probe fitted without it
probe.save(out / "probe")

unseen = sedembed.embed_folder(new, out / "new", model)
with (out / "predicted.csv").open("w", newline="") as stream:
    writer = csv.writer(stream)
    writer.writerow(["path", "predicted", "probability"])
    for path, row in zip(unseen.paths, probe.predict_proba(unseen), strict=True):
        writer.writerow([path, probe.classes_[row.argmax()], f"{row.max():.3f}"])
print(f"{len(unseen)} clips predicted in {out / 'predicted.csv'}")
