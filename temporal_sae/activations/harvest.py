"""Text → a language model → activations at one place in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae import distributed
from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.loading import DTYPES
from temporal_sae.activations.prefetch import AUTO
from temporal_sae.activations.rows import KIND, TOKEN, Reader, Rows
from temporal_sae.activations.shared import SharedPasses
from temporal_sae.activations.source import LANGUAGE_MODEL, PLACES_BYTES, ActivationSource
from temporal_sae.data import Split, TextSource, TokenSequences, is_text
from temporal_sae.data.kinds import USUAL, are_of, check_kinds
from temporal_sae.errors import InvalidOption, RunError, check_bool, check_int
from temporal_sae.machine import Planned
from temporal_sae.registry import component


@component("activations")
class Harvest(ActivationSource):
    """Activations of a language model that reads text.

    Args:
        context_size: tokens per sequence, BOS included.
        prepend_bos: begin every sequence with BOS.
        exclude: kinds of tokens that training leaves out, of `data.kinds.ABOUT`. The norm at BOS is
            often tens of times the others'. Evaluation leaves out BOS, separators and padding.
        lm_batch_size: sequences in one forward pass of the language model.
        buffer_tokens, normalize, outliers, outlier_factor, prefetch: see `StreamOptions`.
        model: the language model, or a function that loads it.
        text: where its text comes from.
        device: where batches are; null: where the language model is.

    Raises:
        InvalidOption: an option is out of range, or there is no model or text.
    """

    reads = "data"
    shares_passes = True
    text: TextSource

    def __init__(
        self,
        context_size: int = 128,
        prepend_bos: bool = True,
        exclude: Collection[str] = USUAL,
        lm_batch_size: int = 32,
        buffer_tokens: int = 32768,
        normalize: bool = True,
        outliers: str = "keep",
        outlier_factor: float = 10.0,
        prefetch: str | bool | int = AUTO,
        *,
        model: LanguageModel | Callable[[], LanguageModel],
        text: TextSource,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(buffer_tokens, normalize, outliers, outlier_factor, prefetch)
        self.context_size = self.sequence_rows = check_int("context_size", context_size, 2)
        self.prepend_bos = check_bool("prepend_bos", prepend_bos)
        self.exclude = check_kinds("exclude", exclude)
        self.lm_batch_size = check_int("lm_batch_size", lm_batch_size, 1)
        self.text, self._model, self._device = text, model, device
        self.changed, self.held_out_advice = text.changed, text.held_out_advice

    def open(self) -> None:
        """Load the language model.

        Raises:
            InvalidOption: it cannot be loaded, or does not go with the options.
        """
        if self.model is not None:
            return
        model = self._model() if callable(self._model) else self._model
        self.model, self.name, self.layer = model, model.name, model.layer
        self.d_in, self.dtype = model.d_in, DTYPES[model.dtype]
        self.device = torch.device(model.device if self._device is None else self._device)
        self.sequences("train")

    @property
    def language_model(self) -> LanguageModel:
        """The language model, loaded if it is not yet."""
        self.open()
        assert self.model is not None
        return self.model

    @property
    def rows_at_once(self) -> int:
        """Tokens of one forward pass."""
        return self.lm_batch_size * self.context_size

    @property
    def reads_on(self) -> torch.device:
        """The device of the language model."""
        return self.language_model.device

    def why_not(self, need: str) -> str | None:
        """Return why an evaluation cannot have what it needs; of a loss, what the model says."""
        missing = super().why_not(need)
        return self.language_model.why_no_loss if need == LANGUAGE_MODEL else missing

    def planned_bytes(self) -> dict[str, Planned]:
        """Return the bytes of the language model up to the hook, of a pass, and of the buffer."""
        model = self.language_model
        n_bytes = model.forward_bytes(self.rows_at_once)
        return {
            "language model": Planned(model.bytes_before_hook(), (), held=True),
            "forward pass": Planned(n_bytes, ("activations.lm_batch_size",)),
            **super().planned_bytes(),
        }

    def sequences(self, split: Split, seed: int = 0) -> TokenSequences:
        """Return the sequences of a split: endless for training, one pass for evaluation.

        Raises:
            InvalidOption: they are longer than the model can read.
        """
        model = self.language_model
        limit = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and self.context_size > limit:
            allowed = f"at most {limit} for this model"
            raise InvalidOption("context_size", self.context_size, allowed)
        repeat = split == "train"
        return TokenSequences(
            self.text, model.tokenizer, self.context_size, split, seed, self.prepend_bos, repeat
        )

    def check(self, split: Split) -> None:
        """Read one sequence of a split."""
        next(self.sequences(split))

    def reader(self, seed: int) -> HarvestReader:
        """Return the training rows in the order of the text, without end."""
        return HarvestReader(self, self.sequences("train", seed))

    def training_sequences(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the sequences that the training rows are of, without end."""
        sequences = self.sequences("train", seed)
        while True:
            rows = sequences.read()
            yield rows, ~are_of(rows[..., KIND], self.exclude)

    def readers(self, seed: int, hook_names: Sequence[str]) -> list[Reader]:
        """Return a reader for each of several places, which share the passes of the model.

        Each gives the rows, and has the states, of the only reader of a source at that place. They
        may be read in any order, and in several threads; see `shared`.

        Raises:
            InvalidOption: the model has no such place.
        """
        places = [self.language_model.at(name).hook_name for name in hook_names]
        shared = SharedPasses(self.reader(seed), self._most_rows_waiting(), self.reads_on)
        return [shared.reader(place) for place in places]

    def _most_rows_waiting(self) -> int:
        """Rows that wait for a reader while another is ahead, at most."""
        return self.buffer_tokens + (1 + self.chunks_ahead) * self.rows_at_once

    def waiting_bytes(self, hook_names: Sequence[str]) -> dict[str, Planned]:
        """Return the bytes that `readers` of these places take beside their own buffers, at most.

        While one fills its buffer, the rows of all others wait.
        """
        widths = [self.language_model.at(name).d_in for name in hook_names]
        n_values = sum(widths) - min(widths)
        row = n_values * self.dtype.itemsize + (len(widths) - 1) * PLACES_BYTES
        n_bytes = self._most_rows_waiting() * row
        keys = ("activations.buffer_tokens", "activations.lm_batch_size")
        return {"rows of other places": Planned(n_bytes, keys, phase="training")}

    @torch.no_grad()
    def held_out(self, n_sequences: int, batch_sequences: int, seed: int = 0) -> Iterator[Rows]:
        """Yield held-out sequences in the order of the text; BOS and separators are left out."""
        model = self.language_model
        limited = itertools.islice(self.held_out_rows(seed), n_sequences)
        while batch := list(itertools.islice(limited, batch_sequences)):
            rows = torch.stack(batch)
            tokens = rows[..., TOKEN].long()
            text = is_text(rows)
            on_model = text.to(model.device)
            x = model.activations(tokens)[on_model].to(self.device)
            yield Rows(x, rows[text][:, :KIND].to(self.device), text.to(self.device))

    def held_out_rows(self, seed: int) -> Iterator[Int[Tensor, "context 4"]]:
        """Yield the held-out sequences as rows of (token, document, position, kinds)."""
        sequences = self.sequences("held_out", seed)
        while True:
            try:
                yield sequences.read()
            except StopIteration:
                return

    def metadata(self) -> dict[str, Any]:
        """Return the model and the place that an SAE belongs to."""
        model = self.language_model
        return {
            "model_name": model.name,
            "hook_name": model.hook_name,
            "context_size": self.context_size,
            "prepend_bos": self.prepend_bos,
            "exclude": list(self.exclude),
        }

    def describe(self) -> dict[str, Any]:
        """As the text has it; the config tells the rest."""
        return self.text.describe()

    def listing(self) -> dict[str, Any]:
        """As the text has it."""
        return self.text.listing()

    def left_out(self) -> dict[str, dict[str, Any]]:
        """As the text has it."""
        return self.text.left_out()


