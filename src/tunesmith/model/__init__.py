"""Models: names to folders, folders to memory, and what they compute. Libraries that others import where they are
installed are kept quiet from here on: bitsandbytes speaks of missing kernels and of casts at every product, DeepSpeed
of the device that it found, in a logger whose level it sets itself, so that only a filter lasts."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
logging.getLogger("DeepSpeed").addFilter(lambda record: not record.getMessage().startswith("Setting accelerator"))
