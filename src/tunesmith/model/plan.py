"""What a run will take before anything is loaded: memory and seconds, by arithmetic on a model's shape.

Counts what training keeps and computes for a token, a query-key pair and a target; docs/design/plan.md gives the
reasons. Needs no torch. Which tokens are computed at once, and for how many steps, is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.model.machine import Rates
from tunesmith.model.shapes import EMBEDDINGS, all_parameters
from tunesmith.model.weights import read_config, tensors, text_config

PROGRAM = 480e6  # bytes of Python with torch, transformers and peft, before a model
START = 10.0  # seconds to import them
LOAD = 30e-9  # seconds a parameter to load a model and to try out what it can
CHUNK = 48 * 2**20  # bytes of a chunk of logits in float32, as the loss cuts them
SHARES = 128 * 2**20  # bytes of attention's shares that a batch may keep (model/paths.py)
HEAP = 1.45  # what the allocator holds for a byte that is in use at the peak: holes between blocks of many sizes
KERNELS = 140e6  # bytes of prepared products, of which only so many are kept (model/kernels.py)
FIRST = 0.3  # seconds to prepare the products of a batch, whose shapes are new
PASSES = 90  # times that a number of a token goes through the processor, at the pace of rates.pass_
PASSES_OF_SCORE, PASSES_OF_LOGIT = 14, 30  # the same for a query's score of a key in one head, and for a logit
PASSES_OF_PARAMETER = 60  # and for a trained parameter in a step of the optimizer
SOME_RATES = Rates(product=1e11, bfloat16=2.1, pass_=2e-10)  # of one core of a server of 2023
SLOW = 0.4  # share of the rate of large products that attention's small ones reach


@dataclass(frozen=True)
class Shape:
    """A decoder by its numbers. `queries` and `keys` are heads x their width; `matrices`: the parameters by which each
    token is multiplied; `fused`: norms and gated products keep their inputs alone (see model/fused.py)."""

    layers: int
    hidden: int
    inner: int
    heads: int
    queries: int
    keys: int
    vocabulary: int
    parameters: int
    matrices: int
    fused: bool
    head_norms: bool

    @classmethod
    def read(cls, folder: Path) -> Shape | None:
        """Of a model folder; None where config.json does not speak of such a decoder."""
        config = text_config(read_config(folder))
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
        numbers = [config.get(name) for name in names]
        if not all(isinstance(number, int) for number in numbers):
            return None
        layers, hidden, inner, heads, vocabulary = (int(number) for number in numbers if number)
        width = config.get("head_dim") or hidden // heads
        queries, keys = heads * width, (config.get("num_key_value_heads") or heads) * width
        family = str(config.get("model_type", ""))
        usual = layers * (2 * hidden * (queries + keys) + 3 * hidden * inner)
        try:
            parameters, matrices = all_parameters(folder), _matrices(folder, config)
        except ModelError:  # the weights are still on their hub
            tied = config.get("tie_word_embeddings", True)
            parameters, matrices = usual + vocabulary * hidden * (1 if tied else 2), usual
        return cls(
            layers, hidden, inner, heads, queries, keys, vocabulary, parameters, matrices,
            fused=config.get("hidden_act") == "silu",
            head_norms=family.startswith(("qwen3", "gemma3")),
        )  # fmt: skip


def _matrices(folder: Path, config: dict[str, Any]) -> int:
    """Parameters of the layers' matrices; of a mixture's experts the share that a token meets."""
    met = (config.get("num_experts_per_tok") or 1) / (
        config.get("num_local_experts") or config.get("num_experts") or config.get("n_routed_experts") or 1
    )
    total = 0.0
    for name, tensor in tensors(folder).items():
        parts = name.split(".")
        if len(tensor.shape) >= 2 and not any(part in EMBEDDINGS for part in parts):
            total += tensor.numel * (min(1.0, met) if "experts" in parts else 1.0)
    return round(total)


@dataclass(frozen=True)
class How:
    """How a model is trained. `trained`: parameters; bytes are those of one number."""

    full: bool
    trained: int
    weight_bytes: float
    compute_bytes: int
    checkpointing: bool
    gpu: bool = False


@dataclass(frozen=True)
class Load:
    """One batch that is computed at once: its tokens, the query-key pairs among them, its targets; `shared` tokens were
    computed for the whole step and lie there too."""

    tokens: int
    pairs: int
    targets: int
    shared: int = 0


@dataclass(frozen=True)
class Price:
    """What a computed token, a query-key pair and a target cost beside each other, in any unit."""

    token: float = 1.0
    pair: float = 0.0
    target: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, by what holds them."""

    program: float
    weights: float
    optimizer: float
    activations: float
    working: float
    kernels: float

    @property
    def total(self) -> int:
        return round(sum(asdict(self).values()))


