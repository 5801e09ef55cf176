"""Token sequences → language-model activations → shuffled batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae import distributed
from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.outliers import OUTLIERS, Outliers
from temporal_sae.activations.shuffle import ShuffleBuffer
from temporal_sae.data import Split, TextSource, TokenSequences, is_text
from temporal_sae.errors import (
    InvalidOption,
    RunError,
    check_bool,
    check_choice,
    check_int,
    check_number,
)
from temporal_sae.machine import Planned
from temporal_sae.registry import component


@dataclass(frozen=True)
class ActivationBatch:
    """A shuffled batch and, where asked for, the tokens read since the last one in text order."""

    x: Float[Tensor, "batch d_in"]
    ordered: tuple[Float[Tensor, "tokens d_in"], ...] = ()


@component("activations")
class ActivationSource:
    """The way from text to activations: sequences, BOS, language-model batches, buffer, scale.

    Args:
        context_size: tokens per sequence, BOS included.
        prepend_bos: begin every sequence with BOS.
        include_bos: keep the activations at BOS, whose norm is often tens of times the others',
            and at the end-of-text tokens between documents.
        lm_batch_size: sequences in one forward pass of the language model.
        buffer_tokens: rows of the shuffle buffer.
        normalize: divide by one constant so that E‖x‖² = 1 in training; folded into the saved SAE.
        outliers: what training does with rows that are too long: `keep` them, `drop` them, or
            `clip` them to the limit. Their share is counted in any case, and evaluation takes all
            rows as they are. On CUDA `drop` waits for the device at each harvest.
        outlier_factor: the limit, over the median norm of the rows that first fill the buffer.

    Raises:
        InvalidOption: an option is out of range.
    """

    def __init__(
        self,
        context_size: int = 128,
        prepend_bos: bool = True,
        include_bos: bool = False,
        lm_batch_size: int = 32,
        buffer_tokens: int = 32768,
        normalize: bool = True,
        outliers: str = "keep",
        outlier_factor: float = 10.0,
    ) -> None:
        self.context_size = check_int("context_size", context_size, 2)
        self.prepend_bos = check_bool("prepend_bos", prepend_bos)
        self.include_bos = check_bool("include_bos", include_bos)
        self.normalize = check_bool("normalize", normalize)
        self.lm_batch_size = check_int("lm_batch_size", lm_batch_size, 1)
        self.buffer_tokens = check_int("buffer_tokens", buffer_tokens, 1)
        self.outliers = check_choice("outliers", outliers, OUTLIERS)
        self.outlier_factor = check_number("outlier_factor", outlier_factor, minimum=1.0)

    def planned_bytes(self, model: LanguageModel) -> dict[str, Planned]:
        """Return the bytes that the stream takes on the model's device, by purpose."""
        size = {"float32": 4}.get(model.dtype, 2)
        n_bytes = self.buffer_tokens * model.d_in * size
        return {"shuffle buffer": Planned(n_bytes, ("activations.buffer_tokens",))}

    def counted(
        self, tokens: Int[Tensor, "sequences context"], model: LanguageModel
    ) -> Bool[Tensor, "sequences context"]:
        """Mark the positions that are trained on."""
        if self.include_bos:
            return torch.ones_like(tokens, dtype=torch.bool)
        return is_text(tokens, model.tokenizer)

    def sequences(
        self, text: TextSource, model: LanguageModel, split: Split, seed: int
    ) -> TokenSequences:
        """Sequences of a split: endless for training, one pass for evaluation."""
        limit = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and self.context_size > limit:
            raise InvalidOption(
                "context_size", self.context_size, f"at most {limit} for this model"
            )
        repeat = split == "train"
        return TokenSequences(
            text, model.tokenizer, self.context_size, split, seed, self.prepend_bos, repeat
        )

    def stream(
        self, text: TextSource, model: LanguageModel, batch_size: int, seed: int, ordered: bool
    ) -> ActivationStream:
        """The endless, resumable training stream."""
        if batch_size > self.buffer_tokens:
            raise InvalidOption(
                "buffer_tokens", self.buffer_tokens, f"at least trainer.batch_size={batch_size}"
            )
        sequences = self.sequences(text, model, "train", seed)
        return ActivationStream(self, sequences, model, batch_size, seed, ordered)


