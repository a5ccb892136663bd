"""Questions to a model before and after training: is it whole, how does it write a dialogue, on what is it compared.

Knows nothing of runs; what a RUN means is opening's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import rundir
from tunesmith.conversation import Conversation, Message
from tunesmith.errors import ModelError, TemplateError, TunesmithError
from tunesmith.i18n import _
from tunesmith.model.folder import locate
from tunesmith.model.weights import named_base, read_origin
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.preview import probe

if TYPE_CHECKING:
    from tunesmith.actions.opening import Opened
    from tunesmith.model.check import Report
    from tunesmith.rundir import Target

# What a merged model is compared on, beside rows of the run's own data: languages, code, and how an answer begins.
QUESTIONS = ("Hello", "请用一句话介绍你自己。", "def fibonacci(n):")
OWN = 3  # rows of the run's own data


def proof_rows(opened: Opened) -> list[list[int]]:
    """Token ids to compare models on: rows of the run's own data with their answers, where these are at hand, and a
    few questions as chat would put them."""
    encoder, section = opened.encoder, opened.config.data
    rows = []
    data = section.test or section.validation or section.train
    if data is not None:
        from tunesmith.data import dataset

        try:
            for conversation in dataset.load(data, section).conversations[:OWN]:
                rows += [a.context_ids + a.answer_ids for a in encoder.encode(conversation).answers[:1]]
        except TunesmithError:
            rows = []  # the data moved or changed since training; the questions below are enough for a proof
    return rows + [encoder.context(Conversation((Message("user", text),))) for text in QUESTIONS]


def origin_note(target: Target) -> str | None:
    """What the user must know of an adapter that stores no fingerprint of its base."""
    if target.adapter is None or read_origin(target.adapter) is not None:
        return None
    recorded = named_base(target.adapter)
    if recorded is None or Path(recorded).name == Path(target.base).name:
        return _("The adapter stores no fingerprint of its base: the name fits, and shapes are compared when it loads.")
    text = _(
        "The adapter stores no fingerprint of its base, and names {recorded}, not {given}: only shapes are compared."
    )
    return text.format(recorded=recorded, given=target.base)


@dataclass(frozen=True, slots=True)
class Checked:
    """What `model check` found; `template` is where the chat template came from, `rendered` a dialogue in it."""

    report: Report
    template: str = ""
    rendered: str = ""


def check_model(name: str, *, deep: bool = False) -> Checked:
    """A model folder, an adapter, a GGUF file or a hub's model, looked through; raises nothing but for its name."""
    from tunesmith.config.schema import TemplateSection
    from tunesmith.model.check import check_model as check

    place = Path(name).expanduser()
    folder = place if place.exists() or not rundir.is_hub_id(name) else locate(name)
    report = check(folder, deep=deep)
    if report.problems or not folder.is_dir() or not (folder / "tokenizer.json").is_file():
        return Checked(report)
    try:
        encoder = Encoder.load(folder, TemplateSection())
        return Checked(report, encoder.template.source, probe(encoder))
    except TemplateError as error:  # another one can be set
        report.notes += [problem.message for problem in error.problems]
        return Checked(report)
    except ModelError as error:
        report.problems += [str(problem) for problem in error.problems]
        return Checked(report)
