"""What each of several devices holds when they train one model together: by copies, by ZeRO's stages, by shards.

Divides what model/plan.py counts for one device. What is divided is exact and tested; buckets, live layers and a GPU's
own share are the engines' documented sizes and were not measured. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunesmith.model.plan import How, Load, Shape, memory

GPU = 1.5e9  # bytes of a GPU's context, its libraries' kernels and the buffers of communication
BUCKET = 2e8  # numbers that ZeRO gathers before it sends them (config/presets/deepspeed), twice while it overlaps
LIVE = 1e9  # weights that ZeRO-3 keeps whole at once (stage3_max_live_parameters)
MASTER, MOMENTS, GRADIENT = 4, 8, 4  # bytes of a trained number beside its weight


@dataclass(frozen=True)
class Way:
    """How a model is shared. What is `divided` lies on one device each; `offload`: in the machine's memory instead."""

    name: str
    divided: tuple[str, ...] = ()
    offload: bool = False
    zero: bool = False


WAYS = (
    Way("DDP"),
    Way("ZeRO-2", ("optimizer",), zero=True),
    Way("ZeRO-3", ("optimizer", "weights"), zero=True),
    Way("FSDP2", ("optimizer", "weights")),
    Way("ZeRO-3, offload", ("optimizer", "weights"), offload=True, zero=True),
)


@dataclass(frozen=True)
class Held:
    """Bytes on a device at the peak, and those that its process keeps in the machine's memory (with offload)."""

    weights: float
    optimizer: float
    whole: float  # layers that are put together to compute, and buckets
    rest: float  # activations, loss, the device's own
    host: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.optimizer + self.whole + self.rest


def held(shape: Shape, how: How, load: Load, way: Way, devices: int) -> Held:
    """By one of so many devices, when each computes `load` at once."""
    how = replace(how, gpu=True)
    alone = memory(shape, how, [load])
    weights, optimizer = own(shape, how, way)
    shares = {name: devices if name in way.divided else 1 for name in ("weights", "optimizer")}
    weights, optimizer = weights / shares["weights"], optimizer / shares["optimizer"]
    whole = _whole(shape, how, way)
    rest = alone.activations + alone.working + GPU
    if way.offload:
        return Held(0.0, 0.0, whole, rest, host=weights + optimizer)
    return Held(weights, optimizer, whole, rest)


def own(shape: Shape, how: How, way: Way) -> tuple[float, float]:
    """Bytes of all weights and of all that the optimizer keeps, before anything is divided.

    An adapter is float32 itself. All weights are float32 with DDP and FSDP2; ZeRO keeps a float32 copy of what is
    trained among what it divides, and computes with weights in the type that computes.
    """
    if not how.full:
        return shape.parameters * how.weight_bytes, how.trained * (MASTER + MOMENTS + GRADIENT)
    if way.zero:
        return shape.parameters * float(how.compute_bytes), how.trained * (MASTER + MOMENTS + GRADIENT)
    return shape.parameters * how.weight_bytes, how.trained * (MOMENTS + GRADIENT)


def _whole(shape: Shape, how: How, way: Way) -> float:
    buckets = 3 * min(BUCKET, how.trained) * (how.compute_bytes if how.full else 4) if way.zero else 0.0
    if "weights" not in way.divided:
        return buckets
    size = how.compute_bytes if way.zero and how.full else how.weight_bytes
    outside = max(0, shape.parameters - shape.matrices)
    two = 2 * shape.matrices / shape.layers + outside  # the one that computes, the next one, embedding and head
    return (min(shape.parameters, max(two, LIVE)) if way.zero else two) * size + buckets


def adapter(shape: Shape, rank: int) -> int:
    """Parameters of an adapter of this rank on every projection of every layer."""
    h, inner = shape.hidden, shape.inner
    attention = 2 * (h + shape.queries) + 2 * (h + shape.keys)
    return rank * shape.layers * (attention + 3 * (h + inner))


def least(shape: Shape, how: How, load: Load, devices: Sequence[int], room: float) -> list[tuple[Way, int, Held]]:
    """Of each way the fewest devices on which it fits."""
    found = []
    for way in WAYS:
        for number in devices:
            taken = held(shape, how, load, way, number)
            if taken.total <= room:
                found.append((way, number, taken))
                break
    return found
