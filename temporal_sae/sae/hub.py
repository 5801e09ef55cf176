"""Upload a saved SAE to the Hugging Face Hub: `python -m temporal_sae.sae.hub FOLDER REPO_ID`."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from temporal_sae import signals
from temporal_sae.commands import Parser, exit_on_mistakes, let_readers_leave
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.files import write_atomically
from temporal_sae.sae.formats.stored import first_line, read_object
from temporal_sae.sae.saving import CONFIG, SAE_LENS, WEIGHTS

CARD = "README.md"
# As the Hub allows names of owners and repositories.
NAME = r"\w(?:[\w.-]{0,94}\w)?"
REPO_ID = re.compile(rf"(?!.*(?:--|\.\.)){NAME}/{NAME}(?<!\.git)", re.ASCII)
# Facts of `cfg.json` and its metadata that the card tells, and what it calls them.
FACTS = {
    "d_in": "width of the activations",
    "d_sae": "latents",
    "k": "active latents per token",
    "model_name": "language model",
    "hook_name": "read at",
    "context_size": "tokens per sequence in training",
    "prepend_bos": "sequences begin with BOS",
    "training_tokens": "tokens in training",
}


def push_to_hub(
    folder: str | Path, repo_id: str, private: bool = True, path_in_repo: str | None = None
) -> str:
    """Upload a folder that `SparseAutoencoder.save` wrote, creating the repository if needed.

    Without a `README.md`, in the folder or in the repository, a model card is written to the folder
    first; edit it and push again to change it.

    Args:
        folder: holds `cfg.json` and `sae_weights.safetensors`.
        repo_id: such as `me/my-sae`.
        private: who may see a repository that is created; one that exists stays as it is.
        path_in_repo: a folder in the repository, for several SAEs in one; None for its root.

    Returns:
        The address of the repository.

    Raises:
        InvalidOption: `repo_id` is not the name of a repository.
        RunError: a file is missing, or the Hub could not be reached or refused.
    """
    check_repo_id("repo_id", repo_id)
    folder = Path(folder)
    config = read_object(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise RunError(f"{folder}: holds no {WEIGHTS}")
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        card = CARD if path_in_repo is None else f"{path_in_repo}/{CARD}"
        if not (folder / CARD).exists() and not api.file_exists(repo_id, card):
            write_atomically(folder / CARD, model_card(config, repo_id, path_in_repo))
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            path_in_repo=path_in_repo,
            allow_patterns=[CONFIG, WEIGHTS, CARD],
            commit_message="Upload a sparse autoencoder",
        )
    except Exception as error:  # of whichever HTTP library this version of the hub uses
        raise RunError(f"{repo_id}: could not be uploaded to ({first_line(error)})") from error
    return str(url)


def check_repo_id(option: str, value: Any) -> str:
    """Return `value` if it names a repository with its owner, else raise InvalidOption."""
    if not isinstance(value, str) or not REPO_ID.fullmatch(value):
        raise InvalidOption(option, value, "a repository with its owner, such as me/my-sae")
    return value


def model_card(
    config: Mapping[str, Any], repo_id: str = "OWNER/NAME", path_in_repo: str | None = None
) -> str:
    """Return a short README of an SAE, from the content of its `cfg.json`."""
    trained_as = config.get("trained_as") or {}
    facts = {**(config.get("metadata") or {}), **config, **trained_as}
    in_sae_lens = config.get("architecture") in SAE_LENS
    library = "saelens" if in_sae_lens else "temporal_sae"
    other = "  # or sae_lens.SAE.load_from_disk" if in_sae_lens else ""
    lines = ["---", f"library_name: {library}", "tags:", "- sparse-autoencoder"]
    model = str(facts.get("model_name"))
    # A folder on somebody's disk is no model that a card can refer to.
    if REPO_ID.fullmatch(model) and not Path(model).exists():
        lines.append(f"base_model: {model}")
    lines += ["---", "", f"# Sparse autoencoder ({facts.get('architecture')})", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {facts[key]} |" for key, name in FACTS.items() if facts.get(key)]
    below = "" if path_in_repo is None else f' + "/{path_in_repo}"'
    lines += [
        "",
        "```python",
        "from huggingface_hub import snapshot_download",
        f"from temporal_sae.sae import load_sae{other}",
        "",
        f'sae = load_sae(snapshot_download("{repo_id}"){below})',
        "```",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; a mistake is one line and exit code 2."""
    let_readers_leave()
    with signals.ending():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    parser = Parser(
        prog="python -m temporal_sae.sae.hub", description="Upload an SAE to the Hugging Face Hub."
    )
    parser.add_argument("folder", help="holds cfg.json and sae_weights.safetensors")
    parser.add_argument("repo_id", help="such as me/my-sae; created if missing")
    parser.add_argument("--public", action="store_true", help="create the repository public")
    parser.add_argument("--path-in-repo", help="a folder in the repository")
    given = parser.parse_args(arguments)
    with exit_on_mistakes():
        url = push_to_hub(given.folder, given.repo_id, not given.public, given.path_in_repo)
    sys.stdout.write(f"{url}\n")


if __name__ == "__main__":
    main()
