"""Files that are no plugins: each answer says where, what, and what instead."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from fsam_cli.datasets.digits import Digits
from fsam_cli.engine.run import execute
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import RecipeError, UsageError
from fsam_cli.parts import PartError
from fsam_cli.plugins import BASES, blaming, raised_in, read_plugin
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.recipe.schema import Data, Method, ModelSection, NamedPart
from fsam_cli.records.store import RunDirectory
from tests.support.command import fsam
from tests.support.plugins import EVERYTHING, MINIMISER, MODEL

HEAD = "from fsam_cli.contracts import *\n"


@pytest.fixture
def write(tmp_path):
    def writer(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return writer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nrho = undefined\n", "mine.py, line 2 (rho = undefined): NameError: name 'undef"),
        ("a = 1\ndef f(:\n", "mine.py, line 2 (def f(:): SyntaxError: invalid syntax; fix"),
        (
            "import json\n\njson.loads('{')\n",
            "line 3 (json.loads('{')): JSONDecodeError: Expecting",
        ),
        ("raise SystemExit(3)\n", "line 1 (raise SystemExit(3)): SystemExit: 3"),
        ("import neighbour_of_mine\n", "it may import what is installed, not files beside it"),
        (HEAD + "class A(Model):\n    width = 3\n", "line 2 (class A(Model):): PydanticUserError"),
        ("a = 1\n", "mine.py has no PROVIDES; end it with PROVIDES = {"),
        ("PROVIDES = ['a']\n", "PROVIDES of"),
        ("PROVIDES = ['a']\n", "is not a dictionary but a value of type list; end it with"),
        ("PROVIDES = {}\n", "is empty; end it with"),
        (
            "PROVIDES = {'a': 3}\n",
            "'a' is a value of type int, which is not a part; derive a class",
        ),
        ("class A: pass\nPROVIDES = {'a': A}\n", "'a' is the class A, which is not a part"),
        (HEAD + "PROVIDES = {'a': Model}\n", "'a' (Model) lacks build; define it in the class"),
        (MINIMISER.replace("direction", "directoin"), "'doubled' (Doubled) lacks direction"),
        (MINIMISER.replace('"doubled"', '"../x"'), "'../x' is not a name for a part; use at most"),
        (MINIMISER.replace('"doubled"', "3"), "3 is not a name for a part; use at most"),
        (
            MINIMISER.replace('"doubled"', '"sam"'),
            "there is a method 'sam' already, of fsam_cli/minimisers/sam.py; choose another name",
        ),
        (
            MINIMISER.replace("    rho", "    _steps: int = 0\n    rho"),
            "'doubled' (Doubled) keeps _steps between its steps, where no seed begins it and no "
            "checkpoint brings it back; a method has no state but its memory: set remembers",
        ),
        (MODEL.replace("width", "name"), "has the setting 'name', a key that recipes and records"),
        (
            EVERYTHING.replace("    by: int", "    stage = 'pixel'\n    by: int")
            + "PROVIDES = {'dark': Dark}\n",
            "'dark' has the stage 'pixel'; use 'pixels' or 'normalised'",
        ),
        (
            HEAD + "def made():\n    class A(Model):\n        def build(self, **_): ...\n"
            "    return A\nPROVIDES = {'a': made()}\n",
            "'a' (made.<locals>.A) cannot be found again by another process",
        ),
    ],
)
def test_a_file_that_is_no_plugin_says_where_what_and_what_instead(write, text, expected):
    path = write(text)
    with pytest.raises(RecipeError) as caught:
        load_experiment("quickstart", [f"plugins=[{path}]"])
    assert expected in str(caught.value)
    assert "plugins.0: " in str(caught.value)
    with pytest.raises(RecipeError) as caught:
        load_experiment("quickstart", plugins=[path])
    assert "--plugin: " in str(caught.value)
    assert caught.value.exit_code == 2


CLASS = """
class {name}({base}):
    {key}: int = 0
    def radius(self): ...
    def build(self, **_): ...
    def direction(self, at): ...
    def fingerprint(self, root): ...
    def load(self, root): ...
    def draw(self, random, images, height, width): ...
    def apply(self, images, draws): ...
