"""Evaluation: every row's prompt is answered, every answer compared with the expected one, and the whole written down.

Generation and judgement are apart: answers are kept as they come, so an evaluation that was killed goes on where it
stopped, and other metrics judge the same answers anew. Knows nothing of models: answers come from the function given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Message
from tunesmith.data.fields import parse_answer, pieces
from tunesmith.errors import ConfigError, DataError, Problem, RunError, TunesmithError
from tunesmith.evaluate.metrics import Metric, MetricContext, default, load
from tunesmith.evaluate.results import RESULTS, Report, totals
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.generate.engine import Generated

PARTIAL = "records.jsonl"

Respond = Callable[[Sequence[Conversation]], "Iterable[Generated]"]


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
) -> Report:
    """Answer, judge and write `out/evaluation_results.json`. A conversation's last message is the expected answer.

    `respond` is given the conversations without that message and yields an answer for each, in their order. The first
    metric decides what is correct. `settings` are kept with the results, and answers of an interrupted evaluation
    serve only the same settings and rows. `progress(done, rows)` is called after each answer.
    Everything that can be wrong with the rows is found before the first answer: ConfigError, DataError, RunError.
    """
    result = out / RESULTS
    if result.exists() and not overwrite:
        raise RunError(_("Results are already there. Replace them with --overwrite."), place=str(result))
    context = MetricContext(answer_template, label)
    judges = {name: load(name) for name in metrics or default(context)}
    _check(conversations, judges, context, group_by)

    prompts = [replace(conversation, messages=conversation.messages[:-1]) for conversation in conversations]
    answers = _answers(prompts, respond, out / PARTIAL, settings or {}, progress)
    rows = [
        _row(conversation, answer, judges, context, group_by)
        for conversation, answer in zip(conversations, answers, strict=True)
    ]
    report = Report(rows, totals(rows), {"metrics": list(judges), "group_by": group_by, **(settings or {})})
    report.write(result)
    (out / PARTIAL).unlink()
    return report


def text(message: Message) -> str:
    """What a message says, its calls of tools as JSON lines after the words."""
    calls = [json.dumps(asdict(call), ensure_ascii=False, sort_keys=True) for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content else calls)


def _check(
    conversations: Sequence[Conversation], judges: dict[str, Metric], context: MetricContext, group_by: str | None
) -> None:
    """Raise all that would fail later: every metric judges every expected answer once, before minutes of work."""
    if not conversations:
        raise DataError(_("There are no rows to evaluate."))
    columns = sorted({column for conversation in conversations for column in conversation.meta})
    columns += [field for _literal, field in pieces(context.answer_template or "") if field and field not in columns]
    if group_by and group_by not in columns:
        message = _("{column} is not a column of the rows. There are: {columns}.")
        raise ConfigError(message.format(column=group_by, columns=", ".join(columns)), place="evaluation.group_by")
    problems: list[Problem] = []
    for conversation in conversations:
        last = conversation.messages[-1] if conversation.messages else Message("user")
        if last.role != "assistant" or not text(last):
            problems.append(Problem(_place(conversation), _("The row does not end with an answer to compare with.")))
            continue
        for name, judge in judges.items():
            try:
                _score(name, judge, text(last), text(last), context)
            except ConfigError:  # the same for every row
                raise
            except TunesmithError as error:
                problems.append(Problem(_place(conversation), str(error)))
    if problems:
        raise DataError(problems)


def _place(conversation: Conversation) -> str:
    return str(conversation.origin or conversation.index)


def _score(name: str, judge: Metric, gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    try:
        score = judge(gold, answer, context)
    except TunesmithError:
        raise
    except Exception as error:  # a user's own metric may raise anything
        raise DataError(_("The metric {name} failed: {error!r}.").format(name=name, error=error)) from error
    if not isinstance(score, dict) or not isinstance(score.get("correct"), bool):
        message = _("The metric {name} must return a dict in which correct is True or False.")
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
    identity = json.dumps([settings, [[asdict(m) for m in p.messages] for p in prompts]], sort_keys=True, default=str)
    key = hashlib.sha256(identity.encode()).hexdigest()
    done = _kept(partial, key)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as file:
        for line in [{"key": key}, *done]:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        for generated in respond(prompts[len(done) :]) if len(done) < len(prompts) else ():
            done.append(
                {
                    "answer": text(generated.message),
                    "reasoning": generated.message.reasoning,
                    "tokens": generated.tokens,
                    "seconds": round(generated.seconds, 3),
                    "finished": generated.finished,
                }
            )
            file.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
            file.flush()
            if progress:
                progress(len(done), len(prompts))
    return done


def _kept(partial: Path, key: str) -> list[dict[str, Any]]:
    if not partial.exists():
        return []
    kept = []
    for line in partial.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            kept.append(json.loads(line))
        except ValueError:
            break  # the line in which it was killed
    return kept[1:] if kept[:1] == [{"key": key}] else []


def _row(
    conversation: Conversation,
    answer: dict[str, Any],
    judges: dict[str, Metric],
    context: MetricContext,
    group_by: str | None,
) -> dict[str, Any]:
    *prompt, last = conversation.messages
    scores = {name: _score(name, judge, text(last), answer["answer"], context) for name, judge in judges.items()}
    return {
        "index": conversation.index,
        "id": conversation.meta.get("id"),
        "origin": str(conversation.origin) if conversation.origin else None,
        "group": _group(conversation, group_by, context.answer_template) if group_by else None,
        "prompt": [{"role": message.role, "content": text(message)} for message in prompt],
        "gold": text(last),
        **answer,
        "correct": next(iter(scores.values()))["correct"],
        "scores": scores,
    }


def _group(conversation: Conversation, group_by: str, template: str | None) -> str:
    """The row's value of a column, or else of a field of its expected answer: the kind of sample that it is."""
    if group_by in conversation.meta or template is None:
        return str(conversation.meta.get(group_by, ""))
    return (parse_answer(template, text(conversation.messages[-1])) or {}).get(group_by, "")
