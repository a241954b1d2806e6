"""Sound events with onset and offset."""
