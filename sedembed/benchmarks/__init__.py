"""Encoders for the benchmarks of others: X-ARES and MTEB. That of HEAR is `sedembed.hear`."""
