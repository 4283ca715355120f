#!/usr/bin/env python3
"""Runs the browser test against a real cluster in a network namespace of its own.

  run.py --binary target/debug/vipyard [--chromium PATH] [--shots FOLDER]

Starts a cluster, applies the examples, and lets map.mjs look at the page while a Pod
is deleted. Exit status: that of map.mjs.
"""
import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "common"))

import cluster  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", type=pathlib.Path)
    args = parser.parse_args()
    cluster.enter_namespace()
    with cluster.Cluster(args.binary) as running:
        kubectl = ["kubectl", "--kubeconfig", str(running.kubeconfig)]
        subprocess.run([*kubectl, "apply", "-f", ROOT / "examples"], check=True)
        subprocess.run([*kubectl, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"], check=True)
        command = ["node", HERE / "map.mjs", "--url", running.dashboard, "--service", "default/web"]
        command += ["--chromium", args.chromium]
        command += ["--live", " ".join([*kubectl, "delete", "pod", "web-2", "--wait=false"])]
        if args.shots:
            command += ["--shots", args.shots.resolve()]
        return subprocess.run(command, timeout=300).returncode


if __name__ == "__main__":
    sys.exit(main())
