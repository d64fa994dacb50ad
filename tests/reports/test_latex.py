"""Tables for a paper."""

from __future__ import annotations

from fsam_cli.reports.latex import latex
from fsam_cli.reports.text_table import TextTable


def test_a_table_is_a_tabular_with_marks_in_bold_and_no_character_left_to_break_it():
    rows = [
        {"method": "sgd_2x & {co} #1", "n": "3", "test %": "68.64±2.36*", "gradients": "51,920"},
        {"method": "sam", "n": "", "test %": "diverged", "gradients": ""},
    ]
    text = latex([TextTable("noise_40 %", rows)], ["first\nnote ±"])
    assert text.splitlines() == [
        r"% \usepackage{booktabs}",
        "% noise_40 %",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"method & n & test \% & gradients \\",
        r"\midrule",
        r"sgd\_2x \& \{co\} \#1 & $3$ & $\mathbf{68.64 \pm 2.36}$ & $51{,}920$ \\",
        r"sam &  & diverged &  \\",
        r"\bottomrule",
        r"\end{tabular}",
        "% first note ±",
    ]


def test_greek_letters_are_no_characters_that_latex_does_not_know():
    text = latex([TextTable("", [{"λmax": "λ", "Kendall's τ": "+0.33"}])], [])
    assert r"$\lambda_{\max}$ & Kendall's $\tau$ \\" in text
    assert r"$\lambda$ & $+0.33$ \\" in text


def test_a_difference_keeps_its_sign_and_its_interval():
    row = {"method": "sam", "diff.": "-0.42", "95 % interval": "-1.50 to +0.66"}
    assert r"sam & $-0.42$ & $-1.50$ to $+0.66$ \\" in latex([TextTable("", [row])], [])


def test_less_and_more_are_mathematics_since_old_fonts_have_other_signs_in_their_place():
    table = TextTable("", [{"gate": "sam > sgd", "p": "<0.001"}], ["gate"])
    assert r"sam $>$ sgd & $<$0.001 \\" in latex([table], [])
    whole = TextTable("", [{"gate": "sam >= 90"}, {"gate": "sgd <= 80"}])
    assert "sam $\\ge$ 90" in latex([whole], [])
    assert "sgd $\\le$ 80" in latex([whole], [])
