"""tunesmith: from a file of conversations to a fine-tuned language model, with proof of what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.api import ChatMLDataProcessor, SFTTrainer, get_config

__version__ = "0.1.0"
__all__ = ["ChatMLDataProcessor", "SFTTrainer", "get_config"]


def __getattr__(name: str) -> Any:
    """The Python door opens when something is asked of it: `import tunesmith` alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tunesmith import api

    return getattr(api, name)
