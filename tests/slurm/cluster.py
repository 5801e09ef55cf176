"""A real SLURM on this machine for as long as a test needs it: one controller and two nodes.

Everything lies in one private folder and listens on 127.0.0.1 at free ports; nothing is written to
`/etc`. The daemons stay in the foreground as children of this process, so they are stopped by the
handles that started them, and die with this process should it be killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

NODES = ("alpha", "beta")
CPUS_PER_NODE = 8
GPUS_PER_NODE = 4
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
PROGRAMS = (*PROGRAMS, "unshare", "setpriv", "mount")
PATIENCE = 30.0  # seconds for a daemon to come up, or to end

CONF = """\
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its old credential has expired: 5 s instead of two minutes.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
# A node may claim more processors and memory than there are.
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=300
KillWait=5
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Preemption sends the job's own signal, as clusters that preempt should.
SlurmctldParameters=preempt_send_user_signal
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10
"""


def why_impossible() -> str | None:
    """What this machine lacks for a cluster, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)"
    if os.getuid() != 0:
        return "needs root"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        return "needs the right to make a mount namespace"
    return None


def free_ports(n: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def processes_with(variable: str) -> list[int]:
    """Processes with that `NAME=value` in their environment, whoever started them."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{variable}\0".encode() in (
                (entry / "environ").read_bytes() + b"\0"
            ):
                found.append(int(entry.name))
    return found


def command_line(number: int) -> str:
    """What a process was started with, empty if it has ended."""
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return ""
    return words.replace(b"\0", b" ").decode(errors="replace")


class Cluster:
    """Controller and nodes below one folder, which is made if it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self._munge: subprocess.Popen | None = None
        self._controller: subprocess.Popen | None = None
        self._nodes: list[subprocess.Popen] = []

    def start(self) -> None:
        """Bring everything up; returns when both nodes are idle."""
        self._write_files()
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid"}
        files |= {"log-file": "log", "seed-file": "seed"}
        own = [f"--{option}={self.folder}/munge/{name}" for option, name in files.items()]
        self._munge = self._daemon("munged", "--foreground", *own)
        wait_until((self.folder / "munge" / "socket").exists, "munged", 0.02)
        self.start_controller()
        # The nodes' names must resolve inside jobs: an /etc/hosts of their own.
        own_hosts = f"mount --bind {self.folder}/hosts /etc/hosts && exec slurmd -D -N $0"
        for name in NODES:
            self._nodes.append(self._daemon("unshare", "-m", "sh", "-c", own_hosts, name))
        wait_until(lambda: self.node_states() == {"idle"}, "the nodes")

    def start_controller(self) -> None:
        """Start the controller, which reads the state that an earlier one has left."""
        self._controller = self._daemon("slurmctld", "-D")

    def kill_controller(self) -> None:
        """SIGKILL to the controller; nodes and jobs go on."""
        assert self._controller is not None
        self._controller.kill()
        self._controller.wait()

    def stop(self) -> list[str]:
        """Cancel all jobs and end all daemons.

        Returns:
            The command lines of processes of this cluster that had to be killed: none, or
            something was left behind.
        """
        if self._controller is None or self._controller.poll() is not None:
            self.start_controller()
        with suppress(TimeoutError):
            wait_until(lambda: self.ask("scancel", "--user=root").returncode == 0, "scancel", 0.2)
            self.ask("scancel", "--user=root", "--signal=KILL", "--full")
            wait_until(lambda: not self.queue(), "the jobs to end", 0.2)
        for process in (*self._nodes, self._controller, self._munge):
            if process is not None:
                end(process)
        mark = f"SLURM_CONF={self.environment['SLURM_CONF']}"
        with suppress(TimeoutError):
            wait_until(lambda: not processes_with(mark), "processes of the cluster", timeout=5)
        left = {number: command_line(number) for number in processes_with(mark)}
        for number in left:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return [f"{number}: {line}" for number, line in left.items()]

    def ask(self, *command: str, timeout: float = 10) -> subprocess.CompletedProcess[str]:
        """Run a client of the cluster; one that gets no answer in time ends with code 124."""
        options = {"env": self.environment, "text": True, "capture_output": True}
        try:
            return subprocess.run(command, timeout=timeout, check=False, **options)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", "no answer")

    def queue(self) -> dict[str, str]:
        """State of every job that has not ended, by its number (`12` or `12_0`)."""
        answer = self.ask("squeue", "--noheader", "--array", "--format=%i|%T")
        return dict(line.split("|") for line in answer.stdout.split())

    def tasks_of(self) -> list[int]:
        """The Python process of each task of all jobs."""
        own = (f"SLURM_CONF={self.environment['SLURM_CONF']}", "SLURM_STEP_ID=0")
        found = set.intersection(*(set(processes_with(variable)) for variable in own))
        task = "temporal_sae.sweep"  # and not srun, which has it further behind
        return sorted(number for number in found if task in command_line(number).split()[1:5])

    def node_states(self) -> set[str]:
        """`{"idle"}` if both nodes wait for work."""
        answer = self.ask("sinfo", "--noheader", "--Node", "--format=%T", timeout=2)
        return set(answer.stdout.split())

    def _daemon(self, *command: str) -> subprocess.Popen:
        """A child in a session of its own, so that Ctrl-C reaches only the tests."""
        with (self.folder / "daemons.log").open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _write_files(self) -> None:
        for name in ("", "munge", "state", "devices"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / name).chmod(0o755)  # munged refuses folders that others can write
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for n in range(GPUS_PER_NODE):  # what SLURM takes for a GPU behaves as /dev/null
            device = self.folder / "devices" / f"gpu{n}"
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        devices = f"{self.folder}/devices/gpu[0-{GPUS_PER_NODE - 1}]"
        (self.folder / "gres.conf").write_text(f"Name=gpu File={devices}\n")
        controller, *ports = free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
            f"RealMemory=64000 Gres=gpu:{GPUS_PER_NODE}"
            for name, port in zip(NODES, ports, strict=True)
        )
        conf = CONF.format(folder=self.folder, controller_port=controller, nodes=nodes)
        (self.folder / "slurm.conf").write_text(conf)
        hosts = Path("/etc/hosts").read_text()
        (self.folder / "hosts").write_text(f"{hosts}\n127.0.0.1 {' '.join(NODES)}\n")


def wait_until(condition, what: str, interval: float = 0.1, timeout: float = PATIENCE) -> None:
    """Ask again and again until it holds.

    Raises:
        TimeoutError: it does not in `timeout` seconds.
    """
    end_of_patience = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end_of_patience:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)


def end(process: subprocess.Popen) -> None:
    """SIGTERM, and SIGKILL for one that does not follow."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
