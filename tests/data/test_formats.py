"""Every kind of data, from files to sequences: stopped, put into a checkpoint, and continued."""

import bz2
import gzip
import itertools
import json
import lzma

import pytest
import torch
import zstandard
from datasets import Dataset
from transformers import AutoTokenizer

from temporal_sae.assets import TINY_MODEL
from temporal_sae.data import HubText, MixtureText, StdlibText, TextFiles, TokenSequences
from temporal_sae.data.packing import TOKEN
from temporal_sae.training.checkpoint import Checkpoints

TEXTS = [f"document {n}, with 'é' and a comma\nx = {n} + {n}" for n in range(60)]
CHATS = [
    [{"role": "user", "content": text}, {"role": "assistant", "content": f"{n}"}]
    for n, text in enumerate(TEXTS)
]
COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


def text_folder(folder, ending):
    for n, text in enumerate(TEXTS):
        (folder / f"part{n % 3}").mkdir(exist_ok=True)
        (folder / f"part{n % 3}" / f"{n}{ending}").write_text(text)
    return folder


def single_file(folder):
    (folder / "book.md").write_text("\n\n".join(TEXTS * 5))
    return folder / "book.md"


def json_lines(values, column):
    return "".join(json.dumps({column: v}) + "\n" for v in values).encode()


def shards(folder, ending, values, column="text", compress=None):
    """Two files of rows by `ending`, and a glob that finds both."""
    for name, some in (("a", values[:35]), ("b", values[35:])):
        file, rows = folder / f"{name}{ending}", Dataset.from_dict({column: some})
        if ending == ".parquet":
            rows.to_parquet(file)
        elif ending in (".csv", ".tsv"):
            plain = [v if isinstance(v, str) else json.dumps(v) for v in some]
            rows = Dataset.from_dict({column: plain})
            rows.to_csv(file, sep="\t" if ending == ".tsv" else ",")
        elif ending == ".json":
            file.write_text(json.dumps([{column: v} for v in some]))
        elif ending == ".txt":
            file.write_text("\n".join(text.replace("\n", " ") for text in some))
        else:
            file.write_bytes(json_lines(some, column))
        if compress:
            file.with_name(f"{file.name}.{compress}").write_bytes(
                COMPRESS[compress](file.read_bytes())
            )
            file.unlink()
    return str(folder / f"*{ending}{f'.{compress}' if compress else ''}")


def saved(folder, values, column="text"):
    Dataset.from_dict({column: values}).save_to_disk(folder / "saved")
    return str(folder / "saved")


def tokenizer():
    found = AutoTokenizer.from_pretrained(TINY_MODEL)
    found.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    found.split_special_tokens = True
    return found


def ids():
    return tokenizer()(TEXTS, add_special_tokens=False)["input_ids"]


def mixture(folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
    one = TextFiles(str(text_folder(folder / "one", ".txt")), held_out_fraction=0)
    rows = shards(folder / "two", ".jsonl", CHATS, "messages", "zst")
    two = HubText(rows, messages_column="messages", held_out_fraction=0)
    return MixtureText([one, two, StdlibText()], [0.5, 0.3, 0.2])


def hub(name, **options):
    return HubText(str(name), held_out_fraction=0, **options)


CHAT, TOKENS = {"messages_column": "messages"}, {"tokens_column": "ids"}
KINDS = {
    "folder of .txt": lambda d: TextFiles(str(text_folder(d, ".txt")), held_out_fraction=0),
    "folder of .md": lambda d: TextFiles(str(text_folder(d, ".md"))),
    "glob of .rst": lambda d: TextFiles(str(text_folder(d, ".rst") / "**" / "*1.rst")),
    "single file": lambda d: TextFiles(str(single_file(d))),
    "standard library": lambda d: StdlibText(),
    **{
        f"rows of {ending}": lambda d, ending=ending: hub(shards(d, ending, TEXTS))
        for ending in (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
    },
    **{
        f"rows of {ending}.{how}": lambda d, ending=ending, how=how: hub(
            shards(d, ending, TEXTS, compress=how)
        )
        for ending, how in itertools.product((".jsonl", ".csv", ".json", ".txt"), COMPRESS)
    },
    "shuffled rows": lambda d: hub(shards(d, ".jsonl", TEXTS), shuffle_buffer=20),
    "save_to_disk": lambda d: hub(saved(d, TEXTS)),
    **{
        f"tokens in {ending}": lambda d, ending=ending: hub(
            shards(d, ending, ids(), "ids"), **TOKENS
        )
        for ending in (".jsonl", ".json", ".csv", ".tsv", ".parquet")
    },
    "tokens of save_to_disk": lambda d: hub(saved(d, ids(), "ids"), **TOKENS),
    **{
        f"chats in {ending}": lambda d, ending=ending: hub(
            shards(d, ending, CHATS, "messages"), **CHAT
        )
        for ending in (".jsonl", ".json", ".csv", ".tsv", ".parquet")
    },
    "chats of save_to_disk": lambda d: hub(saved(d, CHATS, "messages"), **CHAT),
    "mixture": mixture,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_and_continued(tmp_path, kind):
    (tmp_path / "data").mkdir()
    source = KINDS[kind](tmp_path / "data")
    stream = TokenSequences(source, tokenizer(), 32, seed=3)
    before = torch.stack([stream.read() for _ in range(25)])
    if kind.startswith(("rows", "tokens", "save")):
        text = stream.tokenizer.decode(before[:, 1:, TOKEN].flatten())
        assert text.startswith(TEXTS[0][:12])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"sequences": stream.state_dict()})
    after = torch.stack([stream.read() for _ in range(150)])  # into the next pass of most
    continued = TokenSequences(source, tokenizer(), 32, seed=3)
    continued.load_state_dict(checkpoints.load_newest()["sequences"])
    assert torch.equal(after, torch.stack([continued.read() for _ in range(150)]))
    assert not torch.equal(after[:25], before)
