"""References of the networks; apart from them, so that records can be listed without importing PyTorch."""

from __future__ import annotations

__all__ = ["TALNET", "WEANET"]

_PAPER = (
    "A. Kumar, Y. Wang, V. K. Ithapu, C. Fuegen: Do sound event representations generalize to other audio tasks? "
    "A case study in audio transfer learning. 2021."
)
TALNET = (
    f"{_PAPER} Network: Y. Wang: Polyphonic sound event detection with weak labeling. PhD thesis, "
    "Carnegie Mellon University, 2018."
)
WEANET = (
    f"{_PAPER} Network: A. Kumar, V. K. Ithapu: A sequential self teaching approach for improving "
    "generalization in sound event recognition. ICML 2020; reconstructed, see docs/model.md."
)
