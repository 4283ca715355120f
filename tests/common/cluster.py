"""A vipyard cluster in a network namespace of its own, for tests that are written in Python."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

INSIDE = "VIPYARD_TEST_INSIDE"


def enter_namespace() -> None:
    """Starts the program again in a network namespace: no packet to a cluster address may leave through the machine's
    own interface."""
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        flags = "-n" if os.geteuid() == 0 else "-Urn"
        os.execvp("unshare", ["unshare", flags, sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Cluster:
    """A running `vipyard up`; use it in a `with` statement."""

    def __init__(self, binary: pathlib.Path, *arguments: str):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vipyard-test-"))
        self.kubeconfig = self.folder / "data" / "kubeconfig"
        self.log = self.folder / "log"
        self.dashboard = None
        self._command = [binary.resolve(), "up", "--data-dir", self.folder / "data", *arguments]

    def __enter__(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        for line in self.process.stdout:
            if line.split()[:1] == ["dashboard"]:
                self.dashboard = line.split()[1]
            if line.startswith("try:"):
                return self
        self.__exit__(None, None, None)
        raise SystemExit("the cluster did not start")

    def resident_mb(self) -> float:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(kibibytes) * 1024 / 1e6

    def __exit__(self, kind, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()
            if kind:
                print("the cluster's last words:", *self.log.read_text().splitlines()[-25:], sep="\n", file=sys.stderr)
            shutil.rmtree(self.folder, ignore_errors=True)