"""


def test_a_file_read_twice_gives_the_same_classes_and_is_run_once(write, monkeypatch):
    monkeypatch.setenv("HOME", str(write(MINIMISER).parent))
    one, again = (read_plugin(Path("~/mine.py"), "--plugin") for _ in range(2))
    assert one.rooms["minimisers"]["doubled"] is again.rooms["minimisers"]["doubled"]


def test_a_link_goes_by_the_name_that_the_user_gave(write, tmp_path):
    (tmp_path / "link.py").symlink_to(write("rho = undefined\n"))
    with pytest.raises(PartError, match=r"link\.py, line 1 \(rho = undefined\)"):
        read_plugin(tmp_path / "link.py", "--plugin")


@pytest.mark.parametrize(
    ("room", "section"),
    [("minimisers", Method), ("models", ModelSection), ("datasets", Data), ("augment", NamedPart)],
)
def test_no_setting_of_a_part_has_the_name_of_a_key_of_its_section(write, room, section):
    assert section.section_keys <= section.model_fields.keys()
    names = {f"K{n}": key for n, key in enumerate([*section.section_keys, "name", "plugin"])}
    classes = [CLASS.format(name=n, base=BASES[room], key=k) for n, k in names.items()]
    fine = CLASS.format(name="Fine", base=BASES[room], key="of_its_own")
    provides = ", ".join(f"'{name.lower()}': {name}" for name in (*names, "Fine"))
    with pytest.raises(PartError) as caught:
        read_plugin(write(HEAD + "".join([*classes, fine]) + f"PROVIDES = {{{provides}}}"), "x")
    assert len(caught.value.problems) == len(names)
    for name, key in names.items():
        assert f"'{name.lower()}' ({name}) has the setting '{key}', a key" in str(caught.value)


@pytest.mark.filterwarnings("ignore:Field name")  # pydantic's, which says less
@pytest.mark.parametrize("hook", ["period", "fisher_labels"])
def test_no_setting_of_a_method_is_hidden_by_a_property_of_the_contract(write, hook):
    """It would be recorded, and nothing would ask for it."""
    path = write(MINIMISER.replace("    rho", f"    {hook}: int = 3\n    rho"))
    with pytest.raises(PartError) as caught:
        read_plugin(path, "--plugin")
    assert (
        f"'doubled' (Doubled) has the setting '{hook}', which a property of that name hides; "
        "rename the setting, and return it from the property"
    ) in str(caught.value)


def test_a_file_that_fails_leaves_no_half_made_module_behind(write):
    path = write("import never_there\n")
    for _ in range(2):
        with pytest.raises(PartError, match="ModuleNotFoundError"):
            read_plugin(path, "--plugin")
    interrupted = write("raise KeyboardInterrupt\n", "interrupted.py")
    with pytest.raises(KeyboardInterrupt):
        read_plugin(interrupted, "--plugin")
    there = {getattr(module, "__file__", None) for module in sys.modules.values()}
    assert not there & {str(path), str(interrupted)}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a = 1\0\n", "mine.py: SyntaxError: source code string cannot contain null bytes"),
        (b"a = '\xe9'\n", "SyntaxError: (unicode error) 'utf-8' codec can't decode byte 0xe9"),
        (
            b"a = 1\nraise ValueError  # \xc3\xa9",
            "line 2 (raise ValueError  # \u00e9): ValueError: no",
        ),
        (
            b"raise ValueError('one\\ntwo')",
            "line 1 (raise ValueError('one\\ntwo')): ValueError: one; ",
        ),
        (b"a = 1\nexec('x = (')\n", "line 2 (exec('x = (')): SyntaxError: '(' was never closed"),
        (b"raise SyntaxError('own', (__file__, 99, 1, ''))\n", "mine.py: SyntaxError: own; "),
        (
            b"a = 1\n\x0c\nraise ValueError('x')\r\n",
            "line 3 (raise ValueError('x')): ValueError: x",
        ),
    ],
)
def test_whatever_the_file_holds_the_error_is_a_line(tmp_path, content, expected):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    with pytest.raises(PartError) as caught:
        read_plugin(path, "--plugin")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere.py", "no file {}/nowhere.py; paths start at the recipe's folder"),
        (".", "{} is a folder; name one .py file in it"),
        ("mine.txt", "{}/mine.txt is not a Python file; name a file that ends with .py"),
    ],
)
def test_a_path_that_is_no_plugin_is_refused(write, tmp_path, name, expected):
    write("", "mine.txt")
    recipe = write(f"plugins: {name}\ndata: digits\nmodel: x\ntrain: {{epochs: 1}}\n", "r.yaml")
    with pytest.raises(RecipeError) as caught:
        load_experiment(str(recipe), ["methods={sgd: {}}"])
    assert f"plugins.0: {expected.format(tmp_path)}" in str(caught.value)
    assert "unknown model" not in str(caught.value)  # it may be what the plugin provides


def test_names_that_two_plugins_share_are_refused_with_both_files(write, tmp_path):
    first, second = write(MINIMISER), write(MINIMISER + "# other\n", "second.py")
    with pytest.raises(RecipeError) as caught:
        load_experiment("quickstart", plugins=[first, second])
    assert f"{first} and {second} both provide the method 'doubled'; rename" in str(caught.value)
    same_name = write(MODEL, "deep/mine.py")
    with pytest.raises(RecipeError, match="have the same file name; rename one"):
        load_experiment("quickstart", plugins=[first, same_name])


def test_problems_of_plugins_and_recipe_come_together(write):
    with pytest.raises(RecipeError) as caught:
        load_experiment("quickstart", ["plugins=[a.py, b.py]", "train.epochz=1"])
    for expected in ("3 problems", "plugins.0: no file", "plugins.1: no file", "train.epochz"):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"), [("3", "plugins: 3 is refused"), ("[3]", "plugins.0: 3 is refused")]
)
def test_plugins_that_are_no_paths_are_refused(value, expected):
    with pytest.raises(RecipeError) as caught:
        load_experiment("quickstart", [f"plugins={value}"])
    assert expected in str(caught.value)


def test_a_missing_file_of_perturb_or_models_is_a_usage_error(tmp_path):
    for command in (("perturb",), ("models",)):
        done = fsam(*command, "--plugin", "nowhere.py", cwd=tmp_path, check=2)
        assert "--plugin: no file nowhere.py; paths start at the working dir" in done.stderr


DATA = """
from fsam_cli.contracts import DataSet, Fingerprint

