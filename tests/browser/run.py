#!/usr/bin/env python3
"""Runs the browser test against a real cluster in a network namespace of its own.

  run.py --binary target/debug/vipyard [--chromium PATH] [--shots FOLDER]

Starts a cluster, applies the examples, and lets map.mjs look at the page while a Pod
is deleted. Exit status: that of map.mjs.
"""
import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INSIDE = "VIPYARD_BROWSER_TEST_INSIDE"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", type=pathlib.Path)
    args = parser.parse_args()
    if INSIDE not in os.environ:
        # No packet to a cluster address may leave through the machine's own interface.
        os.environ[INSIDE] = "1"
        flags = "-n" if os.geteuid() == 0 else "-Urn"
        os.execvp("unshare", ["unshare", flags, sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vipyard-browser-"))
    cluster = subprocess.Popen([args.binary, "up", "--data-dir", folder], stdout=subprocess.PIPE, text=True)
    try:
        url = None
        for line in cluster.stdout:
            if line.split()[:1] == ["dashboard"]:
                url = line.split()[1]
            if line.startswith("try:"):
                break
        if url is None:
            print("the cluster did not start", file=sys.stderr)
            return 1
        kubectl = ["kubectl", "--kubeconfig", str(folder / "kubeconfig")]
        subprocess.run([*kubectl, "apply", "-f", ROOT / "examples"], check=True)
        subprocess.run([*kubectl, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"], check=True)
        command = ["node", HERE / "map.mjs", "--url", url, "--service", "default/web", "--chromium", args.chromium]
        command += ["--live", " ".join([*kubectl, "delete", "pod", "web-2", "--wait=false"])]
        if args.shots:
            command += ["--shots", args.shots.resolve()]
        return subprocess.run(command, timeout=300).returncode
    finally:
        cluster.send_signal(signal.SIGTERM)
        cluster.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
