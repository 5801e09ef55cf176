"""Free memory within nested limits, on trees of /proc and /sys as systems have them; GPUs."""

import resource
from pathlib import Path

import pytest

from temporal_sae import machine
from temporal_sae.machine import MIB, Free, free_on_host, visible_gpus
from temporal_sae.sweep.slots import MEMORY_OF_A_WORKER, workers_that_fit
from tests.test_cli import small

V1_MOUNTS = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" + (
    "35 31 0:32 {visible} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)
V2_MOUNTS = (
    "36 31 0:32 {visible} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def system(root, cgroup, mounts, visible="/", available=20_000):
    mib = available * 1024
    write(
        root,
        {
            "proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable:   {mib} kB\n",
            "proc/self/cgroup": cgroup,
            "proc/self/mountinfo": "23 1 0:2 / / rw - ext4 /dev/vda rw\n"
            + mounts.format(visible=visible),
        },
    )


def v1(root, folder, limit, used, **stat):
    prefix = f"sys/fs/cgroup/memory{folder}"
    write(
        root,
        {
            f"{prefix}/memory.limit_in_bytes": f"{limit}\n",
            f"{prefix}/memory.usage_in_bytes": f"{used}\n",
            f"{prefix}/memory.stat": "".join(f"{key} {value}\n" for key, value in stat.items()),
        },
    )


def v2(root, folder, limit, used, **stat):
    prefix = f"sys/fs/cgroup{folder}"
    write(
        root,
        {
            f"{prefix}/memory.max": f"{limit}\n",
            f"{prefix}/memory.current": f"{used}\n",
            f"{prefix}/memory.stat": "".join(f"{key} {value}\n" for key, value in stat.items()),
        },
    )


def test_without_limits_it_is_what_the_machine_has(tmp_path):
    system(tmp_path, "0::/user.slice\n", V2_MOUNTS)
    v2(tmp_path, "/user.slice", "max", 5 * MIB)
    assert free_on_host(tmp_path) == Free(20_000 * MIB)
    v2(tmp_path, "/user.slice", 50_000 * MIB, 5 * MIB)
    assert free_on_host(tmp_path) == Free(20_000 * MIB)


def test_the_least_of_all_cgroups_around_without_what_the_kernel_takes_back(tmp_path):
    """SLURM limits the job, and the process is in a task of a step of it."""
    task = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
    system(tmp_path, f"0::{task}\n", V2_MOUNTS)
    v2(tmp_path, task, "max", 500 * MIB)
    v2(tmp_path, "/system.slice/slurmstepd.scope/job_7/step_0", 2000 * MIB, 700 * MIB)
    cached = {"inactive_file": 100 * MIB, "active_file": 200 * MIB, "slab_reclaimable": 50 * MIB}
    v2(tmp_path, "/system.slice/slurmstepd.scope/job_7", 1500 * MIB, 900 * MIB, **cached)
    free = free_on_host(tmp_path)
    assert free == Free((1500 - 900 + 350) * MIB, 1500 * MIB, "the cgroup")
    assert str(free) == "950 of the 1,500 of the cgroup"


@pytest.mark.parametrize(
    ("cgroup", "visible", "folder"),
    [
        ("/", "/", ""),  # a namespace of its own
        ("/docker/7ab", "/docker/7ab", ""),  # the host's name, and only this part is mounted
        ("/docker/7ab/worker", "/docker/7ab", "/worker"),
        ("/../other", "/", ""),  # a name outside of what can be seen
    ],
)
def test_a_container_sees_its_own_part_of_the_tree(tmp_path, cgroup, visible, folder):
    system(tmp_path, f"0::{cgroup}\n", V2_MOUNTS, visible)
    v2(tmp_path, folder, 3000 * MIB, 1000 * MIB)
    assert free_on_host(tmp_path) == Free(2000 * MIB, 3000 * MIB, "the cgroup")


def test_the_older_kind_beside_an_empty_new_one(tmp_path):
    mounts = V1_MOUNTS + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    system(tmp_path, "4:memory:/slurm/uid_0/job_7\n1:cpu:/\n0::/\n", mounts)
    v1(tmp_path, "", 9223372036854771712, 9000 * MIB)
    v1(tmp_path, "/slurm/uid_0/job_7", 1500 * MIB, 800 * MIB, total_inactive_file=300 * MIB)
    assert free_on_host(tmp_path) == Free(1000 * MIB, 1500 * MIB, "the cgroup")


def test_a_full_cgroup_has_nothing_left_and_a_system_without_these_files_says_nothing(tmp_path):
    assert free_on_host(tmp_path) is None
    system(tmp_path, "0::/\n", V2_MOUNTS)
    v2(tmp_path, "", 100 * MIB, 101 * MIB)
    assert free_on_host(tmp_path) == Free(0, 100 * MIB, "the cgroup")


def test_workers_of_a_sweep_share_a_cgroup(tmp_path, monkeypatch):
    system(tmp_path, "0::/\n", V2_MOUNTS)
    v2(tmp_path, "", 2 * MEMORY_OF_A_WORKER + MIB, 0)
    monkeypatch.setattr("temporal_sae.sweep.slots.cores", lambda: 8)
    monkeypatch.setattr("temporal_sae.sweep.slots.free_on_host", lambda: free_on_host(tmp_path))
    assert workers_that_fit(8, 1) == 2


def test_a_run_counts_by_the_limit_says_so_and_names_what_helps(
    command, random_gemma, tmp_path, monkeypatch
):
    system(tmp_path / "root", "0::/job\n", V2_MOUNTS)
    v2(tmp_path / "root", "/job", 1500 * MIB, 300 * MIB)
    monkeypatch.setattr(machine, "ROOT", tmp_path / "root")
    options = [option for option in small(random_gemma) if not option.startswith("eval.")]
    code, out, err = command(*options, "eval.lm_batch_size=5000", "hydra.run.dir=r")
    assert code == 2
    assert "lower eval.lm_batch_size or activations.context_size (logits in evaluation" in err
    assert "and 1,200 of the 1,500 of the cgroup are free on cpu" in err
    assert "buffer" not in err
    printed = out[out.index("memory (MiB)") :].splitlines()
    assert "free 1,200 of the 1,500 of the cgroup" in printed[-1]
    assert max(map(len, printed)) <= 79
    assert all(line.endswith(" ·") for line in printed[:-1])


def test_so_does_ulimit(command, random_gemma):
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:"))
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, hard))
    try:
        code, _, err = command(*small(random_gemma), "activations.buffer_tokens=100000000")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert code == 2
    assert "of ulimit -v are free on cpu; lower activations.buffer_tokens (shuffle buffer" in err


@pytest.mark.parametrize(
    ("listed", "seen"),
    [("", []), ("-1", []), ("2", ["2"]), ("1, 0", ["1", "0"]), ("3,-1,2", ["3"])],
)
def test_gpus_are_read_as_cuda_reads_them(monkeypatch, listed, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == seen


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "has_driver", lambda: False)
    assert visible_gpus() == []
