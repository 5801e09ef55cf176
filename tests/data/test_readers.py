"""Each name is read by its own reader; nothing that lies in a folder is run."""

import bz2
import gzip
import json
import os
import re

import pytest
import zstandard
from datasets import Dataset, DatasetDict

from temporal_sae.data import HubText
from temporal_sae.errors import InvalidOption, RunError

ROWS = [f"document {n}, with a comma" for n in range(40)]
LINES = "".join(json.dumps({"text": row, "n": [1]}) + "\n" for row in ROWS).encode()


def texts(name, **options):
    source = HubText(str(name), held_out_fraction=0, **options)
    return [text for _, text in source.documents("train", 0, 0)]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"])
def test_files_are_read_by_their_ending(tmp_path, monkeypatch, ending, streaming):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / f"rows [1] of 'é'{ending}"
    rows = Dataset.from_dict({"text": ROWS})
    if ending == ".jsonl":
        file.write_bytes(LINES)
    elif ending == ".json":
        file.write_text(json.dumps([{"text": row} for row in ROWS]))
    elif ending == ".txt":
        file.write_text("\n".join(ROWS))
    elif ending == ".parquet":
        rows.to_parquet(file)
    else:
        rows.to_csv(file, sep="\t" if ending == ".tsv" else ",")
    assert texts(file, streaming=streaming) == ROWS


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_compressed_files_and_globs(tmp_path, monkeypatch, ending, compress):
    half = LINES.index(b"document 20") - len('{"text": "')
    (tmp_path / f"a.jsonl.{ending}").write_bytes(compress(LINES[:half]))
    (tmp_path / f"b.jsonl.{ending}").write_bytes(compress(LINES[half:]))
    monkeypatch.chdir(tmp_path)
    assert texts(f"*.jsonl.{ending}") == ROWS
    assert texts(f"b.jsonl.{ending}") == ROWS[20:]


def cut_at_a_line(content, n_bytes=0):
    """A frame of zstd that ends where a block and a line end, or after so many bytes."""
    frame = zstandard.ZstdCompressor().compressobj()
    half = content.index(b"\n", len(content) // 2) + 1
    whole = frame.compress(content[:half]) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return whole[: n_bytes or len(whole)]


@pytest.mark.parametrize("skip_broken", [0, 5])
@pytest.mark.parametrize("n_bytes", [0, 3])
@pytest.mark.parametrize("ending", [".jsonl", ".txt", ".csv", ".json"])
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path, ending, n_bytes, skip_broken):
    content = LINES if ending.startswith(".json") else "\n".join(["text", *ROWS]).encode()
    (tmp_path / f"a{ending}.zst").write_bytes(zstandard.compress(content))
    (tmp_path / f"b{ending}.zst").write_bytes(cut_at_a_line(content, n_bytes))
    told = rf"b{re.escape(ending)}\.zst is cut off"
    with pytest.raises((InvalidOption, RunError), match=told) as refused:
        texts(tmp_path / f"*{ending}.zst", skip_broken=skip_broken)
    assert "\n" not in str(refused.value)


def test_frames_of_zstd_are_read_one_after_the_other(tmp_path):
    skipped = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"other"
    frames = [zstandard.compress(line) for line in LINES.splitlines(keepends=True)]
    (tmp_path / "a.jsonl.zst").write_bytes(skipped + b"".join(frames) + zstandard.compress(b""))
    assert texts(tmp_path / "a.jsonl.zst") == ROWS
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames) + frames[0][:-1])
    with pytest.raises(RunError, match="is cut off"):
        texts(tmp_path / "a.jsonl.zst")


def test_what_is_before_the_cut_is_read_without_what_comes_behind(tmp_path):
    content = b"".join(b"%09d\n" % n for n in range(1_500_000))  # the reader takes 10 MiB at once
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(content)[:-1])
    documents = HubText(str(tmp_path / "a.txt.zst"), held_out_fraction=0).documents("train", 0, 0)
    assert next(documents) == (1, "000000000")


def test_what_save_to_disk_wrote(tmp_path):
    Dataset.from_dict({"text": ROWS}).save_to_disk(tmp_path / "one")
    assert texts(tmp_path / "one") == ROWS
    parts = {"train": Dataset.from_dict({"text": ["a"]}), "test": Dataset.from_dict({"text": ROWS})}
    DatasetDict(parts).save_to_disk(tmp_path / "several")
    assert texts(tmp_path / "several", dataset_split="test") == ROWS
    with pytest.raises(InvalidOption, match="dataset_split='dev': must be one of train, test"):
        texts(tmp_path / "several", dataset_split="dev")
    with pytest.raises(InvalidOption, match="text_column='body': must be one of text"):
        texts(tmp_path / "one", text_column="body")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(InvalidOption, match=r"name=.*a data set that can be loaded"):
        texts(tmp_path / "one")


@pytest.mark.parametrize("name", ["script", "script/script.py"])
def test_a_script_is_never_run(tmp_path, monkeypatch, name):
    (tmp_path / "script").mkdir()
    code = f"open({str(tmp_path / 'was run')!r}, 'w')\n"
    (tmp_path / "script" / "script.py").write_text(code)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InvalidOption, match="name="):
        texts(tmp_path / name)
    assert not (tmp_path / "was run").exists()


def test_what_is_there_but_no_data_set(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.csv").write_bytes(b"text\n")
    for name in ("a.pkl", "pipe.jsonl", "missing.jsonl", "*"):
        with pytest.raises(InvalidOption, match=r"existing folder, file or quoted glob"):
            texts(tmp_path / name)
    with pytest.raises(InvalidOption, match=r"dataset_split='dev': must be a split it has"):
        texts(tmp_path / "a.jsonl", dataset_split="dev")
    with pytest.raises(InvalidOption, match=r"name=''"):
        texts("")


def truncated_parquet(folder):
    Dataset.from_dict({"text": ROWS}).to_parquet(folder / "a.parquet")
    whole = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(whole[: len(whole) // 2])
    return folder / "a.parquet"


def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path, capfd):
    with pytest.raises((InvalidOption, RunError), match=r"a\.parquet"):
        texts(truncated_parquet(tmp_path))
    for name, content in (("a.csv", "text,b\nx,1\ny,2,3\n"), ("a.json", '[{"text": "a"},')):
        (tmp_path / name).write_text(content)
        with pytest.raises((InvalidOption, RunError), match=f"{name}.*{name}") as refused:
            texts(tmp_path / name)
        assert "\n" not in str(refused.value)
    assert "Failed" not in capfd.readouterr().err


def test_a_mark_at_the_beginning_is_no_part_of_the_first_row(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + LINES)
    assert texts(file) == ROWS