class HarvestReader:
    """Activations of the next sequences, as many as the language model reads at once.

    Args:
        source: the options and the model.
        sequences: token sequences in the order of the text.
    """

    def __init__(self, source: Harvest, sequences: TokenSequences) -> None:
        self.source, self.sequences = source, sequences

    @property
    def epoch(self) -> int:
        """Passes over the text that have ended."""
        return self.sequences.epoch

    def read(self) -> Rows:
        """Return the next rows at the place of the model.

        Each of several processes computes a part of the rows for all.
        """
        model = self.source.language_model
        return self._read(lambda tokens: [model.activations(tokens)])[0]

    def read_at(self, hook_names: Sequence[str]) -> dict[str, Rows]:
        """Return the next rows at several places of the model, by name, from one pass."""
        model = self.source.language_model
        found = self._read(lambda tokens: [*model.activations_at(tokens, hook_names).values()])
        return dict(zip(hook_names, found, strict=True))

    def _read(self, activations: Callable[[Tensor], list[Tensor]]) -> list[Rows]:
        rows = self._read_text()
        tokens = rows[..., TOKEN].long()
        own = distributed.local_shard(tokens)
        # Where there are more processes than sequences, one that nobody needs shows the width.
        found = activations(own if len(own) else tokens[:1])
        # Chosen on the CPU, where the tokens are, so that a GPU need not be waited for.
        left_out = are_of(rows[..., KIND], self.source.exclude)
        counted = (~left_out).flatten().nonzero()[:, 0]
        places = rows.flatten(0, 1)[counted][:, :KIND]

        def chosen(x: Tensor) -> Tensor:
            x = x[: len(own)]
            x = torch.cat(distributed.all_gather(x)) if distributed.world_size() > 1 else x
            return x.flatten(0, 1)[counted.to(x.device, non_blocking=True)]

        return [Rows(chosen(x), places) for x in found]

    def _read_text(self) -> Int[Tensor, "sequences context 4"]:
        """Return the next sequences; where the text cannot be read on, they are still to come."""
        before = self.sequences.state_dict()

        def read() -> Tensor:
            n = self.source.lm_batch_size
            return torch.stack([self.sequences.read() for _ in range(n)])

        try:
            return distributed.raise_on_all_ranks(read)
        except (InvalidOption, RunError):
            self.sequences.load_state_dict(before)
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the text."""
        return self.sequences.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.sequences.load_state_dict(state)
