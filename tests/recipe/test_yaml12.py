"""YAML without PyYAML's traps."""

from __future__ import annotations

import pytest
import yaml

from fsam_cli.recipe.yaml12 import dump, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E-4", 0.0005),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2", -2),
        ("0x1f", 31),
        ("007", "007"),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("0:5", "0:5"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("null", None),
        ("", None),
        ("1_000", "1_000"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("'1e-3'", "1e-3"),
    ],
)
def test_scalars_are_read_as_people_mean_them(text, value):
    parsed = parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_repeated_key_is_an_error_with_its_line():
    with pytest.raises(ValueError, match=r"line 3, column 1: the key 'a' stands here twice"):
        parse("a: 1\nb: 2\na: 3\n")


def test_broken_yaml_says_where():
    with pytest.raises(ValueError, match="line 3"):
        parse("a: [1,\nb: 2\n")


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system"]
)
def test_code_never_comes_out_of_yaml(text):
    with pytest.raises(ValueError, match="could not determine a constructor"):
        parse(text)


@pytest.mark.parametrize("opening", ["[", "- ", "{a: ", "? ", "[{a: "])
def test_nesting_without_end_is_an_error_with_its_place(opening):
    with pytest.raises(ValueError, match=r"^line 1, column \d+: nested over 50 levels deep"):
        parse(opening * 100_000)


def test_fifty_levels_are_read_and_one_more_is_not():
    levels, value = 0, parse("[" * 49 + "5" + "]" * 49)
    while isinstance(value, list):
        levels, [value] = levels + 1, value
    assert (levels, value) == (49, 5)  # the 5 is the fiftieth
    siblings = parse("[" + "[[]]," * 1000 + "]")
    assert siblings == [[[]]] * 1000  # breadth is no depth
    with pytest.raises(ValueError, match="over 50 levels deep"):
        parse("[" * 50 + "5" + "]" * 50)


def test_aliases_are_read_unless_they_stand_for_gigabytes_or_themselves():
    assert parse("a: &a {x: 1}\nb: *a\nc: [*a, *a]") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": [{"x": 1}, {"x": 1}],
    }
    laughs = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ValueError, match="line 6, column 5: aliases stand for"):
        parse("\n".join(["a0: &a0 [ha]", *laughs]))
    with pytest.raises(ValueError, match="aliases stand for"):
        parse("a: &a [1, *a]")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("!!bool maybe", "bool"),
        ("!!float x", "float"),
        ("!!timestamp x", "timestamp"),
        ("9" * 5000, "int"),
    ],
)
def test_a_value_that_its_tag_does_not_fit_says_where(text, kind):
    with pytest.raises(ValueError, match=f"^line 2, column 4: this cannot be read as {kind}$"):
        parse(f"a: 1\nb: {text}\n")


TEXTS = (
    *("1e-3", "1e3", "1e5", "-1E+3", "no", "off", "0o17", "0x1f", "017", "1_000", "~", "null", ""),
    *("1:30", "0:5", "true", "Yes", "2024-01-01", ".5", "1.", "=", "<<", "a: b", "# a", " a ", "ü"),
    *("a\nb", "a\n", "- a", "[a]", "{a}", "*a", "&a", "!a", "%a", "@a", "'", '"', "\u2028", "\0"),
)


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_dumped_as_text_for_readers_of_either_version(text):
    value = {"description": text, text: [text]}
    assert parse(dump(value)) == value
    assert yaml.safe_load(dump(value)) == value


@pytest.mark.parametrize("number", [1e-5, 5e-4, 1e16, 1e300, -0.0, 0.1 + 0.2, 7, -3, 10**30])
def test_numbers_are_dumped_as_the_same_numbers(number):
    read = parse(dump({"a": number}))["a"]
    assert (read, type(read), str(read)) == (number, type(number), str(number))


def test_keys_are_dumped_in_their_order_and_plain_values_stay_plain():
    assert dump({"b": True, "a": None, "c": ["sgd", 1]}) == "b: true\na: null\nc:\n- sgd\n- 1\n"
