"""Text to ids and back, by tokenizer.json alone: which ids are control, and how ordinary text avoids them.

Knows nothing of conversations or templates. Reads files through `tokenizers`; neither torch nor transformers is loaded.
"""

from __future__ import annotations

import json
import os
import re
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer

from tunesmith.errors import ModelError, TemplateError
from tunesmith.i18n import _

# Markers that families train as structure although their tokenizers do not flag them as special.
MARKERS = frozenset(
    {"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>"}
    | {"</tools>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}
)
# Stands for a control token in the tokenizer for ordinary text: a Unicode noncharacter, which is taken out of texts.
UNREACHABLE = "\ufdef"
BROKEN = "\ufdd2"  # what stands right behind this mark is no control token
REMEMBERED = 2_000  # texts: system prompts and turns come back in every context of a dialogue


class Tokenizer:
    """The tokenizer of a folder. `template` is the chat template's source: markers in it are control tokens."""

    def __init__(self, folder: str | Path, template: str = "") -> None:
        self.folder = Path(folder)
        self.spec = _read(self.folder / "tokenizer.json")
        self.config = _read(self.folder / "tokenizer_config.json", optional=True)
        self._seen: dict[tuple[str, bool], list[int]] = {}
        if not _sound(self.spec):
            raise self._damaged(_("its added tokens or its vocabulary are not what they should be"))
        self.special_tokens = self._special_tokens()
        self.control = self._control_tokens(template)

    def _damaged(self, why: object) -> ModelError:
        text = _("The tokenizer is damaged: {why}. Copy it again from the model's source.")
        return ModelError(text.format(why=str(why)[:200]), place=str(self.folder / "tokenizer.json"))

    def _made(self, spec: dict[str, Any]) -> RustTokenizer:
        """The library's own tokenizer. It reports what is wrong by Exception itself, or by a panic, which is none."""
        try:
            return RustTokenizer.from_str(json.dumps(spec))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise self._damaged(error) from None

    @cached_property
    def full(self) -> RustTokenizer:
        """The tokenizer as it lies in the folder: for reading ids back."""
        return self._made(self.spec)

    @cached_property
    def _plain(self) -> RustTokenizer:
        return self._without_control(self.spec)

    @cached_property
    def _continuation(self) -> RustTokenizer:
        spec = _no_prefix_space(self.spec)
        same = all(spec.get(part) == self.spec.get(part) for part in ("normalizer", "pre_tokenizer"))
        return self._plain if same else self._without_control(spec)  # to make another takes a second

    def _special_tokens(self) -> dict[str, str]:
        """bos_token, eos_token and so on, as the template calls them."""
        found = _read(self.folder / "special_tokens_map.json", optional=True) | self.config
        names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
        values = {name: found.get(name) for name in names}
        texts = {name: v.get("content") if isinstance(v, dict) else v for name, v in values.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    def _control_tokens(self, template: str) -> dict[str, int]:
        """Text -> id of every added token that is special, or that the template or a family uses as a marker; and of
        what a template names as made for it, added or not ("sop" of ChatGLM3 is a piece of words as text)."""
        vocab = self.spec["model"].get("vocab", {})
        named = {t: vocab[t] for t in made_for(template)[0] if isinstance(vocab, dict) and t in vocab}
        return named | {
            token["content"]: token["id"]
            for token in self.spec.get("added_tokens", [])
            if token["special"]
            or token["content"] in MARKERS
            or (_looks_like_marker(token["content"]) and token["content"] in template)
        }

    def _without_control(self, spec: dict[str, Any]) -> RustTokenizer:
        """The tokenizer of ordinary text. Other added tokens ("\\n" in Baichuan2, "ö" in DeepSeek) keep their ids."""
        vocab = spec["model"].get("vocab", {})
        known = vocab if isinstance(vocab, dict) else {piece[0] for piece in vocab}
        kept = []
        for token in spec.get("added_tokens", []):
            if token["content"] not in self.control:
                kept.append(token)
            elif token["content"] not in known:  # it must go on taking up its id, or all after it would move
                kept.append(token | {"content": f"{UNREACHABLE}{token['id']}"})
        plain = spec | {"added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
        tokenizer = self._made(plain)
        moved = [t["content"] for t in kept if tokenizer.token_to_id(t["content"]) != t["id"]]
        if moved:
            raise ModelError(
                _("The ids of these added tokens do not follow the vocabulary: {tokens}.").format(tokens=moved[:5]),
                place=str(self.folder / "tokenizer.json"),
            )
        return tokenizer

    @cached_property
    def control_ids(self) -> frozenset[int]:
        return frozenset(self.control.values())

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Finds control tokens in text, the longest first, with the white space that some of them swallow."""
        added = {t["content"]: t for t in self.spec.get("added_tokens", [])}

        def swallows(text: str, side: str) -> str:
            return r"\s*" if added.get(text, {}).get(side) else ""

        def unbroken(text: str) -> str:
            # Of a longer token's characters, each is broken: it can't match. So the search stays free to leap to `<`.
            return f"(?<!{BROKEN})" if len(text.strip()) < 2 else ""

        parts = [
            unbroken(text) + swallows(text, "lstrip") + re.escape(text) + swallows(text, "rstrip")
            for text in sorted(self.control, key=len, reverse=True)
        ]
        return re.compile("(" + "|".join(parts) + ")" if parts else "(?!)()")

    def control_id(self, found: str) -> int:
        """The id of what the pattern found."""
        return self.control[found if found in self.control else found.strip()]

    def fits(self, template: str) -> bool:
        """Whether the control tokens that a template is made for are all here, and none of those that it excludes."""
        present, absent = made_for(template)
        added = {token["content"] for token in self.spec.get("added_tokens", [])}
        return bool(present) and self._control_tokens(template).keys() >= set(present) and added.isdisjoint(absent)

    def id_of(self, token: str | None) -> int | None:
        if token is None or token in self.control:
            return self.control.get(token or "")
        return self._plain.token_to_id(token)

    @property
    def eos_id(self) -> int | None:
        return self.id_of(self.special_tokens.get("eos_token"))

    @property
    def pad_id(self) -> int:
        """The pad token's id; where there is none, eos or 0: padding is masked by place and never by its id."""
        for name in ("pad_token", "eos_token", "unk_token"):
            found = self.id_of(self.special_tokens.get(name))
            if found is not None:
                return found
        return 0

    @cached_property
    def prefix_once(self) -> bool:
        """Whether a prefix space stands before the whole text only, and not behind each control token in it."""
        return '"prepend_scheme": "first"' in json.dumps(self.spec.get("pre_tokenizer"))

    def text_ids(self, text: str, *, continuation: bool = False) -> list[int]:
        """Ids of ordinary text: no control id ever comes out. `continuation`: no prefix space is put before it."""
        text = text.replace(UNREACHABLE, "")
        if not text:
            return []
        key = (text, continuation)
        if key not in self._seen:
            if len(self._seen) > REMEMBERED:
                self._seen.clear()
            self._seen[key] = self._ids(text, continuation)
        return self._seen[key]

    def _ids(self, text: str, continuation: bool) -> list[int]:
        tokenizer = self._continuation if continuation else self._plain
        try:
            [found] = tokenizer.encode_batch_fast([text])  # without the offsets, which cost a tenth
        except TypeError:  # halves of surrogate pairs
            raise TemplateError(_("The text holds a broken character.")) from None
        ids = found.ids
        if self.control_ids.isdisjoint(ids):
            return ids
        return [i for _start, part in self._encoded(text, continuation) for i in part.ids]

    def text_offsets(self, text: str, *, continuation: bool = False) -> list[tuple[int, int]]:
        """(start, stop) of the characters, not counting UNREACHABLE, that each of the `text_ids` stands for."""
        text = text.replace(UNREACHABLE, "")
        parts = self._encoded(text, continuation) if text else []
        return [(start + a, start + b) for start, part in parts for a, b in part.offsets]

    def _encoded(self, text: str, continuation: bool) -> list[tuple[int, Encoding]]:
        """The text's parts, each with its start: one, unless the vocabulary's merges spell a control token."""
        tokenizer = self._continuation if continuation else self._plain
        try:
            whole = tokenizer.encode(text)
        except TypeError:  # halves of surrogate pairs
            raise TemplateError(_("The text holds a broken character.")) from None
        if self.control_ids.isdisjoint(whole.ids):
            return [(0, whole)]
        parts = self._broken(text)
        starts = accumulate(map(len, parts), initial=0)
        encoders = [tokenizer, *[self._continuation] * (len(parts) - 1)]
        return [(start, each.encode(part)) for start, each, part in zip(starts, encoders, parts, strict=False)]

    def _broken(self, text: str) -> list[str]:
        """The text cut inside each control token that is spelled in it, also inside those that overlap."""
        cuts = [m.start() + 1 for m in re.finditer(f"(?={self.control_pattern.pattern})", text)]
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) if a < b] or [text]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return self.full.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        return self.full.decode([token_id], skip_special_tokens=False)


def made_for(template: str) -> tuple[list[str], list[str]]:
    """The control tokens that a template names in its first comment: those it is made for, and those it excludes."""
    first = re.match(r"\{#-? made for: (.*?)(?:; not for: (.*?))? -?#\}", template)
    return (first[1].split(), (first[2] or "").split()) if first else ([], [])


def _looks_like_marker(text: str) -> bool:
    """A word in brackets of any kind: <|user|>, [INST], <reserved_106>. Words, dots, line breaks are ordinary text."""
    core = text.strip()
    return any(map(str.isalnum, core)) and not (core[0].isalnum() and core[-1].isalnum())


def _no_prefix_space(node: Any) -> Any:
    """A tokenizer's description in which nothing puts a space before the text."""
    if isinstance(node, list):
        return [_no_prefix_space(item) for item in node if not _is_prepend(item)]
    if not isinstance(node, dict):
        return node
    changed = {
        key: None if key == "normalizer" and _is_prepend(value) else _no_prefix_space(value)
        for key, value in node.items()
        if key not in ("model", "added_tokens")
    }
    if node.get("type") == "Metaspace":
        changed |= {"prepend_scheme": "never"}
    if node.get("type") == "ByteLevel":
        changed |= {"add_prefix_space": False}
    return node | changed


def _is_prepend(node: Any) -> bool:
    return isinstance(node, dict) and node.get("type") == "Prepend"


def _sound(spec: dict[str, Any]) -> bool:
    """Whether vocabulary and added tokens are built as the library writes them."""
    model, added = spec.get("model"), spec.get("added_tokens", [])
    vocab = model.get("vocab", {}) if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        known = all(type(index) is int for index in vocab.values())
    else:
        known = isinstance(vocab, list) and all(isinstance(p, list) and p and isinstance(p[0], str) for p in vocab)
    return known and isinstance(added, list) and all(map(_is_added, added))


def _is_added(token: Any) -> bool:
    if not isinstance(token, dict):
        return False
    content, index = token.get("content"), token.get("id")
    return isinstance(content, str) and content != "" and type(index) is int and index >= 0 and "special" in token


def _read(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if not os.path.lexists(path):
        if optional:
            return {}
        raise ModelError(_("The file is missing. Give a folder that holds a tokenizer."), place=str(path))
    if not os.path.isfile(path):  # to read a pipe or a device might never end
        raise ModelError(_("The file can't be read as JSON: {why}.").format(why=_("it is no file")), place=str(path))
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(_("The file can't be read as JSON: {why}.").format(why=error), place=str(path)) from None
    if not isinstance(value, dict):
        raise ModelError(_("The file holds no JSON object."), place=str(path))
    return value


def own_chat_template(folder: Path) -> str | None:
    """The chat template that lies with a tokenizer; of several named ones, `default`, and `tool_use` for conversations
    with tools, both in one text."""
    found = _read(folder / "tokenizer_config.json", optional=True).get("chat_template")
    named: dict[Any, Any] = {"default": found} if isinstance(found, str) else {}
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
    files = [
        ("default", folder / "chat_template.jinja"),
        ("tool_use", folder / "additional_chat_templates/tool_use.jinja"),
    ]
    try:
        named |= {name: path.read_text(encoding="utf-8") for name, path in files if path.is_file()}
    except (OSError, UnicodeDecodeError) as error:
        place = str(folder / "chat_template.jinja")
        raise TemplateError(_("The chat template can't be read: {why}.").format(why=error), place=place) from None
    texts = {name: text for name, text in named.items() if isinstance(text, str) and text.strip()}
    default, tools = (texts.get(name, "").removesuffix("\n") for name in ("default", "tool_use"))
    if default and tools:  # as transformers chooses between them
        return f"{{% if tools %}}{tools}{{% else %}}{default}{{% endif %}}"
    return texts.get("default")
