"""Reading sound: the only place that opens, downmixes, resamples or checks it."""
