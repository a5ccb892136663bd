"""A server that speaks OpenAI's chat protocol: messages in, a text out. The key comes from the environment alone.

The key goes to the address that the user named and nowhere else, so a redirect is not followed. Knows nothing of what
is asked, and believes nothing that comes back.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import ConfigError, DataError
from tunesmith.i18n import _

KEYS = ("TUNESMITH_API_KEY", "OPENAI_API_KEY")
LARGEST = 4 * 2**20  # bytes of a reply
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try, twice as many before each further one
AGAIN = (408, 409, 425, 429)  # of the refusals by the server those that may pass


class NoReply(Exception):
    """No usable reply this time; its text says why. `wait`: seconds that the server asks for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class Endpoint:
    """A server and the model to ask. `url` is the API's root or the full address of its chat completions.

    `timeout` are the seconds that a whole reply may take; `place` is what an error about the address names.
    """

    url: str
    model: str
    place: str = "--endpoint"
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(_("The address must begin with http:// or https://."), place=self.place)
        if "@" in urlsplit(self.url).netloc:
            text = _("A key or password does not belong in the address. Set {name} in the environment.")
            raise ConfigError(text.format(name=KEYS[0]), place=self.place)

    @property
    def address(self) -> str:
        root = self.url.rstrip("/")
        return root if root.endswith("/chat/completions") else f"{root}/chat/completions"

    def ask(self, messages: Sequence[dict[str, str]], *, tries: int = 1, **settings: Any) -> str:
        """What the model says. `settings` are the request's, such as temperature.

        Raises NoReply after so many tries, and DataError at once where asking again is no use: key, model, address.
        """
        asked = json.dumps({"model": self.model, "messages": list(messages), **settings}).encode()
        for again in range(tries):
            try:
                return self._reply(asked)
            except NoReply as error:
                if again + 1 == tries:
                    raise
                time.sleep(min(LONGEST_PAUSE, max(error.wait, PAUSE * 2**again)))
        raise ValueError(tries)

    def gone(self, why: str) -> DataError:
        """The error for a user whose server does not answer."""
        text = _("The server does not answer: {why}. The key is read from {names}.")
        return DataError(text.format(why=why, names=", ".join(KEYS)), place=self.address)

    def _reply(self, asked: bytes) -> str:
        request = urllib.request.Request(  # noqa: S310 -- the scheme was checked
            self.address, asked, {"Content-Type": "application/json", **_authorisation()}
        )
        began = time.monotonic()
        try:
            with _open(request, timeout=self.timeout) as response:
                read = b""
                while piece := response.read1(65536):
                    read += piece
                    if len(read) > LARGEST:
                        raise NoReply(_("the reply is too long"))
                    if time.monotonic() - began > self.timeout:
                        raise NoReply(_("the reply takes too long"))
            said = json.loads(read)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            error.close()
            why = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in AGAIN:
                raise self.gone(why) from error
            raise NoReply(why, _seconds(error.headers.get("Retry-After"))) from error
        except (OSError, HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
            raise NoReply(str(error) or type(error).__name__) from error
        if not isinstance(said, str):
            raise NoReply(_("the reply holds no text"))
        return said.encode("utf-8", "replace").decode().strip()  # halves of surrogate pairs go into no file


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """The redirect becomes an error."""


_open = urllib.request.build_opener(_NoRedirect).open


def _authorisation() -> dict[str, str]:
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdecimal() else 0.0
