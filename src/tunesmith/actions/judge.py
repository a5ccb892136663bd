"""`compare --judge`: another model's word on two results, through a server; its replies stay in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import rundir
from tunesmith.actions.voice import Voice
from tunesmith.endpoint import Endpoint, NoReply
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.evaluate.compare import Comparison
    from tunesmith.evaluate.judge import Judgement, Messages
    from tunesmith.evaluate.kept import Kept

REPLIES, JUDGE = "judge.jsonl", "judge.json"
TRIES = 4


def judge(comparisons: Sequence[Comparison], server: Endpoint, folder: Path, voice: Voice) -> list[str]:
    """Judges every comparison, writes judge.json and says what came out. A judging that broke off goes on.

    Raises DataError where the server does not answer or refuses; the replies until then are kept.
    """
    from tunesmith.evaluate.kept import Kept

    kept = Kept(folder / REPLIES)
    said: list[str] = []
    records = []
    for found in comparisons:
        names = [found.first.name, found.second.name]
        judged = _judged(found, server, kept, voice)
        said += judged.lines(names)
        records.append(judged.record(names))
    rundir.write_json(folder / JUDGE, {"version": 1, "judgements": records})
    return said


def _judged(found: Comparison, server: Endpoint, kept: Kept, voice: Voice) -> Judgement:
    from tunesmith.evaluate.judge import judge as judge_pairs

    def ask(messages: Messages) -> str:
        try:
            return server.ask(messages, tries=TRIES, temperature=0.0)
        except NoReply as error:
            raise server.gone(str(error)) from error

    with voice.progress(_("Judging")) as advance:
        return judge_pairs(found.pairs, server.model, ask, kept, lambda done, total: advance(done, total, ""))
