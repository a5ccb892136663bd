"""The demo's task: triage of operating reports. Is what an event tells a defect, by the rule that stands above it?

Ten subtypes (`task.toml`), each with its own rule; the same seed writes the same rows. A rule looks at one finding,
must not be drawn away by another, or weighs two; one turns common sense around. Defects and normal events are equally
many in every subtype. No two rows of a subtype tell of the same thing, and no two share both of their statements, so a
held-out row is never another wording of a training row.

Knows nothing of models, settings or training; standard library only.
"""

from __future__ import annotations

import itertools
import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROMPT_TEMPLATE = "Task: {task}\n{output_format}\nEvent: {event}"
ANSWER_TEMPLATE = "Judgement: {judgement}\nReason: {reason}"
OUTPUT_FORMAT = "Judgement: defect or normal. Reason: one sentence."

WORDS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "task.toml").read_text(encoding="utf-8"))
SUBTYPES: dict[str, dict[str, Any]] = WORDS["subtypes"]
MOST = 900  # rows for which every subtype still has fresh pairs of wordings


def rows(seed: int = 0, count: int = 480) -> list[dict[str, Any]]:
    """`count` raw rows, subtype after subtype; the same seed writes the same rows. Raises ValueError above MOST."""
    if count > MOST:
        raise ValueError(f"count is {count}; at most {MOST} rows can be told apart.")
    share, more = divmod(count, len(SUBTYPES))
    return [row for i, name in enumerate(SUBTYPES) for row in _subtype_rows(name, seed, share + (i < more))]


def write(folder: Path, seed: int = 0, count: int = 480) -> list[Path]:
    """The rows as a raw export: one JSON list a subtype, `folder/SUBTYPE.json`. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, members in itertools.groupby(rows(seed, count), key=lambda row: row["instruction"][0]["subtype"]):
        files.append(folder / f"{name}.json")
        files[-1].write_text(json.dumps(list(members), indent=1) + "\n", encoding="utf-8", newline="\n")
    return files


def _subtype_rows(name: str, seed: int, count: int) -> Iterator[dict[str, Any]]:
    subtype = SUBTYPES[name]
    draw = random.Random(f"{name} {seed}")
    things = draw.sample([f"{site} {thing}" for site in WORDS["sites"] for thing in subtype["things"]], count)
    verdicts = [i % 2 == 0 for i in range(count)]
    draw.shuffle(verdicts)
    cases = {defect: _cases(subtype, defect, draw) for defect in (True, False)}
    for number, (thing, defect) in enumerate(zip(things, verdicts, strict=True), start=1):
        findings, reason = next(cases[defect])
        event = _event(subtype, thing, findings, draw)
        yield {
            "id": f"{name}-{number:03}",
            "instruction": [{"subtype": name}],
            "input": {"task": subtype["task"], "event": event, "output_format": OUTPUT_FORMAT},
            "output": {"judgement": "defect" if defect else "normal", "reason": reason},
        }


def _cases(subtype: dict[str, Any], defect: bool, draw: random.Random) -> Iterator[tuple[tuple[str, str], str]]:
    """The states that lead to the verdict, in turn: two wordings, which never come together again, and the reason."""
    rule = {"first": lambda a, b: a, "both": lambda a, b: a and b, "either": lambda a, b: a or b}[subtype["decides"]]
    other = subtype.get("second", {"good": WORDS["asides"]})
    states = [(a, b) for a in (True, False) for b in (True, False)[-len(other) :] if rule(a, b) == defect]
    pairs = {}
    for first, second in states:
        wordings = subtype["first"]["bad" if first else "good"], other["bad" if second else "good"]
        pairs[first, second] = list(itertools.product(*wordings))
        draw.shuffle(pairs[first, second])
    for state in itertools.cycle(states):
        yield pairs[state].pop(), _reason(subtype, *state)


def _reason(subtype: dict[str, Any], first_bad: bool, second_bad: bool) -> str:
    """What settled it: both findings where it took both, else the one that was enough."""
    first = subtype["first"]["because"][not first_bad]
    if subtype["decides"] == "first":
        return f"{first}."
    second = subtype["second"]["because"][not second_bad]
    if first_bad == second_bad == (subtype["decides"] == "both"):
        return f"{first} and {second}."
    return f"{first if first_bad == (subtype['decides'] == 'either') else second}."


def _event(subtype: dict[str, Any], thing: str, findings: tuple[str, str], draw: random.Random) -> str:
    low = draw.randrange(11, 50)
    values = {"low": low, "high": low + draw.randrange(15, 50)}
    first, second = (finding.format(**values) for finding in findings)
    return draw.choice(WORDS["frames"]).format(thing=thing, first=first, second=second)
