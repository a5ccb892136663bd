"""Pictures: accuracy by group, the course of the loss. PNG files, drawn without a screen.

Knows results and metrics as they are written, and nothing of how they came about. matplotlib is loaded by the first
picture, not with this file.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.evaluate.results import Report, percent
from tunesmith.i18n import _
from tunesmith.log import escape as visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, LIGHT = "#1f2933", "#7b8794", "#d9dee4"
BLUE, PALE_BLUE, ORANGE = "#5a93d6", "#c9dcf2", "#e07a1f"
LONGEST = 44  # letters of a name, a Chinese character counted as two
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Arial Unicode MS",
)  # fmt: skip


def subtype_accuracy(report: Report, path: Path) -> Path:
    """One bar for each group, the best on top, with its 95 % interval and its rows. Returns `path`."""
    groups = sorted(_groups(report).items(), key=lambda item: (item[1]["accuracy"], item[1]["n"]))
    names = labels([name for name, _group in groups])
    title = _("{share} of the answers are right ({correct} of {n} rows)").format(
        share=percent(report.accuracy), correct=report.totals["correct"], n=report.totals["n"]
    )
    with figure(path, 7.5, 1.6 + 0.34 * len(groups), [title, *names]) as (_fig, axes):
        for y, (_name, group) in enumerate(groups):
            bar(axes, y, group, BLUE, 0.62)
        axes.axvline(report.accuracy, color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=0)
        by_group(axes, names, title)
        axes.set_xlabel(_("Share of right answers in each group, with its 95 % interval; dashed: all rows"))
    return path


def loss_curve(metrics: Sequence[dict[str, Any]], path: Path) -> Path:
    """Training loss (light: each record, strong: smoothed), evaluation loss with its lowest point, learning rate.

    `metrics` are the records of metrics.jsonl: `step` and, where measured, `loss`, `eval_loss`, `learning_rate`.
    """
    train, evaluated, rate = (_series(metrics, key) for key in ("loss", "eval_loss", "learning_rate"))
    title = _("Loss over {steps} steps").format(steps=max((record["step"] for record in metrics), default=0))
    if evaluated:
        best = min(evaluated, key=lambda point: point[1])
        title = _("The evaluation loss is lowest at step {step}: {loss:.4g}").format(step=best[0], loss=best[1])
    with figure(path, 7.5, 4.2, [title]) as (_fig, axes):
        if rate:
            _rate_axis(axes, rate)
        if train:
            steps, losses = zip(*train, strict=True)
            few = _smooth(losses) == list(losses)  # then there is nothing to smooth
            axes.plot(steps, losses, color=BLUE if few else PALE_BLUE, lw=1.5, label=_("training, each record"))
            if not few:
                axes.plot(steps, _smooth(losses), color=BLUE, lw=2, label=_("training, smoothed"))
        if evaluated:
            axes.plot(*zip(*evaluated, strict=True), color=ORANGE, lw=1.2, marker="o", ms=4.5, label=_("evaluation"))
            axes.plot(*best, marker="o", ms=11, mfc="none", mec=ORANGE, mew=1.6, ls="", label=_("best"))
        axes.set(xlabel=_("step"), ylabel=_("loss"))
        axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", pad=14)
        axes.grid(axis="y", color=LIGHT, lw=0.6)
        if train or evaluated:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, frameon=False)  # never on a curve
    return path


def _groups(report: Report) -> dict[str, dict[str, Any]]:
    return report.totals["groups"] or {_("all rows"): report.totals}


def labels(names: Sequence[str]) -> list[str]:
    """Names as a picture has room for them: in one line, the end of a long one left out, and what no font has by its
    number."""
    known = _characters(any(map(is_wide, names)))
    told = ["".join(c if ord(c) in known else f"U+{ord(c):X}" for c in visible(name)) for name in names]
    return [_shortened(name) or _("(none)") for name in told]


def _shortened(name: str) -> str:
    used = 0
    for i, character in enumerate(name):
        used += 1 + is_wide(character)
        if used > LONGEST:
            return name[:i] + "…"
    return name


def bar(axes: Axes, y: float, group: dict[str, Any], colour: str, height: float) -> None:
    low, high = group["interval"]
    share = group["accuracy"]
    axes.barh(y, share, height, color=colour)
    axes.plot([low, high], [y, y], color="white", lw=2.2, alpha=0.55, solid_capstyle="butt")  # seen on dark bars too
    axes.plot([low, high], [y, y], color=INK, lw=1, alpha=0.65, solid_capstyle="butt")
    text = f"{percent(share)}  ({group['correct']}/{group['n']})"
    axes.text(1.02, y, text, va="center", fontsize=8.5, color=INK, transform=axes.get_yaxis_transform())


def by_group(axes: Axes, names: Sequence[str], title: str) -> None:
    axes.set(xlim=(0, 1), ylim=(-0.6, len(names) - 0.4), yticks=range(len(names)))
    axes.set_yticklabels(names)
    axes.xaxis.set_major_formatter(lambda share, _position: percent(share))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=LIGHT, lw=0.6)
    axes.set_title(title, loc="left", pad=12)


def _rate_axis(axes: Axes, rate: Sequence[tuple[int, float]]) -> None:
    second = axes.twinx()
    second.plot(*zip(*rate, strict=True), color=GREY, lw=0.8, ls=(0, (4, 3)))
    second.set_ylabel(_("learning rate (dashed)"), color=GREY)
    second.set_ylim(bottom=0)
    second.tick_params(colors=GREY, length=0)
    second.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


def _series(metrics: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    values = [(record["step"], record.get(key)) for record in metrics]
    return [(step, value) for step, value in values if value is not None and math.isfinite(value)]


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred means over about a tenth of the values, narrower at the ends, so that the line does not lag."""
    reach = len(values) // 20
    means = []
    for i in range(len(values)):
        near = min(reach, i, len(values) - 1 - i)
        window = values[i - near : i + near + 1]
        means.append(sum(window) / len(window))
    return means