def memory(shape: Shape, how: How, loads: Sequence[Load]) -> Memory:
    """The process's peak (a GPU's, where the model lies there) over all batches of a run."""
    kept, working = max((_moment(shape, how, load) for load in loads), key=sum)
    weights = shape.parameters * how.weight_bytes
    if not how.full and shape.fused and not how.gpu and how.weight_bytes == 2:
        # projections of one input are put below each other; the pages of the file from which they came stay mapped
        weights += 2 * shape.layers * shape.hidden * (shape.queries + 2 * shape.keys + 2 * shape.inner)
    return Memory(
        program=0.0 if how.gpu else PROGRAM,
        weights=weights,
        optimizer=how.trained * 4.0 * (3 if how.full else 4),  # gradient and two moments; an adapter itself too
        activations=kept * HEAP,
        working=working * HEAP,
        kernels=0.0 if how.gpu else KERNELS,
    )


def _moment(shape: Shape, how: How, load: Load) -> tuple[float, float]:
    """Bytes of activations when backward begins, and of what the loss or a layer's backward needs beside them."""
    layer, tokens = kept(shape, how), load.tokens + load.shared
    held = tokens * shape.layers * (shape.hidden * how.compute_bytes if how.checkpointing else layer)
    if shape.fused and not (how.checkpointing or how.gpu):
        held += min(SHARES, load.pairs * shape.heads * shape.layers * how.compute_bytes)
    wide = 7 * shape.inner + 4 * shape.hidden + 2 * shape.queries
    in_layer = tokens * (wide * how.compute_bytes + (layer if how.checkpointing else 0))
    logits = min(load.targets * shape.vocabulary * 4, max(CHUNK, 64 * shape.vocabulary))
    in_loss = (1.5 if how.compute_bytes == 2 else 1) * logits  # in float32, and in the type of the products
    head = 2 * 4 * shape.vocabulary * shape.hidden if how.full else 0  # the head's gradient and what is added to it
    return held, max(in_layer, in_loss) + head


def kept(shape: Shape, how: How) -> float:
    """Bytes that one layer keeps of one token for its backward."""
    h, q, kv, inner = shape.hidden, shape.queries, shape.keys, shape.inner
    numbers, wide = 2 * q + 2 * kv, 0  # attention's operands, and its result
    head_norms = q + kv if shape.head_norms else 0
    if shape.fused:
        numbers += 2 * h + 2 * inner + head_norms + (2 * h + inner if how.full else 0)
    else:  # each norm keeps its float32 input, each projection its own
        numbers += 2 * h + 4 * inner
        wide = ((4 if shape.head_norms else 2) * h + head_norms) * (2 if how.full else 1)
    return numbers * how.compute_bytes + 4 * wide


def seconds(shape: Shape, how: How, load: Load, rates: Rates) -> float:
    """What one batch takes, forward and backward."""
    again = 1 if how.checkpointing else 0
    in_products = load.tokens * ((6 if how.full else 4) + 2 * again) * shape.matrices
    in_products += 0 if how.full else load.tokens * 6 * how.trained
    in_products += load.targets * shape.hidden * shape.vocabulary * (6 if how.full else 4)
    in_attention = load.pairs * shape.layers * shape.queries * (14 + 4 * again)
    product = rates.product * (rates.bfloat16 if how.compute_bytes == 2 else 1.0)
    moved = 2.0 * shape.layers * (shape.hidden + shape.queries + shape.keys + shape.inner)
    moved *= (1.0 if shape.fused else 1.5) * (1.4 if how.full else 1.0) * (1 + again / 3)
    passes = load.tokens * moved * PASSES + load.targets * shape.vocabulary * PASSES_OF_LOGIT
    passes += load.pairs * shape.layers * shape.heads * PASSES_OF_SCORE
    return (in_products + in_attention / SLOW) / product + passes * rates.pass_ + FIRST


def price(shape: Shape, how: How) -> Price:
    """By the rates of no machine in particular: all that deal rows out by it must come to the same."""
    nothing = seconds(shape, how, Load(0, 0, 0), SOME_RATES)
    each = [Load(1, 0, 0), Load(0, 1, 0), Load(0, 0, 1)]
    return Price(*(seconds(shape, how, load, SOME_RATES) - nothing for load in each))


def update_seconds(how: How, rates: Rates) -> float:
    """What the optimizer takes in a step."""
    return how.trained * PASSES_OF_PARAMETER * rates.pass_


def checkpoint_bytes(how: How) -> int:
    """Of one checkpoint: what is trained and AdamW's two moments of it in float32."""
    return round(12 * how.trained)
