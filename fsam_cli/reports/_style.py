"""How every picture of fsam looks: one colour, line and marker per method, everywhere.

Colours are Okabe and Ito's, then Paul Tol's muted ones, which colour-blind readers tell apart;
lines and markers differ as well, so that a grey print can be read. Pictures are drawn without a
display and written whole.
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fsam_cli.errors import UsageError
from fsam_cli.records.store import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


K = TypeVar("K")


class Style(NamedTuple):
    """What tells a method from the others, in colour and without."""

    color: str
    linestyle: str | tuple[int, tuple[int, ...]]
    marker: str


METHOD_STYLES = {
    "sgd": Style("#000000", "-", "o"),
    "sam": Style("#0072B2", "--", "s"),
    "asam": Style("#E69F00", "-.", "^"),
    "fsam": Style("#D55E00", "-", "D"),
    "sam_matched": Style("#009E73", ":", "v"),
    "sam_on": Style("#CC79A7", (0, (5, 1)), "P"),
    "late_sam": Style("#56B4E9", (0, (3, 1, 1, 1)), "X"),
    "look_sam": Style("#661100", (0, (3, 1, 1, 1)), "<"),
    "msam": Style("#999999", (0, (5, 5)), ">"),
    "gsam": Style("#8C510A", "-.", "<"),
    "friendly_sam": Style("#332288", "--", "^"),
    "usam": Style("#882255", ":", "D"),
}
_OTHERS = (
    Style("#117733", (0, (5, 1)), "s"),
    Style("#AA4499", (0, (3, 1, 1, 1)), "v"),
    Style("#B8860B", (0, (1, 1)), "P"),
    Style("#44AA99", (0, (5, 5)), "X"),
)
FIGURES = "choose a writable folder with --figures"
LONGEST_NAME = 100  # characters of a file's name, its kind included
_LONGEST_KIND = len(".png")
_LONGEST_ENDING = len("-gradient-train-filter-recalibrated")
_DIGITS = 8  # of the hash that keeps shortened names apart
_TITLE, _CAPTION = 12.7, 17.7  # characters an inch
_DPI = 150  # of a PNG
_LEGEND_LINE, _AROUND_LEGEND = 0.18, 1.5  # inches
OVER_SEEDS = "line: mean over seeds, band: lowest to highest seed"
_VARIANT_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX<>"


def style_of(method: str) -> Style:
    """The style of a method; one unknown here gets its by its name, the same in every picture."""
    return METHOD_STYLES.get(method, _OTHERS[sum(method.encode()) % len(_OTHERS)])


def styles_of(methods: Mapping[K, str]) -> dict[K, Style]:
    """A style for whatever is drawn, by the name of its method; none is there twice.

    Where a method has several, they share its colour, and the first of each method is solid, the
    second dashed: what methods have in common, a radius mostly, looks alike.
    """
    of_style = Counter(map(style_of, methods.values()))  # two unknown methods may share one
    seen: Counter[Style] = Counter()
    styles = {}
    for key, method in methods.items():
        own = style_of(method)
        styles[key] = own if of_style[own] == 1 else _variant(own, seen[own])
        seen[own] += 1
    return styles


def _variant(own: Style, position: int) -> Style:
    line = _VARIANT_LINES[position % len(_VARIANT_LINES)]
    marker = _MARKERS[(_MARKERS.index(own.marker) + position) % len(_MARKERS)]
    return Style(own.color, line, marker)


def require_matplotlib() -> None:
    """Say before anything is trained or measured that there will be no pictures.

    Raises:
        UsageError: matplotlib is not installed.
    """
    new_figure(1, 1)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, without any window.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "pictures need matplotlib; install it with: pip install 'fsam-cli[figures]'"
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def file_name(text: str, ending: str = "") -> str:
    """The one way from whatever a picture is called to the name of its file, without its kind.

    No name leaves its folder, hides, or is longer than `LONGEST_NAME` with its kind. Where
    characters are lost that tell names apart, digits of a hash of the whole name are added.

    Args:
        text: what is shown, `recipe-row` for instance.
        ending: which picture of it this is. It is kept whole, and changes nothing before it.
    """
    plain = re.sub(r"[^A-Za-z0-9._=-]", "_", text) or "_"
    plain = re.sub(r"^[.-]", "_", plain)
    room = LONGEST_NAME - _LONGEST_KIND - (_LONGEST_ENDING if ending else 0)
    # Rows are named `label_noise.rate=0.4, model.norm=group [sgd-2x: 40]`: those stay apart.
    apart = re.fullmatch(r"[A-Za-z0-9_=][A-Za-z0-9._=\-, ;:\[\]]*", text)
    if len(plain) > room or not apart:
        digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:_DIGITS]
        plain = f"{plain[: room - _DIGITS - 1]}-{digest}"
    return plain + ending


def _wrapped(text: str, width: int, lines: int) -> str:
    """At most so many lines of so many characters; what is left out ends in …"""
    return textwrap.fill(text, width, max_lines=lines, placeholder=" …", break_on_hyphens=False)


def shortened(text: str, width: int) -> str:
    """Both ends of a name too long for a legend, as labels often differ in either."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[head + 1 - width :]}"


