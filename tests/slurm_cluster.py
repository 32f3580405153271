"""A real Slurm on this machine: one controller, two nodes on loopback, nothing outside a folder."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun", "scancel")
CONFIGURATION = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=30
MessageTimeout=60
MinJobAge=7200
EnforcePartLimits=ALL
SlurmdTimeout=20
SlurmctldParameters=idle_on_node_suspend
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=2000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=2000 Gres=gpu:1
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE PriorityTier=9 PreemptMode=off
"""
GPUS = "NodeName=n1 Name=gpu File=/dev/zero\nNodeName=n2 Name=gpu File=/dev/null\n"


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    """Find a program, also a daemon that ordinary users do not have on PATH."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Cluster:
    """A running Slurm.

    Parameters
    ----------
    folder : Path
        Where configuration, state, sockets and logs go.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}
        ports = []
        for _ in range(3):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        values = {"controller": ports[0], "n1": ports[1], "n2": ports[2], "folder": folder}
        values |= {"host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**values), encoding="utf-8")
        (folder / "gres.conf").write_text(GPUS, encoding="utf-8")
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        for name in ("state", "spool-n1", "spool-n2"):
            (folder / name).mkdir()

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands; return what it prints."""
        done = subprocess.run(
            command, env={**os.environ, **self.env}, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self.folder.glob("*.log"))
            if path.name != "munged.log"
        )

    def _daemon(self, name: str, *arguments: str) -> None:
        """Start a daemon; it detaches itself."""
        self.run(_program(name), *arguments)

    def start(self) -> None:
        """Start everything, and wait until both nodes are idle."""
        names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid",
                 "log-file": "munged.log", "seed-file": "munged.seed"}  # fmt: skip
        options = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self._daemon("munged", "--force", *options)
        self._daemon("slurmctld")
        for node in ("n1", "n2"):
            self.start_node(node)

    def start_node(self, node: str) -> None:
        """Start a node, and wait until it is idle."""
        self._daemon("slurmd", "-N", node)
        self.wait(lambda: self.run("sinfo", "-h", "-n", node, "-o", "%T").startswith("idle"))

    def kill_node(self, node: str) -> None:
        """Cut a node's power: its daemon and all that runs on it are gone in one moment."""
        doomed = [int((self.folder / f"{node}.pid").read_text())]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if f"SLURMD_NODENAME={node}\0".encode() in text and self._ours(text):
                doomed.append(int(process.name))
        doomed += self._step_daemons(node)
        for number in doomed:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def _ours(self, environment: bytes) -> bool:
        """Say whether a process belongs to this cluster."""
        return f"SLURM_CONF={self.env['SLURM_CONF']}\0".encode() in environment

    def _step_daemons(self, node: str) -> list[int]:
        """Return the processes that look after a node's job steps: open in its spool folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                files = [str(link.readlink()) for link in (process / "fd").iterdir()]
            except OSError:
                continue
            spool, log = str(self.folder / f"spool-{node}"), str(self.folder / f"{node}.log")
            if command.startswith(b"slurmstepd") and any(
                file == log or file.startswith(spool) for file in files
            ):
                found.append(int(process.name))
        return found

    def state(self, job: str) -> str:
        """Return a job's state, such as RUNNING."""
        shown = self.run("scontrol", "show", "job", job)
        return shown.split("JobState=")[1].split()[0]

    def wait(self, condition, timeout: float = 600, hurry: str | None = None) -> None:
        """Wait until a condition holds; `hurry` names a requeued job that need not pause first."""
        deadline, hurried = time.monotonic() + timeout, False
        while not condition():
            assert time.monotonic() < deadline, f"{self.run('squeue', '-a')}\n{self.logs()}"
            if hurry:
                pausing = "Reason=BeginTime" in self.run("scontrol", "show", "job", hurry)
                if pausing and not hurried:
                    # not now: a node refuses a job in the second in which it ended the same job
                    self.run("scontrol", "update", f"jobid={hurry}", "starttime=now+3")
                hurried = pausing
            time.sleep(0.2)

    def finish(self, job: str, hurry: bool = True, timeout: float = 900) -> str:
        """Wait until a job is over; return its last state.

        Slurm lets a requeued job rest for two minutes; `hurry` does not. After a node was lost it
        must: for a minute the controller repeats to a node that came back what it shall end.
        """
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        self.wait(lambda: self.state(job) in over, timeout, hurry=job if hurry else None)
        return self.state(job)

    def clear(self) -> None:
        """Cancel all jobs, and wait until the nodes are free: none is left to the next test."""
        self.run("scancel", "--user", getpass.getuser())
        self.wait(lambda: not self.run("squeue", "--noheader"), timeout=120)

    def stop(self) -> None:
        """Cancel what runs and stop the daemons, each by its own number."""
        subprocess.run(
            ["scancel", "-f", "--user", getpass.getuser()],
            env={**os.environ, **self.env}, capture_output=True, check=False,
        )  # fmt: skip
        time.sleep(1)
        for name in ("n1", "n2", "slurmctld", "munged"):
            try:
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGTERM)
            except (OSError, ValueError):
                continue
        time.sleep(1)


@contextmanager
def cluster(folder: Path):
    """Start a Slurm in a folder; stop it afterwards."""
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
