"""`plan`: how much memory each device would need to train a model together, by every way there is.

Needs the model's config.json and the settings; no data, no weights, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunesmith.errors import ConfigError, ModelError
from tunesmith.i18n import _
from tunesmith.model import spread
from tunesmith.model.folder import locate
from tunesmith.model.plan import How, Load, Shape

if TYPE_CHECKING:
    from tunesmith.config.schema import Config
    from tunesmith.model.spread import Held, Way

DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
AT_ONCE = 1024  # tokens that a device computes at once, or its longest row (train/plan.py)
TRAINED = 0.5  # share of them that predict something


@dataclass(frozen=True)
class Worlds:
    """A table of bytes a device; `first` are the fewest devices of each way that suffice where each has `room`."""

    shape: Shape
    method: str
    room: float
    devices: tuple[int, ...]
    rows: list[tuple[Way, list[Held]]]
    first: list[tuple[Way, int, Held]]


def worlds(config: Config, *, room: float = 80e9, devices: tuple[int, ...] = DEVICES) -> Worlds:
    """The table for a model. Raises ConfigError, ModelError where nothing tells its shape."""
    name = config.model.name_or_path
    if not name:
        raise ConfigError(_("There is no model. Name one: --model NAME, or model.name_or_path in YAML."))
    shape = Shape.read(locate(name, weights=False))
    if shape is None:
        raise ModelError(_("Its config.json does not tell the sizes of a decoder."), name)
    shape = replace(shape, fused=False)  # layers whose weights come and go take the plain forms
    full = config.method == "full"
    trained = shape.parameters if full else spread.adapter(shape, config.lora.r)
    how = How(full, trained, 4.0 if full else 2.0, 2, config.training.gradient_checkpointing, gpu=True)
    tokens = max(AT_ONCE, config.data.max_length)
    load = Load(tokens, tokens * (tokens + 1) // 2, round(TRAINED * tokens))
    rows = [(way, [spread.held(shape, how, load, way, number) for number in devices]) for way in spread.WAYS]
    return Worlds(shape, config.method, room, devices, rows, spread.least(shape, how, load, devices, room))
