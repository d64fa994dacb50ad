"""Tables for a paper: LaTeX with the rules of the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fsam_cli.errors import in_a_line
from fsam_cli.reports.text_table import TextTable

_NUMBER = re.compile(r"[+-]?[\d.,]+(±[\d.,]+)?")
_INTERVAL = re.compile(r"([+-][\d.,]+) to ([+-][\d.,]+)")
_ESCAPED = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"${character}$" for character in "<>"},  # else ¡ and ¿
        "±": r"$\pm$",
        "λ": r"$\lambda$",
        "τ": r"$\tau$",
    }
)
_TOGETHER = (("$>$=", r"$\ge$"), ("$<$=", r"$\le$"), (r"$\lambda$max", r"$\lambda_{\max}$"))


def latex(tables: Sequence[TextTable], notes: Iterable[str]) -> str:
    """A tabular for each table, what is starred in bold; titles and notes are comments."""
    comments = [f"% {in_a_line(note)}" for note in notes]
    return "\n".join(["% \\usepackage{booktabs}", *map(_tabular, tables), *comments]) + "\n"


def _tabular(table: TextTable) -> str:
    columns = "".join("l" if table.has_words(each) else "r" for each in table.headings)
    head = _line(_escaped(each) for each in table.headings)
    body = [
        _line(
            _escaped(row[each]) if table.has_words(each) else _number(row[each])
            for each in table.headings
        )
        for row in table.rows
    ]
    rules = [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    title = f"% {in_a_line(table.title)}"
    return "\n".join([title, rf"\begin{{tabular}}{{{columns}}}", *rules, r"\end{tabular}"])


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _number(text: str) -> str:
    """A mean with its spread, or whatever stands in its place."""
    if ends := _INTERVAL.fullmatch(text):
        return " to ".join(f"${end}$" for end in ends.groups())
    plain = text.removesuffix("*")
    if not _NUMBER.fullmatch(plain):
        return _escaped(text)
    inner = plain.replace(",", "{,}").replace("±", r" \pm ")
    return f"$\\mathbf{{{inner}}}$" if text.endswith("*") else f"${inner}$"


def _escaped(text: str) -> str:
    escaped = in_a_line(text).translate(_ESCAPED)
    for apart, together in _TOGETHER:
        escaped = escaped.replace(apart, together)
    return escaped
