"""Measure an atlas beside SAEDashboard: `python benchmarks/dashboard.py [--prompts 4096]`.

The same untrained Pythia, SAE and tokens in one run: `python -m temporal_sae.atlas`, with its
pages, and the export of SAEDashboard's own batch files; then SAEDashboard, as its runner for
Neuronpedia calls it (128 latents at once, activations of the language model kept on disk), with its
files.
Both are then compared: densities, and the largest activations of every latent.
benchmarks/requirements-dashboard.txt says how it is installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import temporal_sae  # noqa: F401 - before torch: its threads then sleep here as in a command

# isort: split
import numpy as np
import torch
from common import device_name
from torch import Tensor
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from temporal_sae.activations import Harvest, LanguageModel
from temporal_sae.assets import TINY_MODEL
from temporal_sae.atlas import Atlas
from temporal_sae.atlas.__main__ import main as atlas_command
from temporal_sae.atlas.examples import LEFT, RIGHT
from temporal_sae.data import StdlibText
from temporal_sae.sae import TopKSAE

NAME = "EleutherAI/pythia-70m-deduped"  # by which TransformerLens knows how to read the folder
HOOK, WIDTH, CONTEXT = "blocks.2.hook_resid_post", 128, 128
AT_ONCE, SEQUENCES_IN_PASS = 128, 32  # the defaults of its runner
TOLERANCE = 2e-4  # it rounds activations to four digits behind the point
WINDOWS = range(500, 2001)


def make_model(folder: Path) -> None:
    """Write an untrained Pythia with the bundled tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,  # or every token would give about the same
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_sae(folder: Path, n_latents: int, k: int) -> None:
    """Write an SAE with random directions of length 1, which SAEDashboard folds to the same."""
    torch.manual_seed(1)
    facts = {"model_name": NAME, "hook_name": HOOK, "context_size": CONTEXT, "prepend_bos": True}
    TopKSAE(WIDTH, n_latents, k).save(folder, facts)


def text_of(n_prompts: int) -> tuple[Tensor, Tensor, int]:
    """Return tokens, which of them count, and a window size that leaves none over.

    Fewer prompts, by a few passes, are taken where no window size does.
    """
    source = Harvest(model=LanguageModel(NAME, HOOK), text=StdlibText(), context_size=CONTEXT)
    source.open()
    sequences = itertools.islice(source.training_sequences(0), n_prompts)
    rows, counted = (torch.stack(column) for column in zip(*sequences, strict=True))
    while True:
        n_tokens = int(counted.sum())
        for window in WINDOWS:
            if n_tokens % window == 0:
                return rows[..., 0].long(), counted, window
        rows, counted = rows[:-SEQUENCES_IN_PASS], counted[:-SEQUENCES_IN_PASS]


class Spent(NamedTuple):
    """Seconds that something took, on the clock and of all processors' time."""

    seconds: float
    cpu_seconds: float  # on which other programs have little influence


def timed(work: Callable[[], Any]) -> tuple[Spent, Any]:
    """Return the time that something takes, and what it returns."""
    began, cpu_began = time.monotonic(), time.process_time()
    found = work()
    return Spent(time.monotonic() - began, time.process_time() - cpu_began), found


def ours(sae: Path, n_tokens: int, window: int) -> dict[str, Spent]:
    """Build the atlas and write it as SAEDashboard does; returns the time of both."""
    words = [str(sae), f"--tokens={n_tokens}", f"--window-size={window}", "model=hf", "data=stdlib"]
    build, _ = timed(lambda: atlas_command(words))
    export = ["export", "saedashboard", str(sae / "atlas"), "--layer=2"]
    files, _ = timed(lambda: atlas_command(export))
    return {"atlas": build, "files": files}


def theirs(sae_folder: Path, tokens: Tensor, folder: Path) -> tuple[Spent, dict[int, Any]]:
    """Run SAEDashboard over all latents; returns the time, and what it found of each."""
    from sae_dashboard.neuronpedia.neuronpedia_converter import NeuronpediaConverter
    from sae_dashboard.neuronpedia.neuronpedia_runner_config import NeuronpediaRunnerConfig
    from sae_lens import SAE, HookedSAETransformer

    model = HookedSAETransformer.from_pretrained_no_processing(NAME, device="cpu")
    sae = SAE.load_from_disk(str(sae_folder), device="cpu")
    sae.cfg.rescale_acts_by_decoder_norm = True  # by 1; without it folding is refused
    names = NeuronpediaRunnerConfig(
        sae_set="set",
        sae_path=str(sae_folder),
        np_set_name="set",
        huggingface_dataset_path="text",
        outputs_dir=str(folder),
    )
    names.model_id, names.layer = "model", 2
    vocabulary = {id_: text for text, id_ in model.tokenizer.vocab.items()}

    def work() -> dict[int, Any]:
        found = {}
        for n, features in enumerate(torch.arange(sae.cfg.d_sae).split(AT_ONCE)):
            data = gathered(model, sae, tokens, features.tolist(), folder / "cache")
            text = NeuronpediaConverter.convert_to_np_json(model, data, names, vocabulary)
            (folder / f"batch-{n}.json").write_text(text)
            found |= {f: seen_of(feature) for f, feature in data.feature_data_dict.items()}
        return found

    return timed(work)


