"""How every picture of fsam looks: one colour, line and marker per method, everywhere.

Colours are Okabe and Ito's, which colour-blind readers tell apart; lines and markers differ as
well, so that a grey print can be read. Pictures are drawn without a display and written whole.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fsam_cli.errors import UsageError
from fsam_cli.records.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
}
_OTHERS = (
    Style("#CC79A7", (0, (5, 1)), "P"),
    Style("#56B4E9", (0, (3, 1, 1, 1)), "X"),
    Style("#F0E442", (0, (1, 1)), "<"),
    Style("#999999", (0, (5, 5)), ">"),
)
_VARIANT_LINES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", "--", "-.", ":")


def style_of(method: str, position: int = 0) -> Style:
    """The style of a method's `position`-th label (0 for the first).

    Labels of one method share its colour and differ in line and marker; a method
    unknown here gets a colour by its name, the same in every picture.
    """
    if method in METHOD_STYLES:
        style = METHOD_STYLES[method]
    else:
        style = _OTHERS[sum(method.encode()) % len(_OTHERS)]
    if position == 0:
        return style
    markers = "osD^vPX<>"
    lines = [line for line in _VARIANT_LINES if line != style.linestyle]
    return Style(
        style.color,
        lines[(position - 1) % len(lines)],
        markers[(markers.index(style.marker) + position) % len(markers)],
    )


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


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.png (150 dots per inch) and `name`.svg, the same bytes for the same data.

    Raises:
        RecordError: the folder cannot be written.
    """
    import matplotlib

    from fsam_cli.records.store import cannot_write

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    written = []
    metadata: dict[str, Any]
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "fsam", "svg.fonttype": "none"}):
            figure.savefig(content, format=ending, dpi=150, metadata=metadata)
        path = folder / f"{name}.{ending}"
        write_atomically(path, content.getvalue())
        written.append(path)
    return written
