"""Every group has one set of operations, and a device gets the back end that suits it."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import torch
from numba.core.dispatcher import Dispatcher

from temporal_sae.kernels import dispatch, has_compiled_kernels, selection
from temporal_sae.kernels.adam import AdamStep
from tests.kernels.back_ends import GROUPS, NothingWaits, back_end


def operations(group):
    """What a group's own name offers that back ends define: functions, and the map's class."""
    package, naive = import_module(f"temporal_sae.kernels.{group}"), back_end(group, "naive")
    shared = {name for name in package.__all__ if getattr(package, name) is getattr(naive, name)}
    return set(package.__all__) - shared


def signature(operation):
    parameters = inspect.signature(operation).parameters.values()
    return [(parameter.name, parameter.default) for parameter in parameters]


def test_the_groups_are_found():
    assert {"windows", "averages", "pair_map", "adam"} < set(GROUPS)


@pytest.mark.parametrize("name", ["cpu", "triton"])
@pytest.mark.parametrize("group", GROUPS)
def test_all_back_ends_of_a_group_have_the_same_signatures(group, name):
    ours, naive = back_end(group, name), back_end(group, "naive")
    assert operations(group)
    for operation in operations(group):
        expected = getattr(naive, operation)
        assert signature(getattr(ours, operation)) == signature(expected), operation


@pytest.mark.parametrize("group", GROUPS)
def test_no_loop_calls_one_of_another_file(group):
    """Numba would keep the old machine code of the caller when the other file changes."""
    folder = Path(back_end(group, "naive").__file__).parent
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "triton"}
    modules = [back_end(group, name) for name in names]
    loops = [
        (module.__name__, value.py_func.__module__)
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Dispatcher)
    ]
    assert loops
    assert all(of == defined_in for of, defined_in in loops)


DEVICES = {"cpu": True, "meta": False}


@pytest.mark.parametrize("device", DEVICES)
def test_which_devices_have_kernels_of_their_own(device):
    assert has_compiled_kernels(torch.device(device)) == DEVICES[device]


@pytest.mark.parametrize("card", [(7, 5), (8, 0)])
def test_a_card_needs_tensor_cores_for_integers(monkeypatch, card):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
    expected = "triton" if card == (8, 0) else "naive"
    assert dispatch.back_end(torch.device("cuda")) == expected


def test_a_tensor_is_worked_on_by_the_back_end_of_its_device():
    """On `meta`, which computes nothing, torch's own operations give the shapes at least."""
    pre_acts = torch.zeros(7, 50, device="meta")
    values, indices = selection.select_topk(pre_acts, 3)
    assert values.device == indices.device == pre_acts.device
    assert values.shape == indices.shape == (7, 3)


def test_tuples_and_devices_are_dispatched_too(monkeypatch):
    seen = []
    monkeypatch.setattr(dispatch, "_version", lambda naive, device: seen.append(device) or print)
    operation = dispatch.dispatched(AdamStep)
    for argument in (torch.zeros(1), (torch.zeros(1), torch.zeros(2)), torch.device("cpu")):
        operation(argument)
    assert seen == [torch.device("cpu")] * 3


@pytest.mark.parametrize(
    "waiting",
    [lambda t: t.sum().item(), lambda t: t[t > 0], lambda t: t.unique(), lambda t: t.nonzero()],
)
def test_waiting_is_noticed(waiting):
    with pytest.raises(AssertionError, match="waits"), NothingWaits():
        waiting(torch.arange(3))
