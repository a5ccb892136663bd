"""Evaluation: every row's prompt is answered, every answer compared with the expected one, and the whole written down.

Generation and judgement are apart: answers are kept as they come, so an evaluation that was killed goes on where it
stopped, and other metrics judge the same answers anew. Results are written last: where they are, everything is. Knows
nothing of models: answers come from the function given.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Message
from tunesmith.data.fields import parse_answer, pieces
from tunesmith.errors import ConfigError, DataError, Problem, RunError, TunesmithError
from tunesmith.evaluate.measures import measures
from tunesmith.evaluate.metrics import Metric, MetricContext, default, load
from tunesmith.evaluate.results import RESULTS, Report, totals
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.generate.engine import Generated

PARTIAL = "records.jsonl"

Respond = Callable[[Sequence[Conversation], int], "Iterable[Generated]"]
Measure = Callable[[Metric, Sequence[Conversation]], list[dict[str, Any]]]


def evaluate(
    conversations: Sequence[Conversation],
    respond: Respond,
    *,
    out: Path,
    metrics: Sequence[str] | None = None,
    answer_template: str | None = None,
    label: str | None = None,
    group_by: str | None = None,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    measure: Measure | None = None,
    show: Callable[[Report], object] | None = None,
) -> Report:
    """Answer, judge and write `out/evaluation_results.json`. A conversation's last message is the expected answer.

    `respond` is given the conversations without that message, and a number: it yields the answers from that one on, in
    their order, each as it would be if all were asked. The first metric that tells right from wrong decides what is
    correct; where none of those named does, the one that the data suggests comes first. `measure` is asked for the
    scores of metrics that need the model. `settings` are kept with the results, and answers of an interrupted
    evaluation serve only the same settings and rows. `progress(done, rows)` is called after each answer, `show` with
    the report before the results are written.
    Everything that can be wrong with the rows is found before the first answer: ConfigError, DataError, RunError.
    """
    result = out / RESULTS
    if result.exists() and not overwrite:
        raise RunError(_("Results are already there. Replace them with --overwrite."), place=str(result))
    context = MetricContext(answer_template, label)
    judges = judges_of(conversations, metrics, context, group_by)

    prompts = [replace(conversation, messages=conversation.messages[:-1]) for conversation in conversations]
    answers = _answers(prompts, respond, out / PARTIAL, settings or {}, progress)
    measured = {name: _measured(judge, measure, conversations) for name, judge in judges.items() if judge.measure}
    rows, found = scored(conversations, answers, judges, context, group_by, measured)
    asked = {"rows_sha256": _hash([_told(conversation) for conversation in conversations]), "group_by": group_by}
    judged = {"metrics": list(judges), "answer_template": answer_template, "label": label}
    report = Report(rows, found, judged | asked | (settings or {}))
    if show:
        show(report)
    report.write(result)
    (out / PARTIAL).unlink()
    return report


def scored(
    conversations: Sequence[Conversation],
    answers: Sequence[dict[str, Any]],
    judges: dict[str, Metric],
    context: MetricContext,
    group_by: str | None = None,
    measured: Mapping[str, Sequence[dict[str, Any]]] = MappingProxyType({}),
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A record for each row and the totals over them. `answers` are as `answered` keeps them, `measured` the scores of
    metrics that need the model."""
    names = _ids(conversations)
    rows = [
        {"id": names[i]}
        | _row(conversation, answer, judges, {name: found[i] for name, found in measured.items()}, context, group_by)
        for i, (conversation, answer) in enumerate(zip(conversations, answers, strict=True))
    ]
    return rows, totals(rows) | {"scores": measures(rows, judges, context)}


def answered(generated: Generated) -> dict[str, Any]:
    """An answer as it stands in a row's record."""
    return {
        "answer": text(generated.message),
        "reasoning": generated.message.reasoning,
        "tokens": generated.tokens,
        "seconds": round(generated.seconds, 3),
        "finished": generated.finished,
    }


def text(message: Message) -> str:
    """What a message says, its calls of tools as JSON lines after the words."""
    calls = [json.dumps(asdict(call), ensure_ascii=False, sort_keys=True) for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content else calls)


def judges_of(
    conversations: Sequence[Conversation], named: Sequence[str] | None, context: MetricContext, group_by: str | None
) -> dict[str, Metric]:
    """The metrics by name, the one that decides first; all proved to be able to judge these rows."""
    golds = [text(conversation.messages[-1]) for conversation in conversations if conversation.messages]
    usual = default(context, golds)
    judges = {name: load(name) for name in named or usual}
    deciding = _check(conversations, judges, context, group_by)
    if deciding is None:
        deciding = usual[0]
        judges[deciding] = load(deciding)
        _check(conversations, {deciding: judges[deciding]}, context, group_by)
    return {deciding: judges[deciding]} | judges


def _measured(metric: Metric, measure: Measure | None, conversations: Sequence[Conversation]) -> list[dict[str, Any]]:
    if measure is None:
        raise ConfigError(_("A metric that needs the model can't judge answers alone."), place="evaluation.metrics")
    return measure(metric, conversations)


