"""`python -m temporal_sae.atlas explain`: explanations from Neuronpedia's files, and back."""

import gzip
import json

import pytest

from temporal_sae.atlas import Atlas
from temporal_sae.atlas.__main__ import main
from temporal_sae.atlas.explanations import LONGEST_LINE, LONGEST_TEXT, MOST_KINDS
from temporal_sae.errors import RunError
from tests.atlas.exports.documented import Explanation, read_lines
from tests.atlas.exports.made_up import D_SAE, made_up
from tests.atlas.site.reading import read, table
from tests.atlas.site.worlds import small_world

FIRST = {
    "modelId": "pythia-70m",
    "layer": "3-res",
    "index": "2",
    "description": "names of “days”, <b>\0</b>",
    "typeName": "oai_token-act-pair",
    "explanationModelName": "gpt-4o-mini",
    "scores": [{"value": 0.75, "explanationScoreTypeName": "recall"}, {"value": 0.1}],
}
KEPT = {
    "latent": 2,
    "description": FIRST["description"],
    "score": 0.75,
    "typeName": "oai_token-act-pair",
    "explanationModelName": "gpt-4o-mini",
}


@pytest.fixture
def atlas(tmp_path):
    """The folder of a made-up atlas."""
    return made_up(tmp_path)


@pytest.fixture
def file(tmp_path):
    """Write lines into a file, and return it."""

    def written(*lines, name="some.jsonl"):
        text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
        data = text.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return written


def explain(atlas, *files):
    """Import files, and return what the atlas then holds."""
    main(["explain", str(atlas), *map(str, files)])
    return Atlas(atlas).explanations


def test_there_are_none_at_first(atlas):
    assert Atlas(atlas).explanations == []


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.gz"])
def test_a_line_of_neuronpedia_is_kept(atlas, file, name, capsys):
    assert explain(atlas, file(FIRST, "", name=name)) == [KEPT]
    assert "1 explanations; 1 of 7 latents have one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "score"),
    [
        ({"scores": []}, None),
        ({"scores": None}, None),
        ({"scores": [0.5]}, 0.5),
        ({"scores": None, "scoreV2": 1}, 1.0),
        ({"score": -0.25}, -0.25),
    ],
)
def test_scores_have_several_names(atlas, file, change, score):
    assert explain(atlas, file(FIRST | change)) == [KEPT | {"score": score}]


def test_a_description_alone_is_enough(atlas, file):
    found = explain(atlas, file({"latent": 0, "description": "commas"}))
    assert found == [
        dict.fromkeys(KEPT) | {"latent": 0, "description": "commas"},
    ]


def test_the_last_of_a_latent_and_type_is_kept(atlas, file):
    again, other = FIRST | {"description": "new"}, FIRST | {"typeName": "other"}
    explain(atlas, file(FIRST, FIRST | {"index": 0}))
    found = explain(atlas, file(again, other, name="more.jsonl.gz"))
    assert [(e["latent"], e["typeName"], e["description"]) for e in found] == [
        (0, FIRST["typeName"], FIRST["description"]),
        (2, FIRST["typeName"], "new"),
        (2, "other", FIRST["description"]),
    ]


def test_the_pages_show_them(atlas, file):
    explain(atlas, file(FIRST))
    assert not (atlas / "site").exists()
    (atlas / "site").mkdir()
    explain(atlas, file(FIRST | {"index": 6}))
    shown = table(read(atlas / "site", "explanations"))
    assert (shown["latent"], shown["score"]) == ([2, 6], pytest.approx([0.75, 0.75]))