class Mine(DataSet):
    files: {kind} = {default}
    wrong: str = "{wrong}"

    def fingerprint(self, root):
        if self.wrong == "fingerprint":
            open("images.npz")
        return Fingerprint("x", None, train_size=64, test_size=8, classes=2, shape=(1, 8, 8))

    def load(self, root):
        return {{}}["train_images"]

PROVIDES = {{"mine": Mine}}
"""


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("fingerprint", 'line 10 (open("images.npz")): FileNotFoundError: [Errno 2] No such'),
        ("load", "line 14 (return {}[\"train_images\"]): KeyError: 'train_images'; fix the file"),
    ],
)
def test_a_data_set_that_fails_is_an_error_with_its_line(tmp_path, wrong, expected):
    (tmp_path / "mine.py").write_text(
        DATA.format(kind="tuple[str, ...]", default="()", wrong=wrong)
    )
    override = "data={name: mine, files: [a, b]}"
    done = fsam("train", "-r", "quickstart", "--plugin", "mine.py", override, cwd=tmp_path, check=2)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_data_set_with_a_setting_that_can_be_changed_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(DATA.format(kind="list[str]", default="[]", wrong=""))
    override = "data={name: mine}"
    done = fsam("train", "-r", "quickstart", "--plugin", "mine.py", override, cwd=tmp_path, check=2)
    assert (
        "data: the data set 'mine' has a setting that is a list or a dictionary; declare it as a "
        "tuple; recipes write it as a list" in done.stderr
    )


CHECKS = """
from pydantic import field_validator
from fsam_cli.contracts import Model

class Checks(Model):
    width: int | None = None

    @field_validator("width")
    @classmethod
    def even(cls, width):
        if width % 2:
            raise ValueError("width must be even")
        return width

    def build(self, *, channels, classes, image_size): ...

PROVIDES = {"checks": Checks}
"""


def test_a_setting_that_a_plugin_cannot_write_down_is_a_problem_of_the_recipe(write):
    serialiser = """
    @field_serializer("width")
    def spelt(self, width):
        return ["one", "two"][width]
"""
    source = CHECKS.replace("field_validator\n", "field_serializer, field_validator\n")
    path = write(source.replace("\n    def build", f"{serialiser}\n    def build"))
    with pytest.raises(RecipeError, match=r"model: .*cannot check or write down .*IndexError"):
        load_experiment("quickstart", ["model={name: checks, width: 2}"], [path])
    load_experiment("quickstart", ["model={name: checks, width: 0}"], [path])
    text = path.read_text().replace('return ["one", "two"][width]', 'raise ValueError("a\\nb")')
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"cannot check or write down .*: a b\); fix its class"):
        load_experiment("quickstart", ["model={name: checks, width: 0}"], [path])


def test_a_mistake_in_a_part_of_our_own_is_raised_as_it_is(monkeypatch):
    def fails(part, mode):
        raise ZeroDivisionError

    monkeypatch.setattr(Digits, "model_dump", fails)
    with pytest.raises(ZeroDivisionError):
        load_experiment("quickstart")


def test_a_model_may_have_a_setting_that_is_a_list(write):
    path = write(MODEL.replace("width: int = 5", "width: int = 5\n    more: list[int] = [1]"))
    assert load_experiment("quickstart", ["model=flat"], [path]).model.more == [1]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        ("3", "model.width: width must be even"),
        (
            "null",
            "model: the model 'checks' cannot check or write down these settings (TypeError: "
            "unsupported operand type(s) for %: 'NoneType' and 'int'); fix its class",
        ),
    ],
)
def test_what_a_plugin_s_own_check_meets_is_a_problem_of_the_recipe(write, width, expected):
    path = write(CHECKS)
    with pytest.raises(RecipeError) as error:
        load_experiment("quickstart", [f"model={{name: checks, width: {width}}}"], [path])
    assert expected in str(error.value)


IDLE = """
from fsam_cli.contracts import Minimiser, Model