def line_and_band(
    axes: Axes, at: Any, mean: Any, low: Any, high: Any, style: Style, **line: Any
) -> None:
    """What `OVER_SEEDS` says; `line` has its label, and where its markers stand."""
    axes.fill_between(at, low, high, color=style.color, alpha=0.12, linewidth=0)
    axes.plot(at, mean, **style._asdict(), markersize=4.5, linewidth=1.6, **line)


def dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Names of both axes, and a grid instead of a frame."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_ticks(axis: Axis) -> None:
    """Plain numbers along a logarithmic axis, 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def not_drawn(reasons: Mapping[str, str]) -> str:
    """The end of a caption: which methods are not drawn, and why."""
    told = [f"{name}: {why}" for name, why in reasons.items()]
    return f"; not drawn: {'; '.join(told)}" if told else ""


def title_and_caption(figure: Figure, title: str, caption: str) -> None:
    """What stands around the axes, once they are drawn: a title of up to three lines and a caption
    of up to four, both as wide as the picture, and the legend beside."""
    width = float(figure.get_figwidth())
    above = _wrapped(title, int(width * _TITLE), 3)
    below = _wrapped(caption, int(width * _CAPTION), 4)
    figure.suptitle(above, fontsize=10, x=0.01, ha="left", parse_math=False)
    figure.supxlabel(below, fontsize=7, color="#444444", parse_math=False)
    _name_lines(figure)


def _name_lines(figure: Figure) -> None:
    """The legend, right of the axes: beside neither the title nor the caption, which are wide."""
    labels = [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    if not labels:
        return
    lines = sum(label.count("\n") + 1 for label in labels)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, max(height, _AROUND_LEGEND + lines * _LEGEND_LINE))
    legend = figure.legend(loc="outside right center", fontsize=8, frameon=False, handlelength=3.2)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a setting may hold a $


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a PNG and an SVG, named by `file_name`, the same bytes for the same data.

    Raises:
        RecordError: the folder cannot be written.
    """
    import matplotlib

    make_folder(folder, FIGURES)
    _lay_out(figure)
    name, written = file_name(name), []
    metadata: dict[str, Any]
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "fsam", "svg.fonttype": "none"}):
            figure.savefig(content, format=ending, dpi=_DPI, metadata=metadata)
        path = folder / f"{name}.{ending}"
        write_atomically(path, content.getvalue(), elsewhere=FIGURES)
        written.append(path)
    return written


def _lay_out(figure: Figure) -> None:
    """Once, and to round numbers: the solver's last bits differ from time to time, and matplotlib
    names parts of an SVG by them."""
    figure.set_dpi(_DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position(original=True).bounds
        axes.set_position((round(left, 6), round(bottom, 6), round(width, 6), round(height, 6)))