class ActivationStream(Iterator[ActivationBatch]):
    """Shuffled batches of activations, without end; can be stopped and continued to the bit.

    Args:
        source: the options.
        sequences: token sequences in text order.
        model: where the activations come from.
        batch_size: rows of a batch.
        seed: fixes the shuffling.
        ordered: hand out the tokens in text order too.
    """

    def __init__(
        self,
        source: ActivationSource,
        sequences: TokenSequences,
        model: LanguageModel,
        batch_size: int,
        seed: int,
        ordered: bool = False,
    ) -> None:
        self.source, self.sequences, self.model = source, sequences, model
        self.batch_size, self.ordered = batch_size, ordered
        harvest = source.lm_batch_size * source.context_size
        self.buffer = ShuffleBuffer(source.buffer_tokens, seed, model.device, harvest)
        self.outliers = Outliers(source.outliers, source.outlier_factor, model.device)
        self._not_handed_out: list[Tensor] = []
        self._scale: float | None = None

    @property
    def scale(self) -> float:
        """√E‖x‖² over the first full buffer, by which batches are divided; 1 if not normalised.

        Measured once outliers have been dropped or clipped.
        """
        if self._scale is None:
            self._fill()
            rows = self.buffer.held().float()
            norm = float(rows.square().sum(-1).mean().sqrt())
            self._scale = norm if self.source.normalize and norm > 0 else 1.0
        return self._scale

    def sample(self, n: int) -> Float[Tensor, "n d_in"]:
        """Up to `n` rows of the buffer as batches would hold them; nothing is consumed."""
        scale = self.scale
        held = self.buffer.held()
        return held[:: max(1, held.shape[0] // n)][:n].float() / scale

    def __next__(self) -> ActivationBatch:
        scale = self.scale
        self._fill()
        x = self.buffer.draw(self.batch_size).float() / scale
        ordered = tuple(chunk.float() / scale for chunk in self._not_handed_out)
        self._not_handed_out = []
        return ActivationBatch(x, ordered)

    def metrics(self) -> dict[str, Tensor]:
        """`outlier_share`: outliers among all rows harvested so far; on the device."""
        return {"outlier_share": self.outliers.share()}

    def _fill(self) -> None:
        """Harvest until the buffer is full; what fills it first also sets the outliers' limit."""
        if self.outliers.limit is None:
            first: list[Tensor] = []
            while sum(map(len, first)) < self.buffer.capacity:
                first.append(self._harvest())
            self.outliers.measure(first)
            while first:  # each is freed once it has been copied
                self._take_in(first.pop(0))
        while not self.buffer.full:
            self._take_in(self._harvest())

    def _harvest(self) -> Float[Tensor, "tokens d_in"]:
        """Activations of the next sequences; each process brings a part of them for all."""
        tokens = self._read()
        own = distributed.local_shard(tokens)
        # Where there are more processes than sequences, one that nobody needs shows the width.
        acts = self.model.activations(own if len(own) else tokens[:1])[: len(own)]
        acts = torch.cat(distributed.all_gather(acts)) if distributed.world_size() > 1 else acts
        # Chosen on the CPU, where the tokens are, so that a GPU need not be waited for.
        rows = self.source.counted(tokens, self.model).flatten().nonzero()[:, 0]
        return acts.flatten(0, 1)[rows.to(acts.device, non_blocking=True)]

    def _read(self) -> Int[Tensor, "sequences context"]:
        """The next sequences; where the text cannot be read on, they are still to come."""
        before = self.sequences.state_dict()

        def read() -> Tensor:
            return torch.stack(list(itertools.islice(self.sequences, self.source.lm_batch_size)))

        try:
            return distributed.raise_on_all_ranks(read)
        except (InvalidOption, RunError):
            self.sequences.load_state_dict(before)
            raise

    def _take_in(self, rows: Float[Tensor, "tokens d_in"]) -> None:
        rows = self.outliers.treat(rows)
        self.buffer.add(rows)
        if self.ordered and len(rows):
            self._not_handed_out.append(rows)

    def state_dict(self) -> dict[str, Any]:
        """Text cursor, buffer, scale, and the limit and counts of outliers."""
        scale = self.scale  # first: measuring it may harvest
        return {
            "windows": self.sequences.state_dict(),
            "buffer": self.buffer.state_dict(),
            "scale": scale,
            "outliers": self.outliers.state_dict(),
            "not_handed_out": {str(n): chunk for n, chunk in enumerate(self._not_handed_out)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.sequences.load_state_dict(state["windows"])
        self.buffer.load_state_dict(state["buffer"])
        self._scale = float(state["scale"])
        self.outliers.load_state_dict(state["outliers"])
        waiting = state.get("not_handed_out", {})
        self._not_handed_out = [waiting[str(n)].to(self.model.device) for n in range(len(waiting))]