def _check(
    conversations: Sequence[Conversation], judges: dict[str, Metric], context: MetricContext, group_by: str | None
) -> str | None:
    """The first metric that tells right from wrong. Raises all that would fail later: every metric judges every
    expected answer once, before minutes of work."""
    if not conversations:
        raise DataError(_("There are no rows to evaluate."))
    columns = sorted({column for conversation in conversations for column in conversation.meta})
    columns += [field for _literal, field in pieces(context.answer_template or "") if field and field not in columns]
    if group_by and group_by not in columns:
        message = _("{column} is not a column of the rows. There are: {columns}.")
        raise ConfigError(message.format(column=group_by, columns=", ".join(columns)), place="evaluation.group_by")
    problems: list[Problem] = []
    deciding: dict[str, None] = {}
    for conversation in conversations:
        last = conversation.messages[-1] if conversation.messages else Message("user")
        if last.role != "assistant" or not text(last):
            problems.append(Problem(_place(conversation), _("The row does not end with an answer to compare with.")))
            continue
        for name, judge in judges.items():
            try:
                if "correct" in _score(name, judge, text(last), text(last), context):
                    deciding[name] = None
            except ConfigError:  # the same for every row
                raise
            except TunesmithError as error:
                problems.append(Problem(_place(conversation), str(error)))
    if problems:
        raise DataError(problems)
    return next(iter(deciding), None)


def _place(conversation: Conversation) -> str:
    return str(conversation.origin or conversation.index)


def _score(name: str, judge: Metric, gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    if judge.measure:
        return {}
    try:
        score = judge(gold, answer, context)
    except TunesmithError:
        raise
    except Exception as error:  # a user's own metric may raise anything
        raise DataError(_("The metric {name} failed: {error!r}.").format(name=name, error=error)) from error
    if not isinstance(score, dict) or not score or not isinstance(score.get("correct", True), bool):
        message = _("The metric {name} must return a dict with figures in it; correct, if there, is True or False.")
        raise ConfigError(message.format(name=name), place="evaluation.metrics")
    return score


def _answers(
    prompts: Sequence[Conversation],
    respond: Respond,
    partial: Path,
    settings: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """All answers; those that an interrupted evaluation of the same rows and settings left in `partial` are reused."""
    key = _hash([settings, [[asdict(m) for m in p.messages] for p in prompts]])
    done = _kept(partial, key)
    partial.parent.mkdir(parents=True, exist_ok=True)
    whole = partial.with_name(f".{partial.name}.unfinished")  # the last line of the old one may be cut short
    whole.write_text("".join(_line(record) for record in [{"key": key}, *done]), encoding="utf-8")
    whole.replace(partial)
    with partial.open("a", encoding="utf-8") as file:
        for generated in respond(prompts, len(done)) if len(done) < len(prompts) else ():
            done.append(answered(generated))
            file.write(_line(done[-1]))
            file.flush()
            if progress:
                progress(len(done), len(prompts))
    return done


def _kept(partial: Path, key: str) -> list[dict[str, Any]]:
    if not partial.exists():
        return []
    kept = []
    for line in partial.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            kept.append(json.loads(line))
        except ValueError:
            break  # the line in which it was killed
    return kept[1:] if kept[:1] == [{"key": key}] else []


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _told(conversation: Conversation) -> list[list[str]]:
    """What a row asks and expects; under which system prompt is the model's business."""
    return [[message.role, text(message)] for message in conversation.messages if message.role != "system"]


def _ids(conversations: Sequence[Conversation]) -> list[str]:
    """The rows' own column `id` where it tells them apart, else names made of what they ask and expect: the same row
    has the same name wherever it comes from."""
    own = [conversation.meta.get("id") for conversation in conversations]
    if None not in own and len({*map(str, own)}) == len(own):
        return [str(name) for name in own]
    seen: Counter[str] = Counter()
    found = []
    for conversation in conversations:
        name = _hash(_told(conversation))[:12]
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def _row(
    conversation: Conversation,
    answer: dict[str, Any],
    judges: dict[str, Metric],
    measured: dict[str, dict[str, Any]],
    context: MetricContext,
    group_by: str | None,
) -> dict[str, Any]:
    *prompt, last = conversation.messages
    scores = {name: _score(name, judge, text(last), answer["answer"], context) for name, judge in judges.items()}
    scores |= measured
    return {
        "index": conversation.index,
        "origin": str(conversation.origin) if conversation.origin else None,
        "group": _group(conversation, group_by, context.answer_template) if group_by else None,
        "type": _type(conversation, next(iter(scores.values()))),
        "prompt": [{"role": message.role, "content": text(message)} for message in prompt],
        "gold": text(last),
        **answer,
        "parsed": _parsed(context.answer_template, text(last), answer["answer"]),
        "meta": conversation.meta,
        "correct": next(iter(scores.values()))["correct"],
        "scores": scores,
    }


def _parsed(template: str | None, gold: str, answer: str) -> dict[str, dict[str, str] | None] | None:
    """The fields of both texts, None for one that can't be read; None where no template writes the answers."""
    return {"gold": parse_answer(template, gold), "answer": parse_answer(template, answer)} if template else None


def _type(conversation: Conversation, score: dict[str, Any]) -> str | None:
    """The row's own column `type`, or else the label that was expected; None where it has neither."""
    declared = conversation.meta.get("type", score.get("expected"))
    return None if declared is None else str(declared)


def _group(conversation: Conversation, group_by: str, template: str | None) -> str:
    """The row's value of a column, or else of a field of its expected answer: the kind of sample that it is."""
    if group_by in conversation.meta or template is None:
        return str(conversation.meta.get(group_by, ""))
    return (parse_answer(template, text(conversation.messages[-1])) or {}).get(group_by, "")
