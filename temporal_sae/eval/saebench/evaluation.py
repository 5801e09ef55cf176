"""SAEBench on our SAE: sae_bench's own code, one process for each of its evaluations."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource, Harvest
from temporal_sae.activations.source import LANGUAGE_MODEL
from temporal_sae.errors import (
    InvalidOption,
    RunError,
    check_choice,
    check_number,
    check_words,
    keep_int,
)
from temporal_sae.eval.saebench import collect, needs
from temporal_sae.eval.saebench.options import (
    EVALUATIONS,
    MAIN_EVALUATIONS,
    Job,
    artifacts_name,
    completed,
    package_version,
)
from temporal_sae.eval.saebench.process import make_folder, run_worker, working_directory
from temporal_sae.eval.subject import Evaluation, Outcome, Subject
from temporal_sae.locks import ProcessLock, Timeout
from temporal_sae.metrics import Metric
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.training.progress import duration

Options = Mapping[str, Any]
DTYPES = ("float32", "bfloat16", "float16")
UNFINISHED = ".unfinished"  # lies in a folder of artifacts while it is written


@component("eval")
@dataclass(frozen=True)
class SAEBenchEvaluation(Evaluation):
    """SAEBench's evaluations; conf/eval/saebench.yaml says what the options mean.

    Those of an evaluation that are not given are as they are there. Files in `artifacts_path` are
    trusted: sae_bench reads pickles from there.

    Raises:
        InvalidOption: an option is out of range or unknown.
    """

    evals: tuple[str, ...] = MAIN_EVALUATIONS
    model_name: str | None = None
    llm_dtype: str | None = None
    llm_batch_size: int = 32
    seed: int = 42
    data_folder: str | None = None
    artifacts_path: str | None = None
    timeout_minutes: float | None = None
    core: Options | None = None
    sparse_probing: Options | None = None
    scr: Options | None = None
    tpp: Options | None = None
    absorption: Options | None = None
    unlearning: Options | None = None
    autointerp: Options | None = None
    ravel: Options | None = None
    sae_probes: Options | None = None

    name: ClassVar[str] = "saebench"
    needs: ClassVar[frozenset[str]] = frozenset({LANGUAGE_MODEL})
    metrics: ClassVar[tuple[Metric, ...]] = collect.METRICS

    def __post_init__(self) -> None:
        given = self.evals
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise InvalidOption("evals", given, f"a list of some of {', '.join(EVALUATIONS)}")
        for name in given:
            check_choice("evals", name, EVALUATIONS)
        in_order = {"evals": tuple(name for name in EVALUATIONS if name in given)}
        every = {name: completed(name, getattr(self, name)) for name in EVALUATIONS}
        for name, value in (in_order | every).items():
            object.__setattr__(self, name, value)
        for option in ("model_name", "data_folder", "artifacts_path"):
            check_words(option, getattr(self, option), null=True)
        if self.llm_dtype is not None:
            check_choice("llm_dtype", self.llm_dtype, DTYPES)
        keep_int(self, "llm_batch_size", 1)
        keep_int(self, "seed", 0)
        if self.timeout_minutes is not None:
            check_number("timeout_minutes", self.timeout_minutes, above=True)
        if self.data_folder is not None and not Path(self.data_folder).expanduser().is_dir():
            raise InvalidOption("data_folder", self.data_folder, "a folder that exists")

    def from_hub(self, model_name: str) -> list[tuple[str, str]]:
        """Return data sets and models; nothing where all of them lie in `data_folder`."""
        own = {name: getattr(self, name) for name in self.evals}
        found = [("dataset", d) for name in own for d in needs.data_sets(name, own[name])]
        if self.model_name:
            found.append(("model", self.model_name))
        if "unlearning" in own:
            name = needs.instruct_model(self.model_name or model_name, own["unlearning"])
            found.append(("model", name))
        wanted = [pair for pair in dict.fromkeys(found) if not Path(pair[1]).is_absolute()]
        folder = self._data_folder()
        is_whole = folder and all((folder / name).is_dir() for _, name in wanted)
        return [] if is_whole else wanted

    def check(self, source: ActivationSource, sae: SparseAutoencoder) -> None:
        """Refuse what SAEBench could not evaluate.

        Raises:
            InvalidOption, RunError: something is missing or does not fit.
        """
        model = cast(Harvest, source).language_model
        needs.check(
            {name: getattr(self, name) for name in self.evals},
            model_name=self.model_name or model.name,
            hook_name=model.hook_name,
            d_sae=sae.d_sae,
            d_in=sae.d_in,
            tokenizer=model.tokenizer,
            data_folder=self._data_folder(),
        )

    def run(self, subject: Subject) -> Outcome:
        """Evaluate what is not done yet; each failure leaves the others.

        Raises:
            RunError: another process evaluates the same SAE.
        """
        if subject.model.device.type == "cuda":
            torch.cuda.empty_cache()  # for the other process
        outcome, records, folder = Outcome(), {}, subject.files.folder / self.name

        def refuse(lock: ProcessLock) -> None:
            raise RunError(f"{folder}: another process runs SAEBench there{lock.holder()}")

        with locked(folder / ".lock", refuse):
            for place, name in enumerate(self.evals, start=1):
                label = f"saebench {name} ({place} of {len(self.evals)})"
                try:
                    records[name] = self._record(subject, name, folder, label)
                except RunError as error:
                    outcome.failures[f"{self.name} {name}"] = f"{error}"
        outcome.sections.update(collect.sections(records))
        return outcome

    def _record(self, subject: Subject, name: str, folder: Path, label: str) -> dict[str, Any]:
        """Return SAEBench's record, an earlier one if it was made with the same options."""
        job = self._job(subject, name)
        key, options = f"{self.name}_{name}", self._identity(job)
        schema = schemas.SAEBENCH.get(name, schemas.SAEBenchRecord)
        if (record := subject.files.find(key, options, schema)) is not None:
            subject.say(f"{label}: done before")
            return record
        log, began = folder / f"{name}.log", time.monotonic()
        subject.say(f"{label}: log in {log}")
        try:
            with (
                working_directory(folder, name) as work,
                self._artifacts(job, work, subject.say) as artifacts,
            ):
                job = replace(job, artifacts=str(artifacts))
                seconds = None if self.timeout_minutes is None else 60 * self.timeout_minutes
                record = run_worker(job, work, log, self._data_folder(), seconds)
        except RunError:
            subject.say(f"{label}: failed after {duration(time.monotonic() - began)}")
            raise
        subject.files.write(key, options, record)
        subject.say(f"{label}: {duration(time.monotonic() - began)}")
        return record

    def _job(self, subject: Subject, name: str) -> Job:
        return Job(
            evaluation=name,
            sae_folder=str(subject.sae_folder.resolve()),
            architecture=subject.sae.trained_as,
            model_name=self.model_name or subject.model.name,
            hook_name=subject.model.hook_name,
            prepend_bos=subject.harvest.prepend_bos,
            device=str(subject.model.device),
            llm_dtype=self.llm_dtype or subject.model.dtype,
            llm_batch_size=self.llm_batch_size,
            seed=self.seed,
            options=dict(getattr(self, name)),
            keep_artifacts=self.artifacts_path is not None,
        )

    def _identity(self, job: Job) -> dict[str, Any]:
        """Return what a result depends on, beside the SAE and the place in the model."""
        return {
            "options": job.options,
            "model": [job.model_name, job.llm_dtype, job.llm_batch_size],
            "seed": job.seed,
            "data_folder": self.data_folder,
            "sae_bench": package_version("sae-bench"),
        }

    def _data_folder(self) -> Path | None:
        return None if self.data_folder is None else Path(self.data_folder).expanduser()

    def _artifacts(
        self, job: Job, work: Path, say: Callable[[str], None]
    ) -> AbstractContextManager[Path]:
        if self.artifacts_path is None:
            return nullcontext(work / "kept")
        root = Path(self.artifacts_path).expanduser().resolve()
        return kept_artifacts(root / artifacts_name(job, self.data_folder), say)


@contextmanager
def kept_artifacts(folder: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Give the folder, while no other process uses it, without a writer's unfinished files.

    Raises:
        RunError: it cannot be made.
    """
    mark = folder / UNFINISHED
    told = f"waiting for another process that uses {folder}"
    with locked(folder.with_name(f"{folder.name}.lock"), lambda _: say(told)):
        if mark.exists():  # its writer was stopped, and a file may be cut off
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        mark.touch()
        yield folder
        mark.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, if_taken: Callable[[ProcessLock], None]) -> Iterator[None]:
    """Hold a lock; call `if_taken`, which may raise, before waiting for another process."""
    make_folder(path.parent)
    lock = ProcessLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if_taken(lock)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
