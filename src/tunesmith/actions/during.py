"""What is measured while a model trains, beyond its loss: validation rows answered and scored as `eval` does it, and
answers to the same questions at every evaluation, kept so that one sees the model learn.

Makes the evaluators that the loop calls. Knows nothing of steps that are taken or checkpoints that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import log, rundir
from tunesmith.actions.after import asked
from tunesmith.actions.base import window
from tunesmith.actions.prepare import Prepared
from tunesmith.actions.voice import Advance, Voice
from tunesmith.conversation import Conversation, Message
from tunesmith.errors import ConfigError, Problem
from tunesmith.evaluate.measures import is_figure
from tunesmith.evaluate.metrics import Metric, MetricContext
from tunesmith.evaluate.run import answered, judges_of, scored, text
from tunesmith.i18n import _
from tunesmith.train.plan import Chooser, Plan
from tunesmith.train.world import World

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.config.schema import Config

Evaluator = Callable[["nn.Module", int], dict[str, float]]

SYSTEMS = 2  # more than one: a question of one's own stands under the most frequent
SHORT = 60  # characters of a question or an answer in a line for the console
NO_ANSWER = {"reasoning": None, "tokens": 0, "seconds": 0.0, "finished": True}


@dataclass(frozen=True)
class Exam:
    """Validation rows and how answers to them are judged; and the questions whose answers are kept."""

    rows: list[Conversation]
    judges: dict[str, Metric]
    context: MetricContext
    samples: list[Conversation]

    def figures(self, answers: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Accuracy and every other figure of the metrics, by the names that `metric_for_best_model` takes."""
        if not self.rows:
            return {}
        _rows, totals = scored(self.rows, answers, self.judges, self.context)
        found = {"eval_accuracy": totals["accuracy"]}
        deciding = next(iter(self.judges))
        for metric, figures in totals["scores"].items():
            for figure, value in figures.items():
                if isinstance(value, int | float) and is_figure(figure) and (metric, figure) != (deciding, "accuracy"):
                    found[_name(metric, figure)] = value
        return found


def exam(config: Config, prepared: Prepared) -> Exam:
    """What the settings ask for. ConfigError, DataError: something can't be measured, or not what chooses the best."""
    section, training = config.evaluation, config.training
    wants = {
        "evaluation.during_training": section.during_training,
        "evaluation.samples": isinstance(section.samples, int) and section.samples,
        "training.metric_for_best_model": training.metric_for_best_model,
        "training.greater_is_better": training.greater_is_better is not None,
        "training.early_stopping_patience": training.early_stopping_patience,
    }
    if prepared.chooser is None and any(wants.values()):
        message = _("It needs validation rows. Split some off with data.validation_ratio=0.1, or name a file of them.")
        raise ConfigError([Problem(name, message) for name, wanted in wants.items() if wanted])
    count = section.samples if isinstance(section.samples, int) else 0
    known = _rows(config, prepared, max(section.during_training, count))
    rows = [known[i] for i in _spread(len(known), section.during_training)]
    context = MetricContext(config.answer_template, section.label)
    judges = judges_of(rows, section.metrics, context, None) if rows else {}
    judges = {name: judge for name, judge in judges.items() if not judge.measure}  # the loop has the model's own loss
    found = Exam(
        rows, judges, context, [known[i] for i in _spread(len(known), count)] or _own(section.samples, prepared)
    )
    _refuse_unmeasured(Chooser.of(training), found)
    return found


