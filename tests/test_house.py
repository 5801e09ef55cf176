"""Rules of the house that a reader would have to check by hand: one place for each fact."""

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

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


def texts_in(node):
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and is_text(n.value)]


def is_text(value):
    return isinstance(value, str)


# A format translates between classes of others and ours, so it knows both.
@pytest.mark.parametrize("name", [str(n) for n in TREES if "formats" not in n.parts])
def test_nobody_asks_whether_a_component_is_of_one_class(name):
    """What differs between components is said by them, or every new one is a new branch."""
    for call in ast.walk(TREES[Path(name)]):
        if isinstance(call, ast.Call) and names_in(call.func) & {"isinstance", "issubclass"}:
            asked = names_in(call.args[1]) & CLASSES
            assert not asked, f"{name}:{call.lineno}: {asked}"


@pytest.mark.parametrize("name", map(str, TREES))
def test_no_class_of_a_component_is_named_in_a_text(name):
    exported = [
        node.value
        for node in ast.walk(TREES[Path(name)])
        if isinstance(node, ast.Assign) and names_in(node.targets[0]) == {"__all__"}
    ]
    allowed = {id(text) for value in exported for text in ast.walk(value)}
    for node in ast.walk(TREES[Path(name)]):
        if isinstance(node, ast.Constant) and is_text(node.value) and id(node) not in allowed:
            last = node.value.rpartition(".")[2]
            assert last not in CLASSES - NAMES_OF_OTHERS, f"{name}:{node.lineno}: {node.value}"


def is_declared(text):
    return any(text == name or ("*" in name and fnmatchcase(text, name)) for name in NAMES)


@pytest.mark.parametrize("name", map(str, TREES))
def test_no_list_of_metrics_beside_their_declarations(name):
    tree = TREES[Path(name)]
    if any(isinstance(n, ast.Call) and names_in(n.func) & {"declare", "Metric"} for n in ast.walk(tree)):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            texts = [n.value for n in node.elts if isinstance(n, ast.Constant)]
            listed = [text for text in texts if is_text(text) and is_declared(text)]
            assert len(listed) < 3, f"{name}:{node.lineno}: {listed}"
