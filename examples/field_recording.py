"""Find sounds in a recording of hours: ``python examples/field_recording.py SITE_20260501_043000.wav "dog; siren"``."""

import csv
import sys
from datetime import timedelta
from pathlib import Path

import sedembed
from sedembed.detection.clock import start_from_name
from sedembed.detection.extract import extract_events
from sedembed.models.labels import find_labels

recording, wanted = Path(sys.argv[1]), sys.argv[2].split(";")
model = sedembed.load_model("talnet")
events = model.detect(recording, labels=find_labels(model.labels, wanted))
start = start_from_name(recording.name)
with recording.with_suffix(".events.csv").open("w", newline="") as stream:
    writer = csv.writer(stream)
    writer.writerow(["onset", "offset", "time", "label", "probability"])
    for event in events:
        time = "" if start is None else (start + timedelta(seconds=event.onset)).isoformat(timespec="seconds")
        writer.writerow([f"{event.onset:.1f}", f"{event.offset:.1f}", time, event.label, f"{event.probability:.2f}"])
files = extract_events(recording, events, recording.with_suffix(""), recording.stem, margin=0.5)
print(f"{len(events)} events; {len(files)} sounds in {recording.with_suffix('')}")