class Idle(Minimiser):
    @property
    def radius(self):
        return 1.0

    def direction(self, at):
        return at.g

    def active_in(self, epoch, epochs):
        return epoch > 1 / 0

class Checked(Model):
    def check(self):
        raise KeyError("width")

    def build(self, *, channels, classes, image_size): ...

PROVIDES = {"idle": Idle, "checked": Checked}
"""


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("methods={idle: {}}", r"line 13 \(return epoch > 1 / 0\): ZeroDivisionError: .*; fix the"),
        ("model=checked", r"line 17 \(raise KeyError\(\"width\"\)\): KeyError: 'width'; fix the"),
    ],
)
def test_what_a_plugin_s_part_raises_while_runs_are_planned_names_its_line(
    write, tmp_path, override, told
):
    mine = write(f"{IDLE}# {override}")  # what was loaded from another place is not loaded again
    experiment = load_experiment("quickstart", [override], [mine])
    with pytest.raises(UsageError, match=told):
        plan(experiment, out=tmp_path / "runs")


def test_of_the_lines_of_a_plugin_the_one_that_failed_is_told(write):
    path = write("def inner():\n    return 1 / 0\n\ndef outer():\n    inner()\n\nouter()\n")
    with pytest.raises(PartError, match=r"mine.py, line 2 \(return 1 / 0\): ZeroDivisionError"):
        read_plugin(path, "--plugin")


def test_what_a_plugin_refuses_in_words_of_ours_is_left_as_it_is(write):
    plugin = read_plugin(write(MINIMISER), "--plugin")
    with pytest.raises(UsageError) as refused, blaming(plugin):
        raise UsageError("images: none there; name a folder")
    assert str(refused.value) == "images: none there; name a folder"
    with pytest.raises(ZeroDivisionError), blaming(None):
        raise ZeroDivisionError


LATE = """
import torch
from fsam_cli.contracts import Minimiser

def of(at):
    if torch.is_grad_enabled() or len(at.g) != 257:
        raise RuntimeError("inconsistent tensor size")
    return at.g

class Late(Minimiser):
    @property
    def radius(self):
        return 1.0

    def direction(self, at):
        try:
            return of(at)
        except RuntimeError as error:
            {again}

PROVIDES = {{"late": Late}}
"""


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        ("raise", "RuntimeError: inconsistent tensor size (mine.py, line 7, in of)"),
        ("torch.eye(2) @ at.g", "(mine.py, line 19, in direction)"),
        ("raise KeyError(1) from None", "KeyError: 1 (mine.py, line 19, in direction)"),
    ],
)
def test_the_reason_of_a_failed_run_names_the_last_line_of_the_plugin(
    write, tmp_path, again, expected
):
    mine = write(LATE.format(again=again) + f"# {tmp_path}")
    experiment = load_experiment("quickstart", ["methods={late: {}}", "seeds=0"], [mine])
    (one,) = plan(experiment, out=tmp_path / "runs", device="cpu")
    outcome = execute(one, Hooks())
    assert outcome.status == "failed"
    assert outcome.reason.endswith(expected)
    assert RunDirectory(one.folder).read_result()["reason"] == outcome.reason


def test_errors_that_no_plugin_had_a_part_in_name_none(write):
    mine = write("")
    try:
        raise ValueError("ours")
    except ValueError as error:
        assert raised_in(error, [mine]) == ""
        try:
            exec(compile("1 / 0", str(mine), "exec"))
        except ZeroDivisionError as its:
            assert raised_in(its, [mine]) == " (mine.py, line 1, in <module>)"
            wrapped = RuntimeError("the compiler's")
            wrapped.__cause__ = its
            assert raised_in(wrapped, [mine]) == " (mine.py, line 1, in <module>)"
