"""A NaN or an infinity stops a run at the step that made it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from temporal_sae.distributed import all_reduce_max, raise_on_all_ranks
from temporal_sae.errors import RunError

Names = tuple[str, ...]


class Health:
    """Remembers the first step at which a watched number was not finite, and which it was.

    On the CPU `check` raises at once. On a GPU looking would mean waiting, so what was found stays
    there until `raise_if_not_finite` asks, at logged steps and before a checkpoint is written.
    Nothing is lost meanwhile: the optimiser moves nothing by a gradient that is not finite.

    Args:
        device: where the numbers are.
        last_checkpoint: names the newest checkpoint, for the message.
    """

    def __init__(self, device: torch.device, last_checkpoint: Callable[[], str]) -> None:
        self._at_once = device.type == "cpu"
        self._last_checkpoint = last_checkpoint
        # By the names of what was watched, which differ while there are dead latents: the first
        # step at which something was wrong (-1: none yet), and what was finite then.
        self._found: dict[Names, tuple[Int[Tensor, ""], Bool[Tensor, " names"]]] = {}

    @torch.no_grad()
    def check(self, step: int, numbers: dict[str, Tensor]) -> None:
        """Take in the numbers of a step, in the order in which they came about.

        Raises:
            RunError: see `raise_if_not_finite`; on the CPU.
        """
        names = tuple(numbers)
        finite = torch.stack([_all_finite(number.detach()) for number in numbers.values()])
        first, before = self._found.get(names, (finite.new_full((), -1, dtype=torch.int64), finite))
        new = (first < 0) & ~finite.all()
        self._found[names] = (torch.where(new, step, first), torch.where(new, finite, before))
        if self._at_once:
            self.raise_if_not_finite()

    def raise_if_not_finite(self) -> None:
        """Raise where a number was not finite, in any process: all have to call this.

        Raises:
            RunError: names the step, the first such number, and the last good checkpoint.
        """
        found = [
            (int(first), int((~finite).nonzero()[0]), names)
            for names, (first, finite) in self._found.items()
            if int(first) >= 0
        ]
        step, place, names = min(found, default=(NEVER, 0, ()))
        (earliest,) = all_reduce_max(-step)  # of all processes, of which one may know the cause
        if -earliest < NEVER:
            (first_place,) = all_reduce_max(-place if step == -earliest else -NEVER)
            is_cause = (step, place) == (-earliest, -first_place)
            raise_on_all_ranks(lambda: self._raise(step, names[place]) if is_cause else None)

    def _raise(self, step: int, name: str) -> None:
        raise RunError(
            f"step {step}: the {name} is not finite; {ADVICE.get(name, LOWER)}; "
            f"{self._last_checkpoint()}"
        )


def _all_finite(numbers: Tensor) -> Bool[Tensor, ""]:
    """Look at the extremes, which a NaN would be; `isfinite` of all takes ten times as long."""
    if numbers.ndim and numbers.numel():
        numbers = torch.stack(numbers.aminmax())
    return numbers.isfinite().all()


NEVER = 2**62
LOWER = "lower trainer.lr or raise trainer.warmup_steps"
ADVICE = {"batch of activations": "look at the language model (model.dtype) and its text"}
