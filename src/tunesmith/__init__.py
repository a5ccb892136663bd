"""tunesmith: from a file of conversations to a fine-tuned language model, with proof of what was done."""

__version__ = "0.1.0"
