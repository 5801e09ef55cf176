"""`hydra/sweeper=bayes`: each run tries what the runs before it make look best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from temporal_sae import schemas
from temporal_sae.errors import InvalidOption, RunError, check_choice, check_int
from temporal_sae.metrics import find_objective
from temporal_sae.overrides.expand import by_key, spelt_out, typed_overrides
from temporal_sae.overrides.keys import FREE_TO_CHANGE, key_of
from temporal_sae.report.sweep_progress import say
from temporal_sae.search.proposals import DIRECTIONS, Search, Trial, dimension
from temporal_sae.sweep.grid import GridSweeper, checked_params
from temporal_sae.sweep.plan import Job
from temporal_sae.sweep.session import Session
from temporal_sae.sweep.status import has_finished

GROUP = "hydra.sweeper"
RESULTS = "results.json"


class BayesSweeper(GridSweeper):
    """Searches for the values with the best `objective`, one job per trial.

    A trial's values follow from the seed and from what the trials before it came to, which is read
    from their folders. So the same command in the same folder goes on where a search was
    interrupted, and tries what it would have tried; with a larger `n_trials` it goes further.
    Trials that have failed are repeated then.

    Args:
        n_trials: jobs in all, those that are done already included.
        n_jobs: trials at a time, which know nothing of each other.
        direction: whether to `maximize` or to `minimize` the objective.
        n_startup_trials: trials drawn at random at the start.
        seed: of all draws.
        params: what is searched, by key, in Hydra's grammar: `interval(low, high)`, with `int` for
            whole numbers and `tag(log, …)` for a logarithmic scale, `range(…)`, or `choice(…)`.
            What is typed for the same key goes before; None: the key is not searched.
        also: must be empty; presets of several sweeps set it.
    """

    def __init__(
        self,
        n_trials: int = 20,
        n_jobs: int = 1,
        direction: str = "maximize",
        n_startup_trials: int = 8,
        seed: int = 0,
        params: Mapping[str, str | None] | None = None,
        also: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__(
            params={key: v for key, v in checked_params(params).items() if v is not None},
            also=also,
        )
        self.n_trials, self.n_jobs, self.direction = n_trials, n_jobs, direction
        self.n_startup_trials, self.seed = n_startup_trials, seed

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are missing or have failed, and note the best of all.

        Raises:
            InvalidOption, RunError: something a person can correct; nothing has been run.
            SweepIncomplete: some trials have failed, and the others are done.
        """
        if find_spec("optuna") is None:
            raise RunError("hydra/sweeper=bayes: needs optuna (pip install 'temporal_sae[search]')")
        self._check_options()
        overrides = self._overrides(arguments)
        fixed = [spelt_out(o)[0] for o in overrides.values() if not o.is_sweep_override()]
        search = self._search(overrides)
        varied = {key.lstrip("+~") for key in search.space}
        session = Session(self.config, self.hydra_context, self.launcher, telling=varied)
        trials = Trials(search, fixed, session, str(self.config.objective))
        session.compose([trials.overrides(words) for words in search.corners()])
        try:
            with session.held():
                trials.run(self.n_trials, self.n_jobs)
        finally:
            if trials.best:
                say(trials.best_so_far())

    def _overrides(self, arguments: Sequence[str]) -> dict[str, Override]:
        """By key, those of `params` first; what is typed replaces them."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = typed_overrides(parser, arguments)
        return by_key(parser.parse_overrides([f"{k}={v}" for k, v in self.params.items()])) | given

    def _check_options(self) -> None:
        self.n_trials = check_int(f"{GROUP}.n_trials", self.n_trials, 1)
        self.n_jobs = check_int(f"{GROUP}.n_jobs", self.n_jobs, 1)
        self.n_startup_trials = check_int(f"{GROUP}.n_startup_trials", self.n_startup_trials, 1)
        self.seed = check_int(f"{GROUP}.seed", self.seed, 0)
        check_choice(f"{GROUP}.direction", self.direction, DIRECTIONS)
        if self.also:
            raise InvalidOption(f"{GROUP}.also", self.also, "empty with hydra/sweeper=bayes")

    def _search(self, overrides: Mapping[str, Override]) -> Search:
        space = {}
        for key, override in overrides.items():
            if override.is_sweep_override():
                if key in FREE_TO_CHANGE:
                    raise RunError(f"{override.input_line}: must be one value for all trials")
                space[override.get_key_element()] = dimension(override)
        if not space:
            raise RunError(
                f"{GROUP}.params: must hold something to search, such as "
                "'loss.ortho_weight=tag(log, interval(0.1, 30))'"
            )
        return Search(space, self.direction, self.n_startup_trials, self.seed)


class Trials:
    """The trials of a search, each a job of a sweep.

    Args:
        search: says what to try.
        fixed: overrides that all trials share.
        session: the sweep at work.
        objective: name of the number in the results that is searched for.
    """

    def __init__(
        self, search: Search, fixed: Sequence[str], session: Session, objective: str
    ) -> None:
        self.search, self.fixed, self.session = search, list(fixed), session
        self.objective = objective
        self.jobs: list[Job] = []
        self.done: list[Trial] = []
        self.best: dict[str, Any] = {}

    def overrides(self, words: Mapping[str, str]) -> list[str]:
        """Of the job that tries these words."""
        return [*self.fixed, *(f"{key}={word}" for key, word in words.items())]

    def run(self, n_trials: int, n_jobs: int) -> None:
        """Run what is missing of the trials there are, then propose and run new ones."""
        if there := self.session.folder.jobs():
            known = [words for job in there if (words := self._words(job)) is not None]
            self._launch(known, all_of_them=True)
        while len(self.jobs) < n_trials and not self.session.all_refused():
            proposed = self.search.propose(self.done, min(n_jobs, n_trials - len(self.jobs)))
            if not proposed:
                say(f"nothing is left to try after {len(self.jobs)} trials")
                break
            upto = f" to {len(self.jobs) + len(proposed)}" if len(proposed) > 1 else ""
            say(f"trial {len(self.jobs) + 1}{upto} of {n_trials}; {self.best_so_far()}")
            self._launch(proposed, all_of_them=False)

    def best_so_far(self) -> str:
        """In one line."""
        if not self.best:
            return "none is done yet"
        tried = " ".join(self.best["overrides"])
        return f"best: {self.objective}={self.best['value']:.6g} with {tried}"

    def _launch(self, tried: Sequence[Mapping[str, str]], *, all_of_them: bool) -> None:
        wanted = [self.overrides(words) for words in tried]
        jobs = self.session.plan(wanted, all_of_them=all_of_them)
        self.session.launch(jobs)
        self.jobs += jobs
        self.done += [Trial(w, self._value(job)) for w, job in zip(tried, jobs, strict=True)]
        self.best = self._find_best()
        self.session.folder.note("best", self.best or None)

    def _find_best(self) -> dict[str, Any]:
        """Return what sweep.json says of the best trial; empty as long as none is done."""
        place = self.search.best(self.done)
        if place is None:
            return {}
        job, trial = self.jobs[place], self.done[place]
        return {
            "number": job.number,
            "folder": job.folder,
            "overrides": [f"{key}={word}" for key, word in trial.words.items()],
            "objective": self.objective,
            "value": trial.value,
        }

    def _words(self, job: Job) -> dict[str, str] | None:
        """Return what a job tries; None if it is no trial of this search."""
        given = {key_of(o): o.partition("=")[2] for o in job.overrides}
        words = {key: given.get(key.lstrip("+~"), "") for key in self.search.space}
        return words if self.search.holds(words) else None

    def _value(self, job: Job) -> float | None:
        """Return the objective of a finished job, from its folder; None if it has failed."""
        folder = self.session.folder.path / job.folder
        if not has_finished(folder):
            return None
        try:
            return find_objective(self.objective, schemas.read_results(folder / RESULTS))
        except (FileNotFoundError, RunError):
            return None
