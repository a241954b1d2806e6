"""The settings of a distillation: one JSON file a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

__all__ = ["DistillConfig"]


@dataclass(frozen=True)
class DistillConfig:
    """Settings of one training run; the JSON file of a run holds exactly these keys."""

    model: str = "talnet"  # or "weanet"
    steps: int = 2000
    batch_size: int = 32
    seconds: float = 5.0
    early_seconds: float = 5.0  # length of the crops in the first `early_share` of the steps
    early_share: float = 0.0
    mix_probability: float = 0.7
    mix_level_db: float = 10.0
    gain_low_db: float = -9.0
    gain_high_db: float = 3.0
    speed_probability: float = 0.0
    speed_semitones: float = 3.0
    third_probability: float = 0.0  # of a third sound where there is a second
    equaliser_probability: float = 0.0
    equaliser_db: float = 9.0
    room_probability: float = 0.0
    rarity: str = "spread"  # which recordings are drawn more often, see _sampling_weights
    spec_augment_probability: float = 0.5
    optimizer: str = "adamw"  # "adamw", or "muon" for the inner convolutions with adamw for the rest
    learning_rate: float = 1.5e-3
    muon_learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 200
    schedule: str = (
        "cosine"  # "cosine" or "linear" to zero over all steps, "constant", or "plateau" on the held-out loss
    )
    plateau_factor: float = 0.8
    plateau_patience: int = 3
    gradient_norm: float = 5.0
    ema_decay: float = 0.999
    bce_scale: float = 0.125
    embedding_weight: float = 1.0
    frozen_blocks: int = 0  # the first blocks of convolution stay as they were at `start`: half the time of a step
    local_weight: float = 0.0  # of matching the teacher's embedding at each moment, beside that of the clip
    output_bias: float = -4.0
    held_out_share: float = 0.02
    validate_every: int = 250
    checkpoint_every: int = 50
    precision: str = "float32"  # or "bfloat16": autocast over the convolutions
    winograd: bool = True  # for float32 on a CPU; bfloat16 is faster without
    seed: int = 15213

    @classmethod
    def read(cls, path: Path) -> DistillConfig:
        """Read a JSON file; unknown keys are refused."""
        values = json.loads(path.read_text())
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"{path}: unknown settings {sorted(unknown)}; known are {[f.name for f in fields(cls)]}")
        return cls(**values)

    def __post_init__(self) -> None:
        if self.model not in ("talnet", "weanet"):
            raise ValueError(f"model must be talnet or weanet, got {self.model!r}")
        if self.rarity not in ("spread", "strongest"):
            raise ValueError(f"rarity must be spread or strongest, got {self.rarity!r}")
        if self.schedule not in ("cosine", "linear", "constant", "plateau"):
            raise ValueError(f"schedule must be cosine, linear, constant or plateau, got {self.schedule!r}")