@contextmanager
def figure(path: Path, width: float, height: float, texts: Sequence[str]) -> Iterator[tuple[Figure, Axes]]:
    """A figure in the house's style, saved when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fonts = _fonts(any(map(is_wide, texts)))
    style: dict[Any, Any] = {
        "font.family": fonts,
        "axes.titleweight": "normal" if len(fonts) > 1 else "bold",  # the Chinese fonts have one weight
        "text.parse_math": False,  # $ is a dollar
        "font.size": 9.5, "axes.titlesize": 11.5, "text.color": INK, "axes.labelcolor": GREY,
        "axes.edgecolor": LIGHT, "xtick.color": GREY, "ytick.color": INK, "xtick.major.size": 0,
        "ytick.major.size": 0,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.unicode_minus": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), dpi=150)
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight", facecolor="white")


def is_wide(text: str) -> bool:
    return any(unicodedata.east_asian_width(character) in "WF" for character in text)


@cache
def _characters(wide: bool) -> frozenset[int]:
    """The characters that the fonts have."""
    from matplotlib import font_manager

    paths = [font_manager.findfont(name) for name in _fonts(wide)]
    return frozenset(number for path in paths for number in font_manager.get_font(path).get_charmap())


@cache
def _fonts(wide: bool) -> list[str]:
    """Fonts in the order of their use. Chinese takes the system's or the package's; said once if there is none."""
    from matplotlib import font_manager

    if not wide:
        return ["DejaVu Sans"]
    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = [name for name in CJK_FONTS if name in installed]
    if not found:
        try:
            from pylopdf_fonts_zh_cn import sans_path
        except ImportError:
            warnings.warn(_("No font with Chinese characters was found; pictures show boxes instead."), stacklevel=2)
            return ["DejaVu Sans"]
        font_manager.fontManager.addfont(str(sans_path()))
        found = [font_manager.FontProperties(fname=str(sans_path())).get_name()]
    return ["DejaVu Sans", *found[:1]]
