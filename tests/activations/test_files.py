"""Activations in files of one's own."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from temporal_sae.activations import ActivationFiles
from temporal_sae.errors import InvalidOption, RunError

D_IN = 6


def rows_of(n, start=0):
    """Rows that tell their own number, exact in every format."""
    x = torch.zeros(n, D_IN)
    numbers = torch.arange(start, start + n)
    x[:, 0], x[:, 1] = numbers // 64, numbers % 64
    x[:, 2] = 1.0
    return x


def numbers_of(x):
    return (x[:, 0] * 64 + x[:, 1]).long()


def write_npy(path, x, dtype=np.float32):
    np.save(path.with_suffix(".npy"), x.numpy().astype(dtype))


def write_safetensors(path, x, dtype=torch.float32):
    save_file({"acts": x.to(dtype)}, path.with_suffix(".safetensors"))


def write_parquet(path, x, rows_in_group=40, fixed=True):
    kind = pa.list_(pa.float32(), D_IN) if fixed else pa.list_(pa.float16())
    values = x.numpy() if fixed else x.numpy().astype(np.float16)
    table = pa.table({"id": range(len(x)), "acts": pa.array(list(values), kind)})
    parquet.write_table(table, path.with_suffix(".parquet"), row_group_size=rows_in_group)


WRITERS = {
    "npy float32": write_npy,
    "npy float16": lambda p, x: write_npy(p, x, np.float16),
    "npy float64": lambda p, x: write_npy(p, x, np.float64),
    "npy big-endian": lambda p, x: write_npy(p, x, ">f4"),
    "npy of images": lambda p, x: np.save(p.with_suffix(".npy"), x.view(-1, 4, D_IN).numpy()),
    "safetensors float32": write_safetensors,
    "safetensors bfloat16": lambda p, x: write_safetensors(p, x, torch.bfloat16),
    "safetensors float16": lambda p, x: write_safetensors(p, x, torch.float16),
    "parquet": write_parquet,
    "parquet of one group": lambda p, x: write_parquet(p, x, 10_000),
    "parquet of lists of float16": lambda p, x: write_parquet(p, x, fixed=False),
}


def source_of(path, **options):
    options = {"block_rows": 16, "buffer_tokens": 64, "normalize": False, **options}
    return ActivationFiles(str(path), **options)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_row_is_read_once_a_pass_or_held_out(tmp_path, kind):
    n = 200
    WRITERS[kind](tmp_path / "a", rows_of(n))
    source = source_of(tmp_path, held_out_fraction=0.2)
    reader = source.reader(seed=0)
    assert source.d_in == D_IN
    first, second = (torch.cat([reader.read().x for _ in source.blocks["train"]]) for _ in range(2))
    held_out = torch.cat([rows.x for rows in source.held_out(1000, 4)])
    trained = numbers_of(first)
    assert sorted([*trained.tolist(), *numbers_of(held_out).tolist()]) == list(range(n))
    assert n / 10 < len(held_out) < n / 3
    assert sorted(numbers_of(second).tolist()) == sorted(trained.tolist())
    assert numbers_of(second).tolist() != trained.tolist()  # another pass, another order


def test_a_rows_place_leads_back_to_it_through_the_shuffling(tmp_path):
    for n in range(3):
        write_npy(tmp_path / f"{n}", rows_of(100, 100 * n))
    source = source_of(tmp_path)
    stream = source.stream(batch_size=32, seed=0)
    blocks = {block.number: block for side in source.blocks.values() for block in side}
    for batch in itertools.islice(stream, 20):
        for number, (token, document, position) in zip(
            numbers_of(batch.x).tolist(), batch.rows.places.tolist(), strict=True
        ):
            block = blocks[document]
            assert token == -1
            assert 100 * int(block.table.name[0]) + block.start + position == number


@pytest.mark.parametrize("n", [0, 1, 9, 30])
@pytest.mark.parametrize("ordered", [False, True])
def test_continues_to_the_bit(tmp_path, n, ordered):
    write_parquet(tmp_path / "a", rows_of(300))
    stream, other = (source_of(tmp_path).stream(32, 0, ordered) for _ in range(2))
    for _ in range(n):
        next(stream)
    state = stream.state_dict()
    state["buffer"]["rows"] = {k: v.clone() for k, v in state["buffer"]["rows"].items()}
    other.load_state_dict(state)
    for _ in range(20):
        a, b = next(stream), next(other)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.rows.places, b.rows.places)
        assert [r.x.tolist() for r in a.ordered] == [r.x.tolist() for r in b.ordered]


def test_blocks_of_a_row_group_are_read_after_each_other(tmp_path):
    """A row group is decoded as a whole, however few of its rows are wanted."""
    write_parquet(tmp_path / "a", rows_of(480), rows_in_group=160)
    source = source_of(tmp_path, held_out_fraction=0)
    reader = source.reader(0)
    groups = [int(numbers_of(reader.read().x)[0]) // 160 for _ in source.blocks["train"]]
    assert [group for group, _ in itertools.groupby(groups)] in (
        [*p] for p in itertools.permutations(range(3))
    )
    decoded = []
    table = source.blocks["train"][0].table
    read = table._file.read_row_group
    table._file = type(
        "Counting",
        (),
        {"read_row_group": lambda self, number, **kw: decoded.append(number) or read(number, **kw)},
    )()
    for _ in source.blocks["train"]:
        reader.read()
    assert len(decoded) <= 4


def test_held_out_sequences_are_rows_that_follow_each_other(tmp_path):
    write_npy(tmp_path / "a", rows_of(2000))
    source = source_of(tmp_path, block_rows=300, held_out_fraction=0.5)
    parts = list(source.held_out(n_sequences=5, batch_sequences=2))
    assert [len(rows.sequences) for rows in parts] == [2, 2, 1]
    for rows in parts:
        lengths = rows.sequences.sum(1).tolist()
        assert all(length in (128, 300 - 2 * 128, 2000 % 300 - 128) for length in lengths)
        for part in rows.x.split(lengths):
            assert (numbers_of(part).diff() == 1).all()


def test_a_buffer_does_not_hold_a_row_twice(tmp_path):
    write_npy(tmp_path / "a", rows_of(160))
    stream = source_of(tmp_path, buffer_tokens=10_000).stream(32, 0)
    stream.sample(1)
    held = numbers_of(stream.buffer.held().x).tolist()
    assert len(set(held)) == len(held)


def damaged_npy(path):
    write_npy(path, rows_of(100))
    whole = path.with_suffix(".npy").read_bytes()
    path.with_suffix(".npy").write_bytes(whole[:-100])


def damaged_safetensors(path):
    write_safetensors(path, rows_of(100))
    whole = path.with_suffix(".safetensors").read_bytes()
    path.with_suffix(".safetensors").write_bytes(whole[:-100])


def damaged_parquet(path):
    write_parquet(path, rows_of(100))
    whole = path.with_suffix(".parquet").read_bytes()
    path.with_suffix(".parquet").write_bytes(whole[:-100])


def two_widths(path):
    write_npy(path, rows_of(100))
    np.save(path.with_name("b.npy"), np.zeros((50, 7), np.float32))


def two_tensors(path):
    save_file({"x": rows_of(9), "y": rows_of(9)}, path.with_suffix(".safetensors"))


def two_columns(path):
    column = pa.array([[1.0]], pa.list_(pa.float32()))
    parquet.write_table(pa.table({"x": column, "y": column}), path.with_suffix(".parquet"))


def lists_of(*lengths):
    """Writes lists of so many numbers, two in a row group."""

    def write(path):
        lists = pa.array([[1.0] * n for n in lengths], pa.list_(pa.float32()))
        table = pa.table({"acts": lists})
        parquet.write_table(table, path.with_suffix(".parquet"), row_group_size=2)

    return write


def pickled(path):
    np.save(path.with_suffix(".npy"), np.array([{}], dtype=object), allow_pickle=True)


def header_of(header):
    """Writes a .npy file with any header."""

    def write(path):
        data = header.encode().ljust(117) + b"\n"
        path.with_suffix(".npy").write_bytes(b"\x93NUMPY\1\0\x76\0" + data + bytes(800))

    return write


def shape_of(shape):
    return header_of(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")


BAD = {
    **{
        f"a header {header}": (header_of(header), r"^a\.npy: cannot be read \(")
        for header in ("{[]:1}", "{'descr': ", "", "(" * 100, "[] + {}")
    },
    **{
        f"a shape {shape}": (shape_of(shape), r"^a\.npy: cannot be read \(")
        for shape in ("(-5, 4)", f"({10**25}, 4)", "(True, 4)", "(2.0, 4)", f"({2**50}, 4)")
    },
    "npy cut off": (damaged_npy, r"a\.npy: cannot be read"),
    "safetensors cut off": (damaged_safetensors, r"a\.safetensors: cannot be read"),
    "parquet cut off": (damaged_parquet, r"a\.parquet: cannot be read"),
    "another width": (two_widths, r"b\.npy: its rows are 7 wide, those of a\.npy 6"),
    "two tensors": (two_tensors, r"^key=None: must be one of x, y, which a\.safetensors holds$"),
    "two columns": (two_columns, r"^key=None: must be one of x, y, which a\.parquet holds$"),
    "ragged lists": (
        lists_of(2, 1),
        r"a\.parquet: row 1 of acts has 1 numbers, and the first row 2",
    ),
    # Together they are as many numbers as rows of one width would be.
    "3 and 5 for 4 and 4": (lists_of(3, 5), r"a\.parquet: row 1 of acts has 5 numbers"),
    "a list that is missing": (
        lambda p: parquet.write_table(
            pa.table({"acts": pa.array([[1.0], None], pa.list_(pa.float32()))}),
            p.with_suffix(".parquet"),
        ),
        r"a\.parquet: row 1 of acts has 0 numbers",
    ),
    "empty lists": (lists_of(0, 0), r"a\.parquet: has shape \[2, 0\]; .* one column"),
    "no lists": (lists_of(), r"a\.parquet: has shape \[0, 0\]; .* at least one row"),
    "a pickle": (pickled, r"a\.npy: cannot be read"),
    "integers": (lambda p: write_npy(p, rows_of(9), np.int32), r"a\.npy: holds int32; activations"),
    "a vector": (lambda p: write_npy(p, rows_of(9)[:, 0]), r"a\.npy: has shape \[9\]"),
    "no rows": (lambda p: write_npy(p, rows_of(0)), r"a\.npy: has shape \[0, 6\]"),
    "by columns": (
        lambda p: np.save(p.with_suffix(".npy"), np.asfortranarray(rows_of(9).numpy())),
        r"a\.npy: is stored by columns",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(tmp_path, kind):
    write, message = BAD[kind]
    write(tmp_path / "a")
    with pytest.raises((InvalidOption, RunError), match=message) as error:
        source_of(tmp_path).open()
    assert "\n" not in str(error.value)


def test_a_row_of_another_width_in_a_later_row_group_is_named(tmp_path):
    lists_of(4, 4, 4, 4, 3, 5)(tmp_path / "a")
    source = source_of(tmp_path, block_rows=2, held_out_fraction=0)
    reader = source.reader(0)
    with pytest.raises(RunError, match=r"^a\.parquet: row 4 of acts has 3 numbers, .* row 4;"):
        for _ in range(3):
            reader.read()


def test_row_groups_without_rows_are_passed_over(tmp_path):
    kind = pa.list_(pa.float32())
    table = pa.table({"acts": pa.array(rows_of(20).numpy().tolist(), kind)})
    with parquet.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for start, stop in ((0, 0), (0, 10), (10, 10), (10, 20), (20, 20)):
            writer.write_table(table.slice(start, stop - start))
    source = source_of(tmp_path, held_out_fraction=0)
    reader = source.reader(0)
    rows = torch.cat([reader.read().x for _ in source.blocks["train"]])
    assert sorted(numbers_of(rows).tolist()) == list(range(20))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named(tmp_path, value):
    x = rows_of(100)
    x[77, 3] = value
    write_npy(tmp_path / "a", x)
    source = source_of(tmp_path, held_out_fraction=0)
    with pytest.raises(RunError, match=r"^a\.npy: row 77 holds a number that is not finite$"):
        for _ in range(10):
            next(source.stream(32, 0))


def test_a_held_out_row_that_is_not_finite_is_found_before_training(tmp_path):
    x = rows_of(2000)
    write_npy(tmp_path / "a", x)
    source = source_of(tmp_path)
    source.open()
    row = source.blocks["held_out"][-1].start + 3
    x[row, 0] = float("nan")
    write_npy(tmp_path / "a", x)
    for ask in (lambda s: s.check("held_out"), lambda s: s.why_not("rows")):
        with pytest.raises(
            RunError, match=rf"^a\.npy: row {row} holds a number that is not finite$"
        ):
            ask(source_of(tmp_path))
    source_of(tmp_path).check("train")


def test_of_many_held_out_rows_some_are_looked_at_once(tmp_path, monkeypatch):
    write_npy(tmp_path / "a", rows_of(4000))
    source = source_of(tmp_path, held_out_fraction=0.9, block_rows=4)
    read, blocks = source.read_block, []
    monkeypatch.setattr(source, "read_block", lambda block: blocks.append(block) or read(block))
    source.check("held_out")
    source.check("held_out")
    assert 256 <= len(blocks) <= 257


@pytest.mark.parametrize(
    ("n_rows", "typed", "expected"),
    [
        ([5], None, 1),
        ([300], None, 15),
        ([19 * 1024], None, 972),
        ([19 * 1024 + 1], None, 1024),
        ([40_000], None, 1024),
        ([30] * 20, None, 30),  # a block is of one file
        ([30] * 5, None, 7),
        ([300], 1024, 300),
        ([300], 100, 100),
    ],
)
def test_blocks_are_small_where_there_are_few_rows(tmp_path, n_rows, typed, expected):
    for number, n in enumerate(n_rows):
        write_npy(tmp_path / f"{number:02}", rows_of(n))
    source = source_of(tmp_path, block_rows=typed)
    source.open()
    blocks = [block for side in source.blocks.values() for block in side]
    assert max(block.stop - block.start for block in blocks) == expected
    assert sum(block.stop - block.start for block in blocks) == sum(n_rows)
    if typed is None:
        assert source.blocks["held_out"]


@pytest.mark.parametrize("options", [{"held_out_fraction": 0.3}, {"block_rows": 20}])
def test_a_run_does_not_go_on_with_another_border(tmp_path, options):
    write_npy(tmp_path / "a", rows_of(300))
    state = source_of(tmp_path).stream(32, 0).state_dict()
    with pytest.raises(RunError, match=rf"a run on other activations \(.*{next(iter(options))}"):
        source_of(tmp_path, **options).stream(32, 0).load_state_dict(state)


def test_a_place_that_does_not_exist_is_refused(tmp_path):
    write_npy(tmp_path / "a", rows_of(300))
    source = source_of(tmp_path, held_out_fraction=0)
    n = len(source.reader(0).source.blocks["train"])
    source.reader(0).load_state_dict({"epoch": 0, "cursor": n})
    for place in (
        {"epoch": 0, "cursor": n + 1},
        {"epoch": 0, "cursor": -1},
        {"epoch": -1, "cursor": 0},
    ):
        with pytest.raises(
            RunError, match="at which the checkpoint goes on, does not exist"
        ) as error:
            source.reader(0).load_state_dict(place)
        assert "\n" not in str(error.value)


def test_reading_again_is_told_as_such(tmp_path, caplog):
    write_npy(tmp_path / "a", rows_of(100))
    source = source_of(tmp_path, held_out_fraction=0)
    reader = source.reader(0)
    with caplog.at_level("INFO", logger="temporal_sae"):
        for _ in range(3 * len(source.blocks["train"])):
            reader.read()
    told = "all 100 training rows have been read into the shuffle buffer; reading begins again"
    assert caplog.messages == [told]


@pytest.mark.parametrize(
    "options",
    [
        {"path": "nothing"},
        {"path": "*.nothing"},
        {"path": None},
        {"held_out_fraction": 1},
        {"block_rows": 0},
        {"key": "x"},
        {"changed": "maybe"},
    ],
)
def test_bad_options(tmp_path, options):
    write_npy(tmp_path / "a", rows_of(100))
    name = next(iter(options))
    if options.get("path"):
        options = {"path": str(tmp_path / options["path"])}
    with pytest.raises(InvalidOption, match=name):
        source_of(options.pop("path", tmp_path), **options).open()


@pytest.mark.parametrize("name", ["a.npz", "a.pt", "C.NPY", "notes"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_file_of_another_kind_is_named_with_those_that_are_read(tmp_path, name, whole):
    (tmp_path / name).write_bytes(b"x")
    path = tmp_path if whole else tmp_path / name
    kinds = r"\.npy, \.safetensors, \.parquet files that exist"
    with pytest.raises(
        InvalidOption, match=rf"path=.*{kinds}; {name} is of a kind that is not read"
    ):
        source_of(path)


def test_files_that_are_left_out_are_counted(tmp_path, caplog):
    write_npy(tmp_path / "a", rows_of(100))
    for name in ("b.npz", "c.NPY", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    source = source_of(tmp_path)
    with caplog.at_level("INFO", logger="temporal_sae"):
        source.open()
        source.open()
    [line] = caplog.messages
    assert "left out: 2 file(s) of another kind than .npy, .safetensors, .parquet" in line
    assert "(such as b.npz)" in line
    [about] = source.left_out().values()
    assert about == {"count": 2, "example": "b.npz"}
    assert source_of(tmp_path / "a.npy").left_out() == {}


def test_nothing_is_held_out(tmp_path):
    write_npy(tmp_path / "a", rows_of(100))
    source = source_of(tmp_path, held_out_fraction=0)
    with pytest.raises(RunError, match=r"no rows are held out: held_out_fraction=0 of 7 block"):
        source.check("held_out")
    assert source.why_not("rows").startswith("no rows are held out")
    assert source.why_not("language_model") == "these activations come without a language model"
