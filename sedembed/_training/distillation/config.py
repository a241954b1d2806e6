"""The settings of a distillation: one JSON file a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from sedembed._utils.schema import Range, check_fields, from_table, read_json_file
from sedembed.errors import InvalidArgumentError
from sedembed.models.registry import list_architectures

__all__ = ["DistillConfig"]


@dataclass(frozen=True)
class DistillConfig:
    """Settings of one training run; the JSON file of a run holds exactly these keys."""

    model: str = "talnet"  # or "weanet"
    steps: Annotated[int, Range(1)] = 2000
    batch_size: Annotated[int, Range(1)] = 32
    seconds: Annotated[float, Range(0, open=True)] = 5.0
    early_seconds: Annotated[float, Range(0, open=True)] = 5.0
    early_share: Annotated[float, Range(0, 1)] = 0.0  # of the steps, with crops of `early_seconds`
    mix_probability: Annotated[float, Range(0, 1)] = 0.7
    mix_level_db: float = 10.0
    gain_low_db: float = -9.0
    gain_high_db: float = 3.0
    speed_probability: Annotated[float, Range(0, 1)] = 0.0
    speed_semitones: float = 3.0
    third_probability: Annotated[float, Range(0, 1)] = 0.0  # of a third sound where there is a second
    equaliser_probability: Annotated[float, Range(0, 1)] = 0.0
    equaliser_db: float = 9.0
    room_probability: Annotated[float, Range(0, 1)] = 0.0
    silence_probability: Annotated[float, Range(0, 1)] = 0.0  # of silence around a part of a crop
    rarity: Literal["spread", "strongest"] = "spread"  # which recordings are drawn more often, see `sampling_weights`
    spec_augment_probability: Annotated[float, Range(0, 1)] = 0.5
    # "muon" is for the inner convolutions, with AdamW for the rest.
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Range(0, open=True)] = 1.5e-3
    muon_learning_rate: Annotated[float, Range(0, open=True)] = 3e-3
    weight_decay: float = 1e-3
    warmup_steps: Annotated[int, Range(0)] = 200
    # "cosine" or "linear" to zero over all steps, "constant", or "plateau" on the held-out loss.
    schedule: Literal["cosine", "linear", "constant", "plateau"] = "cosine"
    plateau_factor: float = 0.8
    plateau_patience: Annotated[int, Range(0)] = 3
    gradient_norm: Annotated[float, Range(0, open=True)] = 5.0
    ema_decay: float = 0.999
    bce_scale: float = 0.125
    embedding_weight: float = 1.0
    # The first blocks of convolution stay as they were at `start`: a step takes half the time.
    frozen_blocks: Annotated[int, Range(0)] = 0
    local_weight: float = 0.0  # of matching the teacher's embedding at each moment, beside that of the clip
    # Weight of the teacher's inner features beside its embedding, at both places; 0 leaves them out.
    inner_weight: Annotated[float, Range(0)] = 0.0
    # How far the teacher's directions are brought to equal variance in these losses: 0 not at all, 1 whitened.
    whitening: Annotated[float, Range(0, 1)] = 0.0
    # Batches to which the map to the teacher is fitted, of a run that begins from a model directory; 0 for none.
    map_batches: Annotated[int, Range(0)] = 0
    output_bias: float = -4.0
    held_out_share: Annotated[float, Range(0, 1)] = 0.02
    validate_every: Annotated[int, Range(1)] = 250
    checkpoint_every: Annotated[int, Range(1)] = 50
    precision: Literal["float32", "bfloat16"] = "float32"  # or "bfloat16": autocast over the convolutions
    winograd: bool = True  # for float32 on a CPU; bfloat16 is faster without
    seed: Annotated[int, Range(0)] = 15213

    @classmethod
    def read(cls, path: Path) -> DistillConfig:
        """Read a JSON file; unknown keys are refused."""
        return from_table(cls, read_json_file(path), str(path))

    def as_table(self) -> dict[str, Any]:
        """All settings as plain values for JSON."""
        return asdict(self)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.model not in list_architectures():
            raise InvalidArgumentError(f"model must be one of {', '.join(list_architectures())}, got {self.model!r}")
