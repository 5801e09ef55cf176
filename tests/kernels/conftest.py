"""Without a CUDA device the Triton kernels run in Triton's interpreter, on tensors of the CPU.

Only these tests see the setting: torch, and processes that other tests start, use triton too.
"""

from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType

import pytest
import torch

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

            from temporal_sae.kernels import triton_map, triton_pairs, triton_step

            ours = (triton_map, triton_pairs, triton_step)
            for module in (triton.language, triton.language.standard, *ours):
                interpret(module)
        yield
