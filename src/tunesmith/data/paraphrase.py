"""Questions in other words, by any server that speaks OpenAI's chat protocol. The key comes from the environment alone.

What comes back is held against the question: it must be another text with the same numbers. Knows no rows.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.near import plain
from tunesmith.errors import ConfigError, DataError
from tunesmith.i18n import _

KEYS = ("TUNESMITH_API_KEY", "OPENAI_API_KEY")
TRIES = 3  # failures one after another from which the server counts as gone
_INSTRUCTION = (
    "Rewrite the user's message in other words. Keep its meaning, its language, every number, name, quotation and "
    "piece of code. Do not answer it. Write nothing but the rewritten message."
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass
class Endpoint:
    """A server and the model to ask. `url` is the API's root or the full address of its chat completions."""

    url: str
    model: str
    seed: int
    timeout: float = 120.0
    failed: int = 0
    _in_a_row: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(_("The address must begin with http:// or https://."), place="--endpoint")
        root = self.url.rstrip("/")
        self.url = root if root.endswith("/chat/completions") else f"{root}/chat/completions"

    def rewrite(self, text: str, number: int) -> str | None:
        """The text in other words, the `number`-th of several; None where no good rewriting came back.

        Raises DataError if the server refuses the key or the model, or has failed several times in a row.
        """
        try:
            said = self._ask(text, number)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (400, 401, 403, 404):
                raise self._gone(f"HTTP {error.code} {error.reason}") from error
            self._miss(f"HTTP {error.code} {error.reason}")
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            self._miss(str(error) or type(error).__name__)
            return None
        self._in_a_row = 0
        same = sorted(_NUMBER.findall(said)) == sorted(_NUMBER.findall(text))
        if not said or plain(said) == plain(text) or not same:
            self.failed += 1
            return None
        return said

    def _ask(self, text: str, number: int) -> str:
        messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": text}]
        asked = {"model": self.model, "messages": messages, "temperature": 1.0, "seed": self.seed + number}
        request = urllib.request.Request(  # noqa: S310 -- the scheme was checked
            self.url, json.dumps(asked).encode(), {"Content-Type": "application/json", **_authorisation()}
        )
        with urllib.request.urlopen(request, timeout=self.timeout) as response:  # noqa: S310
            answer: Any = json.load(response)
        return str(answer["choices"][0]["message"]["content"]).strip()

    def _miss(self, why: str) -> None:
        self.failed += 1
        self._in_a_row += 1
        if self._in_a_row >= TRIES:
            raise self._gone(why)

    def _gone(self, why: str) -> DataError:
        text = _("The server does not answer: {why}. The key is read from {names}.")
        return DataError(text.format(why=why, names=", ".join(KEYS)), place=self.url)


def _authorisation() -> dict[str, str]:
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    return {"Authorization": f"Bearer {key}"} if key else {}
