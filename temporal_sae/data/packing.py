"""Documents → token sequences of one length, without padding.

Documents are joined by the tokenizer's end-of-text token and cut every `context_size` tokens (one
fewer where each sequence begins with BOS). Nothing is dropped inside a pass: what does not fill a
sequence waits for the next document. The price is that a sequence may hold pieces of two documents.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from temporal_sae.data.documents import Piece, document_of
from temporal_sae.data.kinds import KINDS, USUAL, SpecialTokens, are_of
from temporal_sae.data.sources import Cursor, Split, TextSource
from temporal_sae.errors import InvalidOption, RunError, check_int

log = logging.getLogger(__name__)

BOS = KINDS["bos"] | KINDS["special"]
SEPARATOR = KINDS["separators"] | KINDS["special"]
NO_TEXT = (*USUAL, "padding")
TOKEN, DOCUMENT, POSITION, KIND = range(4)  # columns of the rows that say where a token stands


class TokenSequences(Iterator[Tensor]):
    """An endless iterator of token sequences that can be stopped and continued anywhere.

    Args:
        source: where the documents come from.
        tokenizer: a transformers tokenizer.
        context_size: tokens per sequence, BOS included.
        split: `train` or `held_out`.
        seed: fixes the order of the documents in every pass.
        prepend_bos: begin every sequence with the tokenizer's BOS token.
        repeat: start over when the text is used up; otherwise iteration ends there.

    Raises:
        InvalidOption: the tokenizer has no BOS token but `prepend_bos` is set.
        RunError: one whole pass does not fill a single sequence.
    """

    def __init__(
        self,
        source: TextSource,
        tokenizer: Any,
        context_size: int,
        split: Split = "train",
        seed: int = 0,
        prepend_bos: bool = True,
        repeat: bool = True,
    ) -> None:
        self.context_size = check_int("context_size", context_size, 2)
        if prepend_bos and tokenizer.bos_token_id is None:
            raise InvalidOption("prepend_bos", True, "false, as this tokenizer has no BOS token")
        self.source, self.tokenizer, self.split = source, tokenizer, split
        self.seed, self.prepend_bos, self.repeat = seed, prepend_bos, repeat
        self._bos = [tokenizer.bos_token_id] if prepend_bos else []
        self._body = self.context_size - len(self._bos)
        self._special = SpecialTokens(tokenizer)
        self._n_documents, self._n_tokens = 0, 0  # ended so far; of the document that is open
        self._begin_pass(epoch=0)
        self._waiting_rows = torch.empty(0, 4, dtype=torch.int32)  # up to `_first` handed out
        self._first = 0

    def _begin_pass(self, epoch: int, cursor: Cursor = 0, offset: int = 0) -> None:
        """Go on behind the document at `cursor`, at the place `offset` of the next one."""
        self.epoch, self.cursor, self.offset = epoch, cursor, offset
        self._sequences_this_epoch = 0
        self._documents = self.source.documents(self.split, self.seed, epoch, cursor)
        self._open: tuple[Cursor, Iterator[Piece]] | None = None  # the pieces that are left of one

    def __next__(self) -> Int[Tensor, " context"]:
        """Return the tokens of the next sequence, int64."""
        return self.read()[:, TOKEN].long()

    def read(self) -> Int[Tensor, "context 4"]:
        """Return the next sequence as rows of (token, document, position, kinds), int32.

        Documents are numbered from 0 in the order in which they are read, over all passes. The
        position is the token's in its document; BOS has -1 and belongs to what follows it. Kinds
        are bits of `KINDS`.
        """
        while len(self._waiting_rows) - self._first < self._body:
            self._read_piece()
        rows = self._waiting_rows[self._first : self._first + self._body]
        self._first += self._body
        self._sequences_this_epoch += 1
        kinds = torch.full((len(self._bos),), BOS, dtype=torch.int32)
        return torch.cat([in_places(self._bos, int(rows[0, DOCUMENT]), -1, kinds), rows])

    def _read_piece(self) -> None:
        """Tokenize the next piece of text; a document without any token leaves no separator."""
        if self._open is None:
            if (found := next(self._documents, None)) is None:
                self._start_next_epoch()
                return
            self._open = found[0], document_of(found[1]).pieces(self.tokenizer, self.offset)
        cursor, pieces = self._open
        ids, end, kinds = next(pieces, Piece([]))
        bits = self._special.kinds(torch.tensor(ids, dtype=torch.int32))
        if kinds is not None:
            bits |= torch.tensor(kinds, dtype=torch.int32)
        eos = self.tokenizer.eos_token_id
        # Tokens of a column, and chats, may bring their own.
        if end is None and eos is not None and (ids or self.offset) and ids[-1:] != [eos]:
            ids = [*ids, eos]
            bits = pad(bits, (0, 1), value=SEPARATOR)
        rows = in_places(ids, self._n_documents, self._n_tokens, bits)
        self._waiting_rows, self._first = torch.cat([self._waiting(), rows]), 0
        if end is None:
            self.cursor, self.offset, self._open = cursor, 0, None
            self._n_documents, self._n_tokens = self._n_documents + 1, 0
        else:
            self.offset = end
            self._n_tokens += len(ids)

    def _waiting(self) -> Int[Tensor, "n 4"]:
        return self._waiting_rows[self._first :]

    def _start_next_epoch(self) -> None:
        if not self._sequences_this_epoch:
            raise RunError(
                f"the {self.split} text holds {len(self._waiting())} tokens, fewer than one "
                f"sequence of activations.context_size={self.context_size}"
            )
        if not self.repeat:
            raise StopIteration
        if self.epoch == 0:
            n_tokens = self._sequences_this_epoch * self._body + len(self._waiting())
            told = "the %s text begins its second pass: one holds %s tokens"
            log.warning(told, self.split, f"{n_tokens:,}")
        self._begin_pass(self.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the exact position of the iterator; going on changes nothing in it."""
        return {
            "epoch": self.epoch,
            "cursor": self.cursor,
            "offset": self.offset,
            "windows_this_epoch": self._sequences_this_epoch,
            "documents": self._n_documents,
            "tokens": self._n_tokens,
            "waiting": self._waiting(),
            "source": self.source.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`: the same sequences follow as would have followed there."""
        self.source.load_state_dict(state.get("source", {}))
        # A state without an offset is one in which every document was read at once.
        self._begin_pass(int(state["epoch"]), state["cursor"], int(state.get("offset", 0)))
        self._sequences_this_epoch = int(state["windows_this_epoch"])
        self._n_documents = int(state.get("documents", 0))
        self._n_tokens = int(state.get("tokens", 0))
        waiting = state["waiting"].int()
        # A state of before 0.2 has the tokens alone.
        self._waiting_rows = waiting if waiting.ndim == 2 else self._in_unknown_places(waiting)
        self._first = 0

    def _in_unknown_places(self, tokens: Int[Tensor, " n"]) -> Int[Tensor, "n 4"]:
        """Rows of tokens whose documents nobody has noted."""
        rows = pad(tokens[:, None], (0, 3), value=-1)
        rows[:, KIND] = self._special.kinds(tokens)
        return rows


def in_places(
    ids: list[int], document: int, start: int, kinds: Int[Tensor, " n"]
) -> Int[Tensor, "n 4"]:
    """Rows of (token, document, position, kinds) for tokens that follow each other."""
    tokens = torch.tensor(ids, dtype=torch.int32)
    positions = torch.arange(start, start + len(ids), dtype=torch.int32)
    return torch.stack([tokens, torch.full_like(tokens, document), positions, kinds], 1)


def is_text(rows: Int[Tensor, "*sequences context 4"]) -> Bool[Tensor, "*sequences context"]:
    """Mark the tokens of documents, which are neither BOS nor separators nor padding."""
    return ~are_of(rows[..., KIND], NO_TEXT)
