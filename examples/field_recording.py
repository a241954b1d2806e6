"""Find sounds in a recording of hours: ``python examples/field_recording.py SITE_20260501_043000.wav "dog; siren"``."""

import sys
from pathlib import Path

import sedembed
from sedembed.detection.clock import start_from_name
from sedembed.detection.extract import extract_events
from sedembed.detection.formats import FORMATS
from sedembed.models.labels import find_labels

recording, wanted = Path(sys.argv[1]), sys.argv[2].split(";")
model = sedembed.load_model("talnet")
events = model.detect(recording, labels=find_labels(model.labels, wanted))
start = start_from_name(recording.name)  # None if the name holds no time
for form, ending in (("csv", ".events.csv"), ("audacity", ".labels.txt")):
    with recording.with_suffix(ending).open("w", newline="") as stream:
        writer = FORMATS[form](stream, start is not None)
        writer.add(recording.name, recording.stem, 0.0, events, start)
        writer.finish()
files = extract_events(recording, events, recording.with_suffix(""), recording.stem, margin=0.5)
print(f"{len(events)} events; {len(files)} sounds in {recording.with_suffix('')}")
