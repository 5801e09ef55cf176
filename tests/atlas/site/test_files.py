"""Contents of the files of a site, against the tables and firings that they are made from."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from temporal_sae.atlas import Atlas, statistics
from temporal_sae.atlas.explain_command import explain
from temporal_sae.atlas.firings import remove_firings
from temporal_sae.atlas.site import rewrite_latents, write_site
from temporal_sae.atlas.site.encode import packed, varints
from temporal_sae.atlas.site.vocabulary import Vocabulary
from temporal_sae.atlas.statistics import Counts
from tests.atlas.site import reading, worlds
from tests.atlas.site.reading import content, read, table, varint_lists


class Site:
    """A site with all that it is made from."""

    def __init__(self, folder, **options):
        _, self.firings = worlds.small_world(folder, **options)
        self.atlas = Atlas(folder)
        if not options:
            self.atlas = worlds.with_everything(folder)
        self.page = write_site(self.atlas, self.firings, folder)
        self.folder, self.files = folder, folder / "site"
        self.overview = read(self.files, "overview")
        fires = np.zeros((self.firings.n_tokens, worlds.N_LATENTS), np.float32)
        tokens = np.repeat(np.arange(self.firings.n_tokens), np.diff(self.firings.starts))
        fires[tokens, self.firings.latents] = self.firings.values
        self.acts = fires

    def latent_file(self, latent):
        return read(self.files, f"latents/{latent // self.overview['facts']['latents_in_file']}")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("site"))


def data_files(folder):
    return [path for path in folder.rglob("*.js") if b"atlas.take(" in path.read_bytes()[:11]]


def test_every_file_hands_json_over_under_its_own_name(site):
    files = data_files(site.files)
    names = {path.relative_to(site.files).parts[0] for path in files}
    assert names == {
        *("latents", "text", "firings", "counts"),
        *("overview.js", "pairs.js", "explanations.js"),
    }
    for path in files:
        name, _ = content(path)
        assert path == site.files / f"{name}.js"
        assert not set(path.read_bytes()) & set(b"<\x00")


def test_the_overview_has_every_latent(site):
    columns, latents = table(site.overview["latents"]), site.atlas.latents
    for name in ("n", "max_activation", "burstiness", "degree", "community"):
        wanted = latents[name].to_pylist()
        assert columns[name] == pytest.approx(wanted, rel=1e-6, nan_ok=True), name
    for name, of in (("stability", "snapshot_cosines"), ("seed_cosine", "seed_cosines")):
        wanted = [np.mean(row) for row in latents[of].to_pylist()]
        assert columns[name] == pytest.approx(wanted, rel=1e-6)
    strings = site.overview["strings"]
    found = [[strings[code] for code in row] for row in columns["tokens"]]
    assert found == [row[:4] for row in latents["top_tokens"].to_pylist()]
    assert set(worlds.HOSTILE) & set(strings)
    facts = site.overview["facts"]
    assert facts["n_latents"] == worlds.N_LATENTS
    assert facts["n_pairs"] == len(site.atlas.pairs)
    assert facts["title"] == "small <world>"
    assert facts["alpha"] == {"cap": 0.1, "scale": 1000.0}


@pytest.mark.parametrize("latent", [0, 1, 15, 16, 39])
def test_the_file_of_a_latent_has_all_of_it(site, latent):
    file, row = site.latent_file(latent), site.atlas.latents.slice(latent, 1).to_pylist()[0]
    columns = {name: of[latent - file["first"]] for name, of in table(file["latents"]).items()}
    strings = file["strings"]
    assert [strings[code] for code in columns.pop("top_tokens")] == row["top_tokens"]
    left_out = {"latent", "top_token_ids", "top_tokens", "top_logit_ids", "bottom_logit_ids"}
    assert set(columns) == set(row) - left_out
    for name, value in columns.items():
        wanted = row[name]
        if not any(isinstance(x, str) for x in np.ravel(wanted).tolist()):
            wanted = pytest.approx(wanted, rel=1e-6, nan_ok=True)
        assert value == wanted, name


@pytest.mark.parametrize("latent", [0, 1, 16, 39])
def test_the_examples_of_a_latent_are_those_of_the_table(site, latent):
    file = site.latent_file(latent)
    columns, strings = table(file["examples"]), file["strings"]
    largest = site.atlas.latents["max_activation"][latent].as_py()
    wanted = [row for row in site.atlas.examples.to_pylist() if row["latent"] == latent]
    found = [place for place, own in enumerate(columns["latent"]) if own == latent]
    assert len(found) == len(wanted)
    for place, row in zip(found, wanted, strict=True):
        text = [strings[code] for code in columns["tokens"][place]]
        assert text == [worlds.TEXT[n] for n in row["token_ids"]]
        for name in ("group", "document", "position", "place"):
            assert columns[name][place] == row[name]
        assert columns["activation"][place] == pytest.approx(row["activation"], rel=1e-6)
        shown = np.array(columns["levels"][place]) / 127
        values = np.array(row["activations"]) / largest
        assert ((shown > 0) == (values > 0)).all()
        assert (np.abs(shown - values) < 1 / 127).all()


def test_a_latent_lists_its_strongest_partners_and_its_relatives(site):
    pairs = site.atlas.pairs.to_pylist()
    listed = {}
    for latent in range(0, worlds.N_LATENTS, 16):
        columns = table(site.latent_file(latent)["partners"])
        for place in range(len(columns["latent"])):
            row = {name: column[place] for name, column in columns.items()}
            listed[row.pop("latent"), row.pop("partner")] = row
    assert list(listed) == sorted(listed)
    of = {"parent": "child", "child": "parent", "absorber": "absorbed", "absorbed": "absorber"}
    for latent in range(worlds.N_LATENTS):
        own = [row for row in pairs if latent in (row["i"], row["j"])]
        wanted = set()
        for name, n in {"phi": 16, "z_in_documents": 10, "decoder_cosine": 10, "c_cos2": 6}.items():
            known = [row for row in own if not np.isnan(row[name])]
            best = sorted(known, key=lambda row: -row[name])[:n]
            wanted |= {row["i"] + row["j"] - latent for row in best}
        wanted |= {row["i"] + row["j"] - latent for row in own if row["relation"]}
        assert {j for i, j in listed if i == latent} == wanted
        for row in own:
            if (found := listed.get((latent, row["i"] + row["j"] - latent))) is not None:
                relation = row["relation"]
                assert found.get("relation") == (
                    relation if latent == row["i"] else of.get(relation, relation)
                )
                for name in ("n_ij", "documents_ij", "z_in_documents", "overdispersion"):
                    assert found[name] == pytest.approx(row[name], rel=1e-6, nan_ok=True)
    assert listed[worlds.PARENT, worlds.CHILD]["relation"] == "parent"
    assert listed[worlds.CHILD, worlds.PARENT]["relation"] == "child"


def test_overlaps_over_training_lie_with_the_first_latent(site):
    columns = table(site.latent_file(0)["overlaps"])
    found = zip(*(columns[name] for name in ("i", "j", "snapshot_cosines")), strict=True)
    wanted = [tuple(row.values()) for row in site.atlas.overlaps.to_pylist()]
    assert [(i, j, pytest.approx(cosines)) for i, j, cosines in found] == wanted
    assert site.latent_file(16)["overlaps"] == {} or len(wanted) == 2


def test_the_strongest_pairs_of_all_come_in_order(site):
    lists, pairs = read(site.files, "pairs"), site.atlas.pairs.to_pylist()
    for name in ("phi", "z_in_documents", "decoder_cosine", "c_cos2"):
        columns = table(lists[name])
        best = sorted((row for row in pairs if not np.isnan(row[name])), key=lambda r: -r[name])
        wanted = [(row["i"], row["j"]) for row in best[:200]]
        assert list(zip(columns["i"], columns["j"], strict=True)) == wanted
        assert columns["n_ij"] == [row["n_ij"] for row in best[:200]]
    related = table(lists["related"])
    assert set(zip(related["i"], related["j"], strict=True)) == {
        (row["i"], row["j"]) for row in pairs if row["relation"]
    }


def lists_of(site, folder, name):
    """The numbers of every latent, from all files of a folder."""
    found, n_files = [], len(list((site.files / folder).iterdir()))
    for n in range(n_files):
        file = read(site.files, f"{folder}/{n}")
        assert file["first"] == len(found)
        found += varint_lists(file[name])
    return found


def test_the_counts_of_all_pairs_are_held(site):
    partners, counts = (lists_of(site, "counts", name) for name in ("partners", "n_ij"))
    found = {
        (i, j): n
        for i, (gaps, numbers) in enumerate(zip(partners, counts, strict=True))
        for j, n in zip(np.cumsum(gaps).tolist(), numbers, strict=True)
    }
    assert found == {(r["i"], r["j"]): r["n_ij"] for r in site.atlas.pairs.to_pylist()}


def check_sample(site):
    sample, acts = site.overview["facts"]["sample"], site.acts
    size, stride = sample["window_size"], sample["stride"]
    window = site.firings.window_size if site.firings.n_windows else site.firings.n_tokens
    firsts = np.arange(sample["n_windows"]) * stride * window
    held = (firsts[:, None] + np.arange(size)).ravel()
    assert sample["n_tokens"] == len(held)
    tokens, levels = (lists_of(site, "firings", name) for name in ("tokens", "levels"))
    assert len(tokens) == worlds.N_LATENTS
    for latent in range(worlds.N_LATENTS):
        own = acts[held, latent]
        assert np.cumsum(tokens[latent]).tolist() == np.flatnonzero(own).tolist()
        wanted = own[own > 0] / max(acts[:, latent].max(), 1e-30)
        assert (np.abs(np.array(levels[latent]) / 127 - wanted) < 1 / 127).all()
        assert all(level > 0 for level in levels[latent])
    places = site.firings.places[held]
    for n in range(len(list((site.files / "text").iterdir()))):
        file = read(site.files, f"text/{n}")
        own = places[n * sample["tokens_in_file"] :][: sample["tokens_in_file"]]
        text = [file["strings"][code] for code in reading.column(file["tokens"])]
        assert text == [worlds.TEXT[t] if t >= 0 else "?" for t in own[:, 0].tolist()]
        begins, documents = reading.column(file["begins"]), reading.column(file["documents"])
        assert documents[0] == own[0, 1]
        assert documents[1:] == own[begins, 1].tolist()
        changes = np.flatnonzero(np.diff(own[:, 1])) + 1
        first = n * sample["tokens_in_file"]
        edges = np.arange(-(-first // size) * size, first + len(own), size) - first
        cuts = set(changes.tolist()) | (
            set(edges.tolist()) if stride > 1 else {0} if n == 0 else set()
        )
        before = places[first - 1, 1] if first else None
        assert set(begins) == cuts | ({0} if own[0, 1] != before else set())


def test_the_sample_holds_every_firing_of_its_windows(site):
    assert site.overview["facts"]["sample"]["stride"] == 1
    check_sample(site)


@pytest.mark.parametrize(
    ("options", "stride", "windows"),
    [
        ({"n_tokens": 6000}, 4, 15),  # sixty windows of 100 tokens
        ({"n_tokens": 5950, "window": 2000}, 2, 1),  # the beginning of the first of two
        ({"n_tokens": 900, "window": 1000}, 1, 1),  # no full window
        ({"n_tokens": 6000, "is_bare": True}, 4, 15),  # no tokens, no documents
    ],
)
def test_a_sample_of_a_longer_text_is_of_whole_windows(
    tmp_path, monkeypatch, options, stride, windows
):
    monkeypatch.setattr("temporal_sae.atlas.site.sample.Sample.most", 1500)
    monkeypatch.setattr("temporal_sae.atlas.site.sample.TOKENS_IN_FILE", 300)
    monkeypatch.setattr("temporal_sae.atlas.site.lists.ENTRIES_IN_FILE", 100)
    site = Site(tmp_path, **options)
    sample = site.overview["facts"]["sample"]
    assert (sample["stride"], sample["n_windows"]) == (stride, windows)
    assert sample["n_tokens"] <= 1500
    check_sample(site)


def test_what_no_source_has_is_left_out(tmp_path):
    site = Site(tmp_path, is_bare=True)
    file = site.latent_file(0)
    names = {"top_logits", "logit_histogram", "seed_latents", "top_logit_tokens"}
    assert not names & set(file["latents"])
    assert "encoder_cosine" not in file["partners"]
    assert not {"stability", "seed_cosine"} & set(site.overview["latents"])


def test_a_table_without_pairs_still_has_its_site(tmp_path):
    site = Site(tmp_path, least=10**6)
    assert len(site.atlas.pairs) == 0
    assert site.overview["facts"]["n_pairs"] == 0
    assert table(read(site.files, "pairs")["phi"])["i"] == []
    assert table(site.latent_file(0)["partners"])["partner"] == []


def test_counts_are_left_out_where_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("temporal_sae.atlas.site.partners.COUNTED", 10)
    site = Site(tmp_path)
    assert site.overview["facts"]["counts"] is None
    assert not (site.files / "counts").exists()


def test_a_site_takes_the_place_of_an_earlier_one_whole(site, tmp_path, monkeypatch):
    atlas, firings = worlds.small_world(tmp_path)
    write_site(atlas, firings, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.js")}
    (tmp_path / "site" / "latents" / "999.js").write_text("stale")
    told = []
    write_site(atlas, firings, tmp_path, lambda *progress: told.append(progress))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.js")} == before
    assert told[-1][1] == told[-1][2] == len(told)
    assert not list(tmp_path.glob(".unfinished-*"))

    def fail(*arguments):
        raise OSError("no room")

    monkeypatch.setattr("temporal_sae.atlas.site.sample.Sample.text", fail)
    with pytest.raises(OSError, match="no room"):
        write_site(atlas, firings, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.js")} == before
    assert not list(tmp_path.glob(".unfinished-*"))
    build = (tmp_path / "index.html").read_text().partition('data-build="')[2][:12]
    assert build != site.page.read_text().partition('data-build="')[2][:12]
    int(build, 16)


def test_columns_that_come_later_are_shown_without_the_firings(tmp_path):
    site = Site(tmp_path, is_bare=True)
    before = {path: path.read_bytes() for path in site.files.rglob("*.js")}
    index = site.page.read_text()
    latents = site.atlas.latents
    for name in ("ablation_loss", "ablation_kl"):
        if name in latents.column_names:
            latents = latents.drop_columns([name])
        latents = latents.append_column(name, pa.array(np.arange(40.0), pa.float32()))
    pq.write_table(latents, tmp_path / "latents.parquet")
    remove_firings(tmp_path / "firings")
    (site.files / "latents" / "999.js").write_text("stale")
    assert rewrite_latents(Atlas(tmp_path), tmp_path) == site.page
    after = {path: path.read_bytes() for path in site.files.rglob("*.js")}
    changed = {path for path in before if before[path] != after[path]}
    assert set(after) == set(before)
    assert changed == set((site.files / "latents").iterdir())
    assert table(site.latent_file(17)["latents"])["ablation_kl"] == list(range(16, 32))
    assert site.page.read_text() != index  # or a browser would show what it has kept


def test_explanations_may_come_later(site, tmp_path):
    columns = table(read(site.files, "explanations"))
    assert columns["latent"] == [1, 1, 7]
    assert columns["descriptions"][0] == "hostile </script> text"
    assert columns["score"] == pytest.approx([0.75, 0.9, np.nan], nan_ok=True)
    later = Site(tmp_path, is_bare=True)
    assert table(read(later.files, "explanations"))["latent"] == []
    (tmp_path / "new.jsonl").write_text(json.dumps({"index": "5", "description": "a <b>"}))
    explain(tmp_path, [tmp_path / "new.jsonl"])
    assert table(read(later.files, "explanations"))["descriptions"] == ["a <b>"]


def test_a_token_without_a_string_is_shown_by_its_number():
    tokens = pa.table({"id": pa.array([3, 5], pa.int32()), "text": [None, "five"]})
    strings, places = Vocabulary(tokens).coded(np.array([5, -1, 3, 9, 5]))
    assert [strings[place] for place in places] == ["five", "?", "#3", "?", "five"]
    assert Vocabulary(tokens.slice(0, 0)).coded(np.array([-1]))[0] == ["?"]


def test_numbers_come_back_whatever_their_size():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(0, 2**n, 50) for n in range(1, 33)]).astype(np.uint32)
    data, lengths = varints(values)
    assert reading.varints(data) == values.tolist()
    assert lengths.sum() == len(data)
    for array in ([], [0, 255], [0, 256], [2**16], [2**32 - 1], [-1, 5], [2**40], [1.5, np.nan]):
        found = reading.unpacked(packed(np.array(array)))
        assert found.tolist() == pytest.approx(array, nan_ok=True)


def test_statistics_of_listed_pairs_follow_from_their_counts(site):
    """So that the page, which has only counts, shows what the table says."""
    for row in site.atlas.pairs.to_pylist()[:50]:
        counts = Counts.of(row["n_ij"], row["n_i"], row["n_j"], site.firings.n_tokens)
        assert statistics.phi(counts) == pytest.approx(row["phi"])
