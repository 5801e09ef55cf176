"""Which classes a config from a folder may name."""

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment.components import check_stored, entries, load_plugins
from temporal_sae.registry import components, names_of

CONF = Path(__file__).parents[2] / "conf"
SOURCE = Path("run.json")
STREAM = "temporal_sae.activations.Harvest"
SECRET = "${oc.env:SECRET}"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package with a class of its own, one that it imports, and one in a module below."""
    folder = tmp_path / "their_own"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from their_own.below import Deep\n\n"
        "class Text:\n    pass\n\n"
        "def function():\n    pass\n"
    )
    (folder / "below.py").write_text("class Deep:\n    pass\n")
    (folder / "never.py").write_text("raise AssertionError('a folder had this imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_own"
    for name in [name for name in sys.modules if name.startswith("their_own")]:
        del sys.modules[name]


def named_by_conf():
    """Full names of classes by the key of the config where an option names them."""
    named: dict[str, set[str]] = {}
    for option in CONF.rglob("*.yaml"):
        group = option.parent.relative_to(CONF).parts[0] if option.parent != CONF else ""
        if group in ("", "hydra"):
            continue
        config = OmegaConf.to_container(OmegaConf.load(option), resolve=False)
        for place, key, value in entries(config, group):
            if key == "_target_":
                named.setdefault(place, set()).add(value)
    return named


def test_what_is_announced_is_what_the_groups_of_conf_name():
    named = named_by_conf()
    announced = {place: {names_of(cls)[0] for cls in components(place)} for place in named}
    assert announced == named


def test_what_conf_names_is_allowed():
    for place, targets in named_by_conf().items():
        group, _, below = place.partition(".")
        for target in targets:
            options = {"_target_": target, "path": "notes", "n": [1, {"deep": None}]}
            check_stored({group: {below: options} if below else options}, [], SOURCE)


@pytest.mark.parametrize(
    "hostile",
    [
        {"_target_": "pandas.read_pickle"},
        {"_target_": "temporal_sae.files.os.system"},
        {"_target_": "temporal_sae.activations.Harvest.stream"},
        {"_target_": f" {STREAM}"},
        {"_target_": "temporal_sae.data.StdlibText"},  # of another group
        {"_target_": ["os.system"]},
        {"_target_": None},
        {"_target_": STREAM, "outliers": {"_target_": "os.system", "command": "true"}},
        {"_target_": STREAM, "outliers": [[{"_target_": "os.system"}]]},
        {"_target_": STREAM, "outliers": {"_target_": STREAM}},
        {"_target_": STREAM, "_partial_": True},
        {"_target_": STREAM, "_args_": ["x"]},
        {"_target_": STREAM, "_recursive_": False},
        {"_target_": STREAM, "outliers": [{"_convert_": "all"}]},
        {"_target_": STREAM, "outliers": SECRET},
        {"_target_": STREAM, "outliers": [f"a\\{SECRET}"]},
        {"_target_": STREAM, SECRET: 1},
    ],
)
def test_what_could_do_anything_else_is_refused(hostile):
    with pytest.raises(RunError, match=r"^run\.json: activations") as refused:
        check_stored({"activations": hostile}, [], SOURCE)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("target", ["Text", "Deep", "below.Deep"])
def test_the_classes_of_plugins_that_a_person_names_may_be_built(plugin, target):
    config = {"data": {"_target_": f"{plugin}.{target}"}}
    with pytest.raises(RunError, match=r"plugins=\[my_module\]"):
        check_stored(config, [], SOURCE)
    load_plugins([plugin])
    check_stored(config, [plugin], SOURCE)
    check_stored({"eval": {"mine": [config]}}, [plugin], SOURCE)


@pytest.mark.parametrize(
    "target", ["os.system", "Path", "function", "never.Thing", "Text.__init__", "nothing", ""]
)
def test_a_plugin_opens_nothing_but_its_own_classes(plugin, target):
    load_plugins([plugin])
    with pytest.raises(RunError, match="must be"):
        check_stored({"data": {"_target_": f"{plugin}.{target}"}}, [plugin], SOURCE)


@pytest.mark.parametrize("names", ["their_own", [5], ["no.such.module"], [""], 5, {"a": "b"}])
def test_plugins_are_a_list_of_modules_that_are_there(names):
    with pytest.raises(InvalidOption, match=r"^plugins="):
        load_plugins(names)


@pytest.fixture
def announce(tmp_path):
    """Gives the plug-in's folder the files that installing a package with an entry point leaves."""

    def announce(package, name, value):
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[temporal_sae.plugins]\n{name} = {value}\n")

    return announce


def test_an_entry_point_names_a_module_that_is_imported_where_the_name_is_typed(plugin, announce):
    announce("theirs", "their-name", f"{plugin}.below:Deep")
    announce("others", "other-name", f"{plugin}.never")
    config = {"data": {"_target_": f"{plugin}.below.Deep"}}
    load_plugins([])
    assert plugin not in sys.modules
    load_plugins(["their-name"])
    check_stored(config, ["their-name"], SOURCE)
    assert f"{plugin}.never" not in sys.modules
    with pytest.raises(RunError, match="must be"):
        check_stored(config, [], SOURCE)
    with pytest.raises(RunError, match="must be"):
        check_stored({"data": {"_target_": f"{plugin}.Text"}}, ["their-name"], SOURCE)


def test_an_entry_point_of_two_packages_stands_for_nothing_unless_both_mean_the_same(
    plugin, announce
):
    announce("theirs", "name", plugin)
    announce("again", "name", f"{plugin}:Text")
    load_plugins(["name"])
    announce("others", "name", "their_own.below")
    with pytest.raises(InvalidOption, match=r"one of their_own, their_own\.below, since several"):
        load_plugins(["name"])


@pytest.mark.parametrize("value", ["", "not a module", "no.such.module"])
def test_an_entry_point_that_leads_nowhere_is_one_line(plugin, announce, value):
    announce("theirs", "name", value)
    with pytest.raises(InvalidOption, match=r"^plugins='name': must be names of modules"):
        load_plugins(["name"])
