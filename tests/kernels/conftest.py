"""Without a CUDA device the Triton kernels run in Triton's interpreter, on tensors of the CPU.

Only these tests see the setting: torch, and processes that other tests start, use triton too.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.kernels.back_ends import GROUPS

INTERPRET = not torch.cuda.is_available()


def interpret(module: ModuleType) -> None:
    """Replace compiled functions, in case a module was imported before this file."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    for name, function in list(vars(module).items()):
        if isinstance(function, JITFunction):
            setattr(module, name, InterpretedFunction(function.fn))


@pytest.fixture(scope="module", autouse=INTERPRET)
def interpreted() -> Iterator[None]:
    """The setting, while the tests of a module run; nothing where triton is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with suppress(ImportError):
            import triton.language

            ours = [import_module(f"temporal_sae.kernels.{group}.triton") for group in GROUPS]
            for module in (triton.language, triton.language.standard, *ours):
                interpret(module)
        yield


@pytest.fixture
def on_1_to_3_threads() -> Iterator[Callable[[Callable[[], tuple[Tensor, ...]]], None]]:
    """Checks that some work gives the same tensors, to the bit, on one thread, two and three."""
    before = torch.get_num_threads()

    def check(work: Callable[[], tuple[Tensor, ...]]) -> None:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([tensor.clone() for tensor in work()])
        for one, *others in zip(*results, strict=True):
            assert all(torch.equal(one, other) for other in others)

    yield check
    torch.set_num_threads(before)
