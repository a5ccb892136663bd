"""From weights of characters to weights of tokens: where an answer's content stands once a template has rendered it.

A token that a weighted stretch touches takes its weight, also where it lies only partly inside; where stretches of
different weights meet in one token, the larger counts. Knows nothing of where the weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.conversation import Message, Span
from tunesmith.tokens.marks import MARKS, clean, spans
from tunesmith.tokens.tokenizer import UNREACHABLE, Tokenizer

Factors = list[float | None]  # of characters; None where nothing is said about one


def moved(given: Sequence[Span], content: str) -> tuple[Span, ...]:
    """The spans of a text once the marks that it held are taken out of it."""
    return tuple(Span(len(clean(content[: s.start])), len(clean(content[: s.stop])), s.weight) for s in given)


def factors(answer: str, message: Message) -> Factors:
    """For each character of a rendered answer (marks included) the product of the spans that cover it."""
    found: Factors = [None] * len(answer)
    places = _places(answer, message)
    for span in message.spans:
        for character in range(span.start, span.stop):
            place = places.get(character)
            if place is not None:
                before = found[place]
                found[place] = span.weight if before is None else before * span.weight
    return found


def answer_factors(tokenizer: Tokenizer, answer: str, message: Message, n: int) -> list[float]:
    """For each of the `n` ids of a rendered answer what the message's spans say; 1 for what is the template's own."""
    said = factors(answer, message)
    found: list[float] = []
    start = 0
    for i, piece in enumerate(tokenizer.control_pattern.split(answer)):
        if i % 2:
            found.append(1.0)
        else:
            part, continuation = said[start : start + len(piece)], tokenizer.prefix_once if i else True
            found += token_factors(tokenizer, piece, part, continuation=continuation)
        start += len(piece)
    return found + [1.0] * (n - len(found))


def token_factors(tokenizer: Tokenizer, text: str, said: Factors, *, continuation: bool) -> list[float]:
    """One for each of the text's ids; `said` has one for each of its characters, marks included."""
    kept = [factor for factor, c in zip(said, text, strict=True) if not MARKS.match(c) and c != UNREACHABLE]
    offsets = tokenizer.text_offsets(clean(text), continuation=continuation)
    touched = ([f for f in kept[a : max(b, a + 1)] if f is not None] for a, b in offsets)
    return [max(each, default=1.0) for each in touched]


def _places(answer: str, message: Message) -> dict[int, int]:
    """Where each character of the content (without marks) stands in the rendered answer."""
    content = clean(message.content)
    core = content.strip()
    if not core:
        return {}
    lead, tail = content.index(core), content[content.index(core) + len(core) :]
    begin, end = _core(answer, core, clean(message.reasoning or "").strip())
    places = list(range(begin - lead, begin)) if answer[:begin].endswith(content[:lead]) else [-1] * lead
    places += [i for i in range(begin, end) if not MARKS.match(answer[i])]
    places += range(end, end + len(tail)) if answer.startswith(tail, end) else []
    return {character: place for character, place in enumerate(places) if place >= 0}


def _core(answer: str, core: str, reasoning: str) -> tuple[int, int]:
    """[begin, end) of the content in a rendered answer, marks included: behind the reasoning, before any tool call."""
    marked = list(spans(answer))
    texts = [clean(answer[a:b]) for a, b in marked]
    first = texts.index(reasoning) + 1 if reasoning in texts[:-1] else 0
    if core in texts[first:]:
        return marked[texts.index(core, first)]
    # a template that looks into content is rendered without marks
    plain = [i for i, c in enumerate(answer) if not MARKS.match(c)]
    text = clean(answer)
    at = text.find(core, text.find(reasoning) + len(reasoning)) if reasoning else -1
    at = text.rfind(core) if at < 0 else at
    return plain[at], plain[at + len(core) - 1] + 1
