"""A base model in 4 or 8 bit (QLoRA, arXiv 2305.14314; LLM.int8, arXiv 2208.07339), by bitsandbytes.

The linear layers are packed while they are read; embeddings, norms and the head stay as they are. Knows no files.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ConfigError
from tunesmith.i18n import _

if TYPE_CHECKING:
    import torch

    from tunesmith.config.schema import ModelSection


@dataclass(frozen=True, slots=True)
class Quantization:
    """`bits` is 4 or 8; the other two speak of 4 bit only, in bitsandbytes' words."""

    bits: int
    quant_type: str = "nf4"
    double_quant: bool = False

    @classmethod
    def of(cls, section: ModelSection) -> Quantization | None:
        if section.load_in_4bit:
            return cls(4, section.bnb_4bit_quant_type, section.bnb_4bit_use_double_quant)
        return cls(8) if section.load_in_8bit else None

    def config(self, compute: torch.dtype) -> Any:
        """For transformers; 4-bit weights are unpacked to `compute`. Raises ConfigError without bitsandbytes."""
        require()
        from transformers import BitsAndBytesConfig

        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
        )

    def settle(self, model: Any) -> None:
        """Keeps packed weights in the layout that training reads, whichever mode a forward runs in.

        On CPUs with AVX512-BF16, bitsandbytes 0.50 packs 4-bit weights anew at the first forward in evaluation mode,
        and from then on computes them, in training too, by a kernel through which no gradient flows.
        """
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False


def require() -> None:
    """Raises ConfigError, with the line to type, where bitsandbytes is missing. Loads nothing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        problem = _("4 and 8 bit need a package that is missing. Type: pip install 'tunesmith[quant]'")
        raise ConfigError(problem, place="model")
