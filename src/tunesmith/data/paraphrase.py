"""Questions in other words, by any server that speaks OpenAI's chat protocol.

What comes back is held against the question: it must be another text with the same numbers. Knows no rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tunesmith.data.near import plain
from tunesmith.endpoint import Endpoint, NoReply

TRIES = 3  # failures one after another from which the server counts as gone
_INSTRUCTION = (
    "Rewrite the user's message in other words. Keep its meaning, its language, every number, name, quotation and "
    "piece of code. Do not answer it. Write nothing but the rewritten message."
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass
class Paraphraser:
    """`seed` and a number make each rewriting another one; `failed` counts those that were no good."""

    server: Endpoint
    seed: int
    failed: int = 0
    _in_a_row: int = field(default=0, repr=False)

    def rewrite(self, text: str, number: int) -> str | None:
        """The text in other words, the `number`-th of several; None where no good rewriting came back.

        Raises DataError if the server refuses the key or the model, or has failed several times in a row.
        """
        messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": text}]
        try:
            said = self.server.ask(messages, temperature=1.0, seed=self.seed + number)
        except NoReply as error:
            self.failed += 1
            self._in_a_row += 1
            if self._in_a_row >= TRIES:
                raise self.server.gone(str(error)) from error
            return None
        self._in_a_row = 0
        same = sorted(_NUMBER.findall(said)) == sorted(_NUMBER.findall(text))
        if not said or plain(said) == plain(text) or not same:
            self.failed += 1
            return None
        return said
