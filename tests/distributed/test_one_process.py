"""Collective operations of one process return at once what they are given."""

import sys

import pytest
import torch

from temporal_sae import distributed


def test_without_others_nothing_changes():
    """No group, and no import of one, where the environment tells of no processes."""
    with distributed.process_group(on_cuda=False):
        assert distributed.world_size() == 1
        assert distributed.is_rank_zero()
    assert "temporal_sae.distributed.environment" not in sys.modules
    x = torch.ones(3)
    assert distributed.local_shard(x) is x
    assert distributed.all_reduce_sum(x) is x
    assert distributed.all_gather(x) == [x]


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": "2"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_variables_that_tell_of_no_other_process(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert not distributed.is_launched()
