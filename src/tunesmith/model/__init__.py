"""Models: names to folders, folders to memory, and what they compute. bitsandbytes, which peft imports where it is
installed, speaks of missing kernels at import and of casts at every product: it is kept quiet from here on."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