def evaluators(
    found: Exam, run: Path, config: Config, prepared: Prepared, voice: Voice, advance: Advance, world: World
) -> list[Evaluator]:
    """What answers, scores and keeps the answers; nothing where nothing is asked. `advance` shows how far it is."""
    asking = [*found.rows, *(sample for sample in found.samples if not any(sample is row for row in found.rows))]
    prompts = [replace(row, messages=row.messages[:-1]) if _expected(row) else row for row in asking]
    if not asking:
        return []
    plan = Plan.of(config.training, len(prepared.train), world.size)
    times = sum(plan.evaluates(step, plan.total_steps) for step in range(1, plan.total_steps + 1))
    text = _("{n} questions are answered at each of {times} evaluations; their time is not in the forecast.")
    voice.say(text.format(n=len(asking), times=times))

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        from tunesmith.generate.engine import generate

        def progress(done: int) -> None:
            said = _("answering {done}/{rows}").format(done=done * world.size, rows=len(prompts))
            advance(step - 1, plan.total_steps, said)  # the step is over when it is measured

        given: Any = model
        mine = prompts[world.rank :: world.size]  # each process answers its share, and learns what the others answered
        written = [answered(a) for a in generate(given, prepared.encoder, mine, config.generation, progress=progress)]
        by_rank = world.gathered(written)
        answers = {id(row): by_rank[i % world.size][i // world.size] for i, row in enumerate(asking)}
        if world.first:
            _keep(found.samples, [answers[id(row)] for row in found.samples], run, step, voice)
        return found.figures([answers[id(row)] for row in found.rows])

    return [evaluate]


def _rows(config: Config, prepared: Prepared, count: int) -> list[Conversation]:
    """Validation rows that can be asked: prompt and longest answer fit in what the model was made for. They are taken
    evenly from all, since rows of a kind often stand together."""
    if not count:
        return []
    limit, new = window(config.model), config.generation.max_new_tokens
    part = getattr(prepared, str(prepared.chooser))

    def fits(row: Conversation) -> bool:
        prompt = replace(row, messages=row.messages[:-1])
        return limit is None or len(prepared.encoder.context(prompt)) + new <= limit

    chosen = part.source.conversations(part.rows[_spread(len(part), count)])
    found = [*filter(fits, filter(None, map(asked, chosen)))]
    if not found:
        text = _("No validation row leaves room for an answer of generation.max_new_tokens={new} tokens.")
        raise ConfigError(text.format(new=new), place="evaluation.during_training")
    return found


def _spread(rows: int, count: int) -> list[int]:
    """So many of `rows` places, or all of them, with even gaps."""
    count = min(rows, count)
    return [round(i * (rows - 1) / max(1, count - 1)) for i in range(count)]


def _own(samples: int | list[str], prepared: Prepared) -> list[Conversation]:
    """The user's own questions, under the system prompt of the training rows."""
    if isinstance(samples, int):
        return []
    systems = prepared.train.systems(SYSTEMS)
    plain = [Conversation((Message("user", question),)) for question in samples]
    return plain if "" in systems else [question.with_system(systems[0]) for question in plain]


def _refuse_unmeasured(chooser: Chooser, found: Exam) -> None:
    """Every expected answer judged as if it were given shows which figures there will be."""
    perfect = [NO_ANSWER | {"answer": text(row.messages[-1])} for row in found.rows]
    names = ["eval_loss", "eval_perplexity", *found.figures(perfect)]
    if chooser.metric in names:
        return
    message = _("{metric} is not measured; there are {names}.")
    told = {"metric": chooser.metric, "names": ", ".join(name.removeprefix("eval_") for name in names)}
    problem = message.format(**told)
    if not found.rows:
        problem += " " + _("Others need evaluation.during_training, such as 50.")
    raise ConfigError(problem, place="training.metric_for_best_model")


def _name(metric: str, figure: str) -> str:
    """`eval_bleu`, `eval_rouge1`, `eval_json_accuracy`; a metric of one's own by its file's name."""
    metric = Path(metric).stem if metric.endswith(".py") else metric.rpartition(".")[2]
    return f"eval_{figure}" if figure.startswith(metric) else f"eval_{metric}_{figure}"


def _expected(row: Conversation) -> str | None:
    return text(row.messages[-1]) if row.messages[-1].role == "assistant" else None


def _keep(
    samples: Sequence[Conversation], answers: Sequence[dict[str, Any]], run: Path, step: int, voice: Voice
) -> None:
    """A line each in samples.jsonl and in the log; the first one is said."""
    with (run / rundir.SAMPLES).open("a", encoding="utf-8") as file:
        for place, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
            question = next((m.content for m in reversed(sample.messages) if m.role == "user"), "")
            said = _("Step {step}: “{question}” is answered with “{answer}”.")
            line = said.format(step=step, question=_short(question), answer=_short(answer["answer"]))
            (voice.say if place == 0 else log.get().info)(line)
            asked = [{"role": m.role, "content": text(m)} for m in sample.messages[: -1 if _expected(sample) else None]]
            told = {"prompt": asked, "expected": _expected(sample), "answer": answer["answer"]}
            file.write(json.dumps({"step": step, **told, "finished": answer["finished"]}, ensure_ascii=False) + "\n")


def _short(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"
