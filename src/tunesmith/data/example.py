"""Rows to begin with: small true conversations about times, sums and measures, as many as wanted, in either language.

They show a format and let a first training run; they are no data set. Knows conversations, no formats and no files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tunesmith.conversation import Conversation, Message

Turn = tuple[str, str, str]  # question, thought, answer
Topic = Callable[[random.Random, bool], Turn]


def _sum(draw: random.Random, chinese: bool) -> Turn:
    a, b = draw.randrange(11, 90), draw.randrange(11, 90)
    if chinese:
        return f"{a} 加 {b} 等于多少？", f"{a} + {b} = {a + b}。", f"{a} 加 {b} 等于 {a + b}。"
    return f"What is {a} plus {b}?", f"{a} + {b} = {a + b}.", f"{a} plus {b} is {a + b}."


def _days(draw: random.Random, chinese: bool) -> Turn:
    names = ("一", "二", "三", "四", "五", "六", "日")
    english = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    day, later = draw.randrange(7), draw.randrange(2, 30)
    then, rest = (day + later) % 7, later % 7
    if chinese:
        thought = f"{later} 天除以 7 余 {rest}。"
        return f"今天星期{names[day]}，{later} 天后是星期几？", thought, f"{later} 天后是星期{names[then]}。"
    thought = f"{later} days leave {rest} after whole weeks."
    return (
        f"Today is {english[day]}. Which day is it in {later} days?",
        thought,
        f"In {later} days it is {english[then]}.",
    )


def _minutes(draw: random.Random, chinese: bool) -> Turn:
    minutes = draw.randrange(65, 600)
    hours, rest = divmod(minutes, 60)
    if chinese:
        return (
            f"{minutes} 分钟是几小时几分钟？",
            f"{hours} × 60 = {hours * 60}，余 {rest}。",
            f"{hours} 小时 {rest} 分钟。",
        )
    thought = f"{hours} × 60 = {hours * 60}, which leaves {rest}."
    return f"How many hours and minutes are {minutes} minutes?", thought, f"{hours} hours and {rest} minutes."


TOPICS: dict[str, Topic] = {"sums": _sum, "days": _days, "minutes": _minutes}


def examples(number: int, *, turns: int, thinking: bool, chinese: bool, seed: int) -> Iterator[Conversation]:
    """`number` conversations of up to `turns` questions, no two alike while there are enough; the column `subtype`
    says the topic of the first."""
    draw = random.Random(seed)
    system = "你是一个有用的AI助手。" if chinese else "You are a helpful assistant."
    for index in range(number):
        kinds = [list(TOPICS)[index % len(TOPICS)], *draw.choices(list(TOPICS), k=(index % turns))]
        messages = [Message("system", system)]
        for kind in kinds:
            asked, thought, answered = TOPICS[kind](draw, chinese)
            messages += [Message("user", asked), Message("assistant", answered, thought if thinking else None)]
        yield Conversation(tuple(messages), meta={"subtype": kinds[0]}, index=index)
