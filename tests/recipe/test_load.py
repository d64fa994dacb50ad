"""Recipes: overrides, defaults, and all problems at once."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from fsam_cli.errors import RecipeError, UsageError
from fsam_cli.recipe.load import companions, find_recipe, load_experiment, shipped_recipes
from fsam_cli.recipe.schema import Data, data_root

GOOD = """
data: digits
model: small_resnet
train: {epochs: 2}
methods:
  sam: {rho: 0.1}
  sam-0.2: {method: sam, rho: 0.2}
seeds: [0, 1]
"""


@pytest.fixture
def write(tmp_path):
    def writer(text: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    return writer


def problems(write, text, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_experiment(write(text), overrides)
    return str(caught.value)


def test_a_small_recipe_gets_its_defaults(write):
    experiment = load_experiment(write(GOOD))
    recipe = experiment.recipe
    assert recipe.name == "mine"
    assert recipe.methods["sam"].name == "sam"
    assert experiment.methods["sam-0.2"].rho == 0.2
    assert recipe.train.optimizer.name == "sgd"
    assert recipe.train.batch_size == 128
    assert recipe.data.validation == 0.1
    assert recipe.precision == "fp32"


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("train.epochs=5", lambda e: e.recipe.train.epochs == 5),
        ("train.lr=1e-2", lambda e: e.recipe.train.lr == 0.01),
        ("seeds=0:5", lambda e: e.recipe.seeds == (0, 1, 2, 3, 4)),
        ("seeds=[7]", lambda e: e.recipe.seeds == (7,)),
        ("seeds=3", lambda e: e.recipe.seeds == (3,)),
        ("methods.sam.rho=0.3", lambda e: e.methods["sam"].rho == 0.3),
        ("methods.sam-0.2.rho=0.4", lambda e: e.methods["sam-0.2"].rho == 0.4),
        ("methods.fsam.eta=0.5", lambda e: e.methods["fsam"].eta == 0.5),
        ("model.norm=group", lambda e: e.model.norm == "group"),
        ("data.label_noise={rate: 0.4}", lambda e: e.recipe.data.label_noise.rate == 0.4),
        ("data.label_noise=0.2", lambda e: e.recipe.data.label_noise.rate == 0.2),
        ("train.optimizer=adamw", lambda e: e.recipe.train.optimizer.name == "adamw"),
        ("train.optimizer.nesterov=false", lambda e: e.recipe.train.optimizer.name == "sgd"),
    ],
)
def test_overrides_are_typed_and_reach_every_place(write, override, check):
    assert check(load_experiment(write(GOOD), [override]))


@pytest.mark.parametrize("override", ["train.epochs", "=5"])
def test_an_override_without_key_and_value_is_a_usage_error(write, override):
    with pytest.raises(UsageError, match="key=value"):
        load_experiment(write(GOOD), [override])


def test_all_problems_come_together_each_with_its_key_and_remedy(write):
    text = """
    data: {name: digits, valdation: 0.2}
    model: {name: small_resnet, norm: layer}
    train: {epochs: 2}
    methods:
      fasm: {gamma: 0.1}
      sam: {rhoo: 0.1}
    """
    message = problems(write, text)
    assert "5 problems" not in message
    for expected in (
        "data.valdation: unknown key; did you mean 'validation'?",
        "model.norm: 'layer' is not possible; use 'batch' or 'group'",
        "methods.fasm: unknown method 'fasm'; did you mean 'fsam'?",
        "methods.sam.rhoo: unknown key; did you mean 'rho'?",
    ):
        assert expected in message
    assert "4 problems" in message


def test_schema_and_part_problems_come_together(write):
    text = """
    data: digits
    modle: small_resnet
    model: small_resnett
    train: {epochs: 2, lr: fast}
    methods: {sam: {rho: -1}}
    """
    message = problems(write, text)
    assert "modle: unknown key; did you mean 'model'?" in message
    assert "train.lr: 'fast' is refused" in message
    assert "unknown model 'small_resnett'; did you mean 'small_resnet'?" in message
    assert "methods.sam.rho: -1 is refused" in message


def test_a_problem_of_the_schema_hides_none_of_any_part(write):
    text = """
    data: {name: digits, valdation: 0.2, label_noise: 4, augment: [corp, {name: flip, p: 1}]}
    model: {name: small_resnet, init_from: 3, norm: layer}
    train: {epochs: x, optimizer: {momentun: 0.9}}
    methods: {sam: {epochs_factor: 0, rhoo: 0.1}, a: fsam, b: null}
    """
    message = problems(write, text)
    for expected in (
        "data.label_noise.rate: 4 is refused",
        "model.init_from: 3 is refused",
        "train.epochs: 'x' is refused",
        "methods.sam.epochs_factor: 0 is refused",
        "data.valdation: unknown key; did you mean 'validation'?",
        "data.augment.0: unknown augmentation 'corp'; did you mean 'crop'?",
        "data.augment.1.p: unknown key; ",
        "model.norm: 'layer' is not possible",
        "train.optimizer.momentun: unknown key; did you mean 'momentum'?",
        "methods.sam.rhoo: unknown key; did you mean 'rho'?",
        "methods.b: unknown method 'b'",
    ):
        assert expected in message
    assert "11 problems" in message
    others = problems(write, text, "data=digit", "train.optimizer=sdg")
    assert "data: unknown data set 'digit'; did you mean 'digits'?" in others
    assert "train.optimizer: unknown optimiser 'sdg'; did you mean 'sgd'?" in others


@pytest.mark.parametrize("key", ["data", "model", "methods", "train", "data.augment"])
def test_a_section_that_cannot_be_read_is_one_problem(write, key):
    message = problems(write, GOOD, f"{key}=3")
    assert "1 problem\n" in message
    assert f"  {key}: 3 is refused; write " in message


@pytest.mark.parametrize("methods", ["3", "null", "fsam"])
def test_a_word_is_no_method_of_methods_that_cannot_be_read(write, methods):
    with pytest.raises(UsageError, match="'fsam' is not an override; write key=value"):
        load_experiment(write(GOOD), [f"methods={methods}", "fsam"])


def test_a_misspelt_extends_is_answered_with_it_at_the_top_alone(write):
    message = problems(write, "extend: quickstart\n" + GOOD, "train.extend=quickstart")
    assert "  extend: unknown key; did you mean 'extends'?" in message
    (nested,) = (line for line in message.splitlines() if "train.extend" in line)
    assert "extends" not in nested
    message = problems(write, "extend: quickstart\nplugins: [gone.py]\n" + GOOD)
    assert "  extend: unknown key; did you mean 'extends'?" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train={}", "exactly one of epochs and gradient_evaluations"),
        ("train.gradient_evaluations=4", "exactly one of epochs and gradient_evaluations"),
        ("train.epochs=0", "train.epochs: 0 is refused"),
        ("train.epochs=yes", "train.epochs: 'yes' is refused"),
        ("train.lr=", "train.lr: null is refused"),
        ("train.schedule=null", "train.schedule: null is not possible; use"),
        ("train.epochs=true", "train.epochs: true is refused"),
        ("channels_last=no", "channels_last: 'no' is refused"),
        ("seeds=5:5", "is not a range"),
        ("seeds=0,1", "seeds: '0,1' is not a list; write [0,1]"),
        ("seeds=0, 1, 20,", "write [0,1,20]"),
        ("rho=0.3", "rho: unknown key; did you mean 'methods.sam.rho=0.3' or 'methods.sam-0.2.rho"),
        ("rhoo=0.3", "rhoo: unknown key; there are: channels_last"),
        (
            "train.optimizer={name: AdamW, lr: 0.1}",
            "train.optimizer.lr: unknown key; the learning rate is train.lr",
        ),
        ("seeds=[1, 1]", "seeds are repeated"),
        ("seeds=[-1]", "seeds.0: -1 is refused"),
        ("seeds=true", "seeds: true is refused; write a list, [a, b]"),
        ("data.augment=flip", "data.augment: 'flip' is refused; write a list"),
        ("model=3", "model: 3 is refused; write keys and values, {key: value}"),
        ("methods=3", "methods: 3 is refused; write keys and values"),
        ("methods={1: {method: sgd}}", "methods: the key 1 is not text; write it in quotes"),
        ("methods={sam: {true: 1}}", "methods.sam: the key True is not text; write it in quotes"),
        ("methods={}", "methods: {} is refused"),
        ("methods={../x: {method: sam}}", "methods: '../x' names a folder"),
        ("train.optimizer=lbfgs", "several times a step"),
        ("train.optimizer=sparseadam", "sparse gradients"),
        ("train.optimizer=muon", "matrices only"),
        ("train.optimizer=sdg", "unknown optimiser 'sdg'; did you mean 'sgd'?"),
        ("train.optimizer.momentun=0.9", "train.optimizer.momentun: unknown key"),
        ("train.optimizer.momentum=-1", "train.optimizer.momentum: -1 is refused"),
        ("train.optimizer.momentum=1.5", "write a number from 0 to below 1"),
        ("train.optimizer.momentum=true", "write a finite number"),
        ("train.optimizer.momentum=.nan", "train.optimizer.momentum"),
        ("train.optimizer.weight_decay=1e999", "weight_decay: inf is refused"),
        ("train.optimizer.weight_decay=-1.0", "torch refuses it"),
        (f"train.optimizer.weight_decay=1{400 * '0'}", "write a finite number"),
        (f"train.optimizer={{name: adam, betas: [0, 1{400 * '0'}]}}", "write 2 finite numbers"),
        ("train.optimizer.nesterov=maybe", "write true or false"),
        ("train.optimizer.dampening=abc", "write a finite number"),
        ("train.optimizer={name: adam, betas: 0.9}", "write 2 finite numbers"),
        ("train.optimizer={name: adam, betas: [0.9, x]}", "write 2 finite numbers"),
        ("train.epochs=1000000000", "train.epochs: 1000000000 is refused"),
        ("train.gradient_evaluations=1e9", "train.gradient_evaluations"),
        ("seeds=0:1000000000", "more than 10,000 seeds"),
        ("threads=100000", "threads: 100000 is refused"),
        ("name=''", "name: '' names a folder"),
        ("data.root=~nobody-here/x", None),
        ("data.label_noise.rate=1.5", "data.label_noise.rate: 1.5 is refused"),
        ("data.augment=[corp]", "data.augment.0: unknown augmentation 'corp'; did you mean 'crop'"),
        (
            "data.augment=[flip, cutout, crop]",
            "data.augment: 'crop' augments pixels and stands after 'cutout', which augments "
            "normalised images; put 'cutout' last",
        ),
        ("methods.fsam.fisher=empirical", "set model.norm: group"),
        ("methods={msam: {}}", "methods.msam: it climbs along the base optimiser's momentum"),
        ("methods={sgd: {m_sharpness: 8}}", "m_sharpness needs a method that climbs"),
        ("methods={sam: {natural_gradient: {eat: 1.0}}}", "did you mean 'eta'"),
        ("train={epochs: 1, select: validation}", None),
        ("device=tpu", "device: 'tpu' is not possible; use 'auto', 'cpu' or 'cuda'"),
        ("precision=fp16", "precision: 'fp16' is not possible"),
        ("threads=0", "threads: 0 is refused"),
    ],
)
def test_bad_settings_name_their_key(write, change, expected):
    if expected is None:
        load_experiment(write(GOOD), [change])
    else:
        assert expected in problems(write, GOOD, change)


def test_selecting_on_validation_needs_a_validation_part(write):
    message = problems(write, GOOD, "train.select=validation", "data.validation=0")
    assert "train.select" in message


def test_a_missing_recipe_lists_what_there_is(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'quickstart'"):
        find_recipe("quickstrat")


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "a: 1\na: 2\n"])
def test_a_file_that_is_no_recipe_says_so(write, content):
    with pytest.raises(RecipeError):
        load_experiment(write(content))


def test_extends_lays_a_recipe_over_another(write):
    write(GOOD, "base.yaml")
    experiment = load_experiment(
        write("extends: base.yaml\ntrain: {epochs: 7}\nmethods: {sam: {rho: 0.4}}\n", "top.yaml")
    )
    assert experiment.recipe.name == "top"
    assert experiment.recipe.train.epochs == 7
    assert experiment.methods["sam"].rho == 0.4
    assert "sam-0.2" in experiment.methods
    third = load_experiment(write("extends: top.yaml\ntrain: {lr: 0.2}\n", "third.yaml"))
    assert (third.recipe.name, third.recipe.train.epochs) == ("third", 7)
    assert third.recipe.train.lr == 0.2
    with pytest.raises(RecipeError, match="is not a plain name"):
        load_experiment(write("extends: ../base.yaml\n", "fifth.yaml"))


def test_extends_takes_a_shipped_recipe_by_name_unless_a_file_lies_there(write):
    mine = write("extends: wrn28-10-c100\ntrain: {lr: 0.05}\n", "mine.yaml")
    experiment = load_experiment(mine)
    shipped = load_experiment("wrn28-10-c100")
    assert (experiment.recipe.name, shipped.recipe.name) == ("mine", "wrn28-10-c100")
    assert experiment.recipe.train.lr == 0.05
    assert experiment.recipe.model == shipped.recipe.model
    assert experiment.methods == shipped.methods
    ending = write("extends: wrn28-10-c100.yaml\n", "ending.yaml")
    assert load_experiment(ending).methods == shipped.methods
    write(GOOD, "wrn28-10-c100")
    assert "sam-0.2" in load_experiment(mine).methods


def test_what_cannot_be_extended_says_why(write):
    said = problems(write, "extends: quickstrat\n")
    assert "no file" in said
    assert "and no shipped recipe 'quickstrat'; did you mean 'quickstart'?" in said
    assert "_table1-c10" not in said
    write("extends: b.yaml\n", "a.yaml")
    with pytest.raises(RecipeError, match=r"b.yaml extends itself by way of .*a.yaml"):
        load_experiment(write("extends: a.yaml\n", "b.yaml"))
    with pytest.raises(RecipeError, match=r"c.yaml extends itself by way of .*c.yaml"):
        load_experiment(write("extends: c.yaml\n", "c.yaml"))
    linked = Path(write("extends: link.yaml\n", "d.yaml"))
    linked.with_name("link.yaml").symlink_to(linked)
    with pytest.raises(RecipeError, match=r"link.yaml extends itself by way of .*d.yaml"):
        load_experiment(str(linked))


@pytest.mark.parametrize("name", ["[quickstart]", '""', "3", "{}"])
def test_what_is_no_name_of_a_recipe_to_extend_is_refused(write, name):
    assert "is not a name; name one recipe" in problems(write, f"extends: {name}\n")


def test_shipped_recipes_are_found_with_and_without_ending():
    assert find_recipe("quickstart") == find_recipe("quickstart.yaml")
    assert find_recipe("quickstart").is_file()


def test_shipped_recipes_open_with_a_header_comment():
    recipes = shipped_recipes()
    assert recipes
    for path in recipes.values():
        header = Path(path).read_text().split("\n\n")[0]
        assert header.startswith("#"), path


@pytest.mark.parametrize(
    ("file", "name"),
    [("my recipe.yaml", "my-recipe"), ("ü1.yaml", "1"), ("a (2).yaml", "a-2")],
)
def test_a_recipe_is_named_after_its_file_as_a_folder_can_be(write, file, name):
    assert load_experiment(write(GOOD, file)).recipe.name == name


@pytest.mark.parametrize("file", ["ü.yaml", "食.yaml", "_-.yaml"])
def test_a_recipe_whose_file_has_no_plain_name_needs_one_of_its_own(write, file):
    for text, count in ((GOOD, 1), (GOOD.replace("epochs", "epochz"), 2)):
        with pytest.raises(RecipeError) as caught:
            load_experiment(write(text, file))
        assert f"{count} problem" in str(caught.value)
        assert f"name: the file's name, '{file}', has no letter" in str(caught.value)
        assert "; give the recipe one, name: my-recipe" in str(caught.value)
    assert load_experiment(write(f"name: food\n{GOOD}", file)).recipe.name == "food"
    assert load_experiment(write(GOOD, file), ["name=food"]).recipe.name == "food"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_recipe_that_is_not_utf8_is_to_be_saved_as_such(tmp_path, encoding):
    (tmp_path / "mine.yaml").write_text(f"# für\n{GOOD}", encoding=encoding)
    with pytest.raises(RecipeError, match="the file is not UTF-8 text; save it as UTF-8"):
        load_experiment(str(tmp_path / "mine.yaml"))


def test_what_is_there_and_no_file_is_not_said_to_be_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe' is not a regular file; write the recipe to one"):
        load_experiment(str(tmp_path / "pipe"))
    with pytest.raises(UsageError, match="is a folder; name a recipe, a file, in it"):
        load_experiment(str(tmp_path))


@pytest.mark.parametrize("given", ["~nobody-here/x.yaml", "x" * 300, "x\0y"])
def test_names_that_no_file_can_have_are_usage_errors(given):
    with pytest.raises(UsageError, match=r"no such home folder|no recipe"):
        load_experiment(given)


def test_the_home_of_nobody_is_refused_for_plugins_and_data(write):
    with pytest.raises(UsageError, match="no such home folder"):
        load_experiment(write("plugins: [~nobody-here/mine.py]"))
    data = Data(name="digits", root="~nobody-here/x")
    with pytest.raises(UsageError, match="no such home folder"):
        data_root(data, Path(), None)


def test_an_override_changes_one_of_the_places_that_an_alias_fills(write):
    text = GOOD.replace("sam: {rho: 0.1}", "sam: &one {method: sam, rho: 0.1}\n  other: *one")
    experiment = load_experiment(write(text), ["methods.sam.rho=0.7"])
    assert experiment.methods["sam"].rho == 0.7
    assert experiment.methods["other"].rho == 0.1


def test_files_with_names_too_long_to_be_are_problems_of_their_keys(write):
    assert "extends: no file" in problems(write, f"extends: {'x' * 300}")
    assert "plugins.0: cannot read" in problems(write, f"plugins: [{'x' * 300}.py]")


def test_what_a_recipe_needs_is_told_across_all_that_it_extends(write, tmp_path):
    write("plugins: [mine.py]\n", "base.yaml")
    top = write("extends: base.yaml\n", "top.yaml")
    assert companions(Path(top)) == [Path("base.yaml"), Path("mine.py")]
    write("extends: b.yaml\n", "a.yaml")
    with pytest.raises(RecipeError, match="extends itself"):
        companions(Path(write("extends: a.yaml\n", "b.yaml")))


def test_a_bare_setting_is_offered_below_the_methods_that_have_it(write):
    labels = [f"sam{number}" for number in range(5)]
    methods = "".join(f"  {label}: {{method: sam}}\n" for label in labels)
    path = write(GOOD.partition("  sam:")[0].lstrip("\n") + methods + "  sgd: {}\n  fsam: {}\n")
    assert "gamma: unknown key; did you mean 'methods.fsam.gamma=1'?" in _refused(path, "gamma=1")
    told = _refused(path, "rho=1")
    offered = " or ".join(f"'methods.{label}.rho=1'" for label in labels[:3])
    assert f"did you mean {offered} or 2 more?" in told
    # of a file it may be anything
    assert "methods." not in _refused(write("rho: 1\n" + GOOD, "other.yaml"))


def _refused(path, *overrides):
    with pytest.raises(RecipeError) as raised:
        load_experiment(path, overrides)
    return str(raised.value)


@pytest.mark.parametrize(
    ("asked", "there"), [("my.yml", "my.yaml"), ("my.yaml", "my.yml"), ("my", "my.yaml")]
)
def test_a_recipe_of_another_ending_is_offered_before_the_shipped_ones(tmp_path, asked, there):
    (tmp_path / there).write_text(GOOD)
    with pytest.raises(UsageError) as raised:
        find_recipe(str(tmp_path / asked))
    assert str(raised.value).endswith(f"no such file; did you mean '{tmp_path / there}'?")


def test_a_method_that_is_not_there_is_offered_by_its_nearest_name(write):
    from fsam_cli.recipe.plan import plan

    experiment = load_experiment(write(GOOD))
    with pytest.raises(UsageError, match=r"did you mean 'sam-0\.2'\? there are: sam, sam-0\.2"):
        plan(experiment, out=Path("runs"), only=("SAM-0.2",))
