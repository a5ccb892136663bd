"""Tokenizers and chat templates from strangers: broken, endless, or on their way out of the sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hostile import ACCEPTED, REFUSED, Case, Place
from hostile.checkpoint import model
from hostile.damage import Change, cut, fields, gone, linked, pipe, text

TOKENIZER, DEEP = "tokenizer.json", "[" * 100_000


def template(name: str, text: str | bytes, says: str, ends: str = REFUSED) -> Case:
    """A chat template that comes with the model."""

    def make(place: Place) -> Sequence[object]:
        copy = place.copied(place.model, "model")
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (copy / "chat_template.jinja").write_bytes(raw.replace(b"CANARY", str(place.canary).encode()))
        return ["check", place.rows(), "--model", copy]

    return Case(f"template: {name}", make, ends, says)


def tokenizers() -> Iterator[Case]:
    def spec(alter: Callable[[dict[str, Any]], object]) -> Change:
        def change(folder: Path, place: Place) -> None:
            found = json.loads((folder / TOKENIZER).read_text("utf-8"))
            alter(found)
            (folder / TOKENIZER).write_text(json.dumps(found))

        return change

    yield from model("no tokenizer", gone(TOKENIZER), "tokenizer.json")
    yield from model("a tokenizer cut short", cut(TOKENIZER), "tokenizer.json")
    yield from model("a tokenizer that is a list", text(TOKENIZER, "[]"), "tokenizer.json")
    yield from model("a tokenizer that is deep", text(TOKENIZER, DEEP), "tokenizer.json")
    yield from model("a tokenizer without a model", spec(lambda t: t.pop("model")), "tokenizer.json")
    yield from model(
        "a tokenizer of a kind of nobody", spec(lambda t: t["model"].update(type="Evil")), "tokenizer.json"
    )
    yield from model("a vocabulary that is a list", spec(lambda t: t["model"].update(vocab=[1, 2])), "tokenizer.json")
    yield from model("a vocabulary of text", spec(lambda t: t["model"]["vocab"].update(a="x")), "tokenizer.json")
    far = model("a token far outside", spec(lambda t: t["model"]["vocab"].update(zzzz=4_000_000_000)), "They are not a")
    yield next(far)  # a row that does not hold it can be trained
    yield from model(
        "merges of what is not there", spec(lambda t: t["model"]["merges"].append(["zz", "qq"])), "tokenizer"
    )
    yield from model("added tokens without names", spec(lambda t: t.update(added_tokens=[{"id": 1}])), "tokenizer.json")
    yield from model("added tokens that are text", spec(lambda t: t.update(added_tokens="abc")), "tokenizer.json")
    yield from model("an added token below zero", spec(lambda t: t["added_tokens"][0].update(id=-5)), "tokenizer.json")
    split = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    yield from model("a pattern that is none", spec(lambda t: t.update(pre_tokenizer=split)), "tokenizer.json")
    yield from model("a tokenizer that is a pipe", pipe(TOKENIZER), "tokenizer.json")
    yield from model("a tokenizer without end", linked(TOKENIZER, "/dev/zero"), "tokenizer.json")
    settings = "tokenizer_config.json"
    yield from model("settings of a tokenizer cut short", cut(settings), settings)
    yield from model("settings of a tokenizer in a list", text(settings, "[]"), settings)
    yield from model("settings of a tokenizer, deep", text(settings, DEEP), settings)
    yield from model("an end that is an object", fields(settings, eos_token={"content": "<|im_end|>"}), "", ACCEPTED)


def templates() -> Iterator[Case]:
    loop = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    macro = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(200) }}"
    grows = "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
    laughs = "{% set a = ['x'] %}" + "{% set a = [a, a, a, a, a, a, a, a, a, a] %}" * 12 + "{{ a }}"
    tried = "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{{ c }}{% endfor %}"
    for name, body, says in (
        ("loops in loops", loop, "does not come to an end"),
        (
            "a loop whose condition never holds",
            "{% for a in range(99999) if range(99999)|list|length < 0 %}{% endfor %}",
            "end",
        ),
        ("a macro that calls itself", macro, "The chat template"),
        ("a macro without end", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "The chat template"),
        (
            "a loop that calls itself",
            "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
            "The chat template",
        ),
        ("text that doubles", grows, "more memory"),
        ("a text times a billion", "{{ 'a' * 10000000000 }}", "more memory"),
        ("a list of lists of lists", laughs, "a list with too many parts"),
        ("thirty million characters", "{{ 'a' * 30000000 }}", "It writes more than"),
        ("a width of a billion", "{{ '%2000000000d' % 1 }}", "more memory"),
        ("a text in the middle of a billion", "{{ 'a'|center(2000000000) }}", "more memory"),
        ("a power of powers", "{{ 9**9**9 }}", "chat template"),
        ("a number rounded far away", "{{ 5|round(-1000000000) }}", ""),
        ("the way to every class", tried, "The chat template"),
        ("a format's way to a class", "{{ '{0.__class__.__mro__}'.format(1) }}", "The chat template"),
        ("the way by a global", "{{ lipsum.__globals__['os'].system('touch CANARY') }}", "The chat template"),
        ("the way by cycler", "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}", "The chat template"),
        ("the way by what we give it", "{{ raise_exception.__globals__ }}", "chat template"),
        ("the way by a message", "{{ messages[0].content.of.__func__.__globals__ }}", "The chat template"),
        ("a change of the messages", "{{ messages.append({}) }}", "The chat template"),
        ("another file", "{% include '/etc/passwd' %}", "The chat template"),
        ("an import", "{% import 'os' as os %}{{ os.system('touch CANARY') }}", "The chat template"),
        ("an error of its own", "{{ raise_exception('\x1b[31mno') }}", "The chat template refuses this: \\x1b[31mno"),
        ("a long error of its own", "{{ raise_exception('x' * 1000000) }}", "The chat template refuses this"),
        ("no end of a block", "{% for m in messages %}", "The chat template is not valid"),
        ("brackets in brackets", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "The chat template is not valid"),
        ("a tag of nobody", "{% evil %}", "The chat template is not valid"),
        ("a division by nothing", "{{ 1 / 0 }}", "The chat template refuses this"),
        ("nothing", "{# #}", ""),
        ("only the roles", "{% for m in messages %}{{ m.role }}{% endfor %}", "the chat template does not render"),
        ("two million characters of template", "{# " + "x" * 2_000_000 + " #}", "The chat template is not valid"),
    ):
        yield template(name, body, says)
    yield template("not in utf-8", b"{{ '\xff' }}", "chat_template.jinja")


def cases() -> Sequence[Case]:
    return [*tokenizers(), *templates()]