def gathered(model: Any, sae: Any, tokens: Tensor, features: list[int], cache: Path) -> Any:
    """Return what SAEDashboard gathers of some latents, with the layout of its runner."""
    from sae_dashboard.components_config import (
        ActsHistogramConfig,
        Column,
        FeatureTablesConfig,
        LogitsHistogramConfig,
        LogitsTableConfig,
        SequencesConfig,
    )
    from sae_dashboard.layout import SaeVisLayoutConfig
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner

    sequences = SequencesConfig(
        stack_mode="stack-all",
        buffer=None,
        compute_buffer=True,
        n_quantiles=5,
        top_acts_group_size=20,
        quantile_group_size=5,
    )
    tables = ActsHistogramConfig(), LogitsHistogramConfig(), LogitsTableConfig()
    layout = SaeVisLayoutConfig(columns=[Column(sequences, *tables, FeatureTablesConfig(n_rows=3))])
    special = {model.tokenizer.bos_token_id, model.tokenizer.eos_token_id} - {None}
    config = SaeVisConfig(
        hook_point=HOOK,
        features=features,
        minibatch_size_features=AT_ONCE,
        minibatch_size_tokens=SEQUENCES_IN_PASS,
        feature_centric_layout=layout,
        ignore_tokens=special,
        cache_dir=cache,
    )
    return SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)


def are_read(folder: Path) -> bool:
    """Tell whether SAEDashboard reads our files, and has in them what they say."""
    from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch

    batches = [json.loads(path.read_text()) for path in folder.rglob("batch-*.json")]
    read = [NeuronpediaDashboardBatch(**batch).to_dict() for batch in batches]
    return bool(batches) and read == batches


def seen_of(feature: Any) -> tuple[float, list[tuple[int, int, float]]]:
    """Return the density, and row, column and activation of the largest activations."""
    percent = re.search(r"DENSITY = ([\d.]+)%", feature.acts_histogram_data.title or "")
    top = feature.sequence_data.seq_group_data[0].seq_data
    places = [(s.original_index, s.qualifying_token_index) for s in top]
    values = [s.feat_acts[s.qualifying_token_index - 1] for s in top]  # BOS is left out
    found = [(*place, value) for place, value in zip(places, values, strict=True)]
    return float(percent[1]) / 100 if percent else 0.0, [x for x in found if x[2] > 0]


def compared(atlas: Atlas, found: dict[int, Any], counted: Tensor) -> dict[str, Any]:
    """Return how far both agree.

    SAEDashboard shows the largest activations wherever they are; here two of a latent are a context
    apart. So of those that it shows, all that are missing here must be near a larger one.
    """
    latents, examples = atlas.latents.to_pandas(), atlas.examples.to_pandas()
    numbers = torch.full(counted.shape, -1, dtype=torch.long)
    numbers[counted] = torch.arange(int(counted.sum()))
    share = counted.numel() / int(counted.sum())  # it divides by all tokens, those left out as well
    density, largest, lost, wrong = 0.0, 0.0, 0, 0
    tops = dict(iter(examples[examples.group == 0].groupby("latent")))
    for latent, (their_density, their_top) in found.items():
        density = max(density, abs(their_density * share - latents.density[latent]))
        if not their_top:
            wrong += latents.n[latent] > 0
            continue
        own = tops[latent]
        largest = max(largest, abs(their_top[0][2] - own.activation.iloc[0]))
        lost += sum(1 for _ in missing(own, their_top, numbers))
        wrong += not is_of_theirs(own, their_top, numbers)
    return {
        "latents": len(found),
        "largest_difference_of_densities": density,
        "largest_difference_of_maxima": largest,
        "latents_with_other_top_activations": int(wrong),
        "of_theirs_missing_here_without_a_larger_neighbour": lost,
    }


def missing(own: Any, their_top: list[Any], numbers: Tensor) -> Iterator[int]:
    """Yield tokens of theirs that are not among ours though no larger one of ours is near."""
    apart = 2 * (LEFT + RIGHT + 1)  # the largest of a block counts, which is near one that is taken
    least = own.activation.min() if len(own) == 20 else 0.0
    for row, column, value in their_top:
        token = int(numbers[row, column])
        near = np.abs(own.token - token) < apart
        if value > least + TOLERANCE and not (near & (own.activation >= value - TOLERANCE)).any():
            yield token


def is_of_theirs(own: Any, their_top: list[Any], numbers: Tensor) -> bool:
    """Tell whether all activations of ours that are above their least one are among theirs."""
    least = min(value for *_, value in their_top) if len(their_top) == 20 else 0.0
    theirs = {int(numbers[row, column]): value for row, column, value in their_top}
    large = own[own.activation > least + TOLERANCE]
    return all(
        abs(theirs.get(int(token), np.inf) - activation) < TOLERANCE
        for token, activation in zip(large.token, large.activation, strict=True)
    )


def ratio_of(spent: dict[str, Spent], unit: str) -> float:
    """Return how many times as long SAEDashboard takes."""
    times = {name: getattr(one, unit) for name, one in spent.items()}
    return times.pop("SAEDashboard") / sum(times.values())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=4096, help="of 128 tokens each (4096)")
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    output = arguments.output and arguments.output.absolute()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        make_model(Path(NAME))
        make_sae(Path("sae"), arguments.latents, arguments.k)
        tokens, counted, window = text_of(arguments.prompts)
        spent = ours(Path("sae"), int(counted.sum()), window)
        Path("theirs").mkdir()
        spent["SAEDashboard"], seen = theirs(Path("sae"), tokens, Path("theirs"))
        agreement = compared(Atlas("sae/atlas"), seen, counted)
        agreement["it_reads_our_files"] = are_read(Path("sae/atlas/exports"))
        os.chdir("/")
    found = {
        "device": device_name(torch.device("cpu")),
        "latents": arguments.latents,
        "tokens": int(counted.sum()),
        **{unit: {k: getattr(v, unit) for k, v in spent.items()} for unit in Spent._fields},
        "times_as_fast": {unit: ratio_of(spent, unit) for unit in Spent._fields},
        "agreement": agreement,
    }
    print(json.dumps(found, indent=2))
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
