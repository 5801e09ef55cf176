"""Rules of the house that a reader would have to check by hand: one place for each fact."""

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import temporal_sae
from temporal_sae import metrics, registry

PACKAGE = Path(temporal_sae.__file__).parent
SOURCES = {path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
CLASSES = {
    cls.__name__
    for place in registry.PACKAGES
    for cls in registry.components(place)
    if isinstance(cls, type) and cls.__module__.startswith("temporal_sae.")
}
# A class of dictionary_learning, which has the name of one of ours.
NAMES_OF_OTHERS = {name for cls in registry.components("sae") for name in cls.reference_names}
NAMES = [metric.name for metric in metrics.declared()]


def names_in(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def is_text(value):
    return isinstance(value, str)


def nodes():
    """(where, node) of everything in the package."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            yield f"{name}:{getattr(node, 'lineno', 0)}", node


def test_nobody_asks_whether_a_component_is_of_one_class():
    """Components say what differs between them, or every new one would be a new branch."""
    asked = [
        (where, names_in(node.args[1]) & CLASSES)
        for where, node in nodes()
        if isinstance(node, ast.Call) and names_in(node.func) & {"isinstance", "issubclass"}
    ]
    # A format translates between classes of others and ours, so it knows both.
    assert not [(where, classes) for where, classes in asked if classes and "formats" not in where]


def test_no_class_of_a_component_is_named_in_a_text():
    exported = [
        node.value
        for _, node in nodes()
        if isinstance(node, ast.Assign) and names_in(node.targets[0]) == {"__all__"}
    ]
    allowed = {id(text) for value in exported for text in ast.walk(value)}
    named = [
        (where, node.value)
        for where, node in nodes()
        if isinstance(node, ast.Constant) and is_text(node.value) and id(node) not in allowed
    ]
    forbidden = CLASSES - NAMES_OF_OTHERS
    named = [(where, text) for where, text in named if "renamed" not in where]  # of old files
    assert not [(where, t) for where, t in named if t.rpartition(".")[2] in forbidden]


def is_declared(text):
    return any(text == name or ("*" in name and fnmatchcase(text, name)) for name in NAMES)


def declares(tree):
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(names_in(call.func) & {"declare", "Metric"} for call in calls)


def test_no_list_of_metrics_beside_their_declarations():
    for name, tree in TREES.items():
        for node in [] if declares(tree) else ast.walk(tree):
            if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
                texts = [n.value for n in node.elts if isinstance(n, ast.Constant)]
                listed = [text for text in texts if is_text(text) and is_declared(text)]
                assert len(listed) < 3, f"{name}:{node.lineno}: {listed}"


def test_the_rooms_of_sweeps_import_only_those_before_them():
    rooms = ("overrides", "report", "sweep", "search")
    for where, node in nodes():
        room = where.split("/")[0]
        if room in rooms and isinstance(node, ast.ImportFrom):
            imported = (node.module or "").removeprefix("temporal_sae.").split(".")[0]
            assert imported not in rooms[rooms.index(room) + 1 :], where
