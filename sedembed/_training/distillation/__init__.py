"""Training by distillation from a public AudioSet tagger; internal."""