def test_what_is_exported_is_imported_again(atlas, file, tmp_path):
    lines = [FIRST, FIRST | {"index": 6, "scores": []}, {"latent": 0, "description": "é\n🙂"}]
    before = explain(atlas, file(*lines))
    main(["export", "neuronpedia", str(atlas), "--source-set=res", "--batch-size=2"])
    files = sorted(atlas.glob("exports/pythia-70m/3-res/explanations/*"))
    rows = [
        row
        for f in files
        for row in read_lines(Explanation, gzip.decompress(f.read_bytes()).decode())
    ]
    assert [(r.index, r.layer, r.modelId) for r in rows] == [
        (n, "3-res", "pythia-70m") for n in ("0", "2", "6")
    ]
    (atlas / "explanations.jsonl").unlink()
    without_nul = [e | {"description": e["description"].replace("\0", "␀")} for e in before]
    assert explain(atlas, *files) == without_nul


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("no json", ":2: "),
        ("[]", ":2: must be a JSON object"),
        (FIRST | {"index": str(D_SAE)}, f":2: index='7': must be a latent from 0 to {D_SAE - 1}"),
        (FIRST | {"index": "1.0"}, ":2: index='1.0': must be a latent"),
        (FIRST | {"index": True}, ":2: index=True: must be a latent"),
        (FIRST | {"index": None}, ":2: index=None: must be a latent"),
        (FIRST | {"description": " "}, ":2: description=' ': must be a text"),
        (FIRST | {"description": 3}, ":2: description=3: must be a text"),
        (FIRST | {"description": "x" * (LONGEST_TEXT + 1)}, "must be a text of at most 10000"),
        (FIRST | {"typeName": ["x"]}, ":2: typeName=['x']: must be a text"),
        (FIRST | {"explanationModelName": "x" * 201}, "explanationModelName="),
        (FIRST | {"scores": "high"}, ":2: scores='high': must be a number"),
        (FIRST | {"scores": [{"value": True}]}, ":2: scores=[{'value': True}]: must be"),
        (FIRST | {"score": float("inf")}, ":2: score=inf: must be a number"),
        (FIRST | {"layer": "4-res"}, ":2: layer='4-res': must be of layer 3"),
        (FIRST | {"layer": "3-mlp"}, "must be pythia-70m/3-res, as in the lines before"),
        (FIRST | {"modelId": "gpt2"}, "must be pythia-70m/3-res, as in the lines before"),
        ('{"index": 1, "index": 2}', "the key 'index' is given twice"),
        (" " * (LONGEST_LINE + 1), "a line is longer than"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_a_line_that_does_not_fit_is_named_and_nothing_is_kept(atlas, file, capsys, line, told):
    path = file(FIRST, line)
    with pytest.raises(SystemExit, match="2"):
        explain(atlas, path)
    err = capsys.readouterr().err
    assert str(path) in err
    assert told in err
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert Atlas(atlas).explanations == []


def test_too_many_types_are_one_line(atlas, file, capsys):
    lines = [FIRST | {"typeName": f"type {n}"} for n in range(MOST_KINDS + 1)]
    with pytest.raises(SystemExit, match="2"):
        explain(atlas, file(*lines))
    assert "typeName='type 100': there are more than 100" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "folder", "cut", "changed", "not gzip"])
def test_a_file_that_cannot_be_read_is_one_line(atlas, file, tmp_path, capsys, damage):
    path = tmp_path / "bad.jsonl.gz"
    if damage == "folder":
        path.mkdir()
    elif damage in ("cut", "changed"):
        whole = file(*[FIRST | {"description": str(n)} for n in range(99)], name="whole.gz")
        data = whole.read_bytes()
        path.write_bytes(data[:-20] if damage == "cut" else data[:40] + b"\xff" * 99)
    elif damage == "not gzip":
        path.write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(SystemExit, match="2"):
        explain(atlas, path)
    err = capsys.readouterr().err
    assert f"{path}: cannot be read (" in err
    assert err.count("\n") == 1


def test_no_atlas_is_one_line(file, tmp_path, capsys):
    for folder, told in ((tmp_path / "no", "there is no such folder"), (tmp_path, "is missing")):
        with pytest.raises(SystemExit, match="2"):
            main(["explain", str(folder), str(file(FIRST))])
        assert told in capsys.readouterr().err


def test_explanations_that_were_damaged_are_one_line(atlas):
    (atlas / "explanations.jsonl").write_text('{"latent": 99, "description": "x"}\n')
    with pytest.raises(RunError, match=r"explanations\.jsonl:1: latent=99: must be a latent"):
        _ = Atlas(atlas).explanations


def test_they_do_not_become_those_of_another_sae(tmp_path):
    line = {"latent": 3, "description": "x"}
    path = tmp_path / "explanations.jsonl"
    small_world(tmp_path)
    path.write_text(json.dumps(line) + "\n")
    small_world(tmp_path)  # the same SAE again
    assert [one["latent"] for one in Atlas(tmp_path).explanations] == [3]
    small_world(tmp_path, seed=2)
    assert Atlas(tmp_path).explanations == []
    assert json.loads((tmp_path / "explanations.jsonl.earlier").read_text()) == line
