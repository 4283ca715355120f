#!/usr/bin/env python3
"""Runs the browser tests against a real cluster in a network namespace of its own.

  run.py --binary target/debug/vipyard [--demo target/debug/examples/dashboard_demo] [--chromium PATH] [--shots FOLDER]
  run.py --scale target/release/examples/dashboard_demo [--chromium PATH]

Starts a cluster, applies the examples and what tasks.yaml brings, and lets map.mjs look at the map while a Pod is
deleted, and tasks.mjs do what people come for. With --demo, scale.mjs measures the map of a made-up cluster of 1,000
Services; --scale does that alone. With --shots, pictures.mjs makes pictures of every page and nothing is tested. Exit status: 0 fine.
"""
import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
EXAMPLES = ["dual-stack.yaml", "headless.yaml", "nodeport.yaml", "web.yaml"]
sys.path.insert(0, str(HERE.parent / "common"))

import cluster  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument("--scale", type=pathlib.Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--demo", type=pathlib.Path)
    parser.add_argument("--shots", type=pathlib.Path)
    args = parser.parse_args()
    if not (args.binary or args.scale):
        parser.error("--binary or --scale is wanted")
    cluster.enter_namespace()
    browser = ["--chromium", args.chromium]
    if args.scale:
        return scale(args.scale, browser)
    with cluster.Cluster(args.binary) as running:
        kubectl = ["kubectl", "--kubeconfig", str(running.kubeconfig)]
        manifests = [*(ROOT / "examples" / name for name in EXAMPLES), HERE / "tasks.yaml"]
        subprocess.run([*kubectl, "apply", *(f"--filename={manifest}" for manifest in manifests)], check=True)
        ready = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]
        subprocess.run([*kubectl, *ready, "--selector=!never-ready"], check=True)
        visit = [*browser, "--url", running.dashboard]
        if args.shots:
            return node("pictures.mjs", *visit, "--shots", args.shots.resolve())
        delete = " ".join([*kubectl, "delete", "pod", "web-2", "--wait=false"])
        status = node("map.mjs", *visit, "--service", "default/web", "--live", delete)
        status = status or node("tasks.mjs", *visit, "--kubectl", " ".join(kubectl))
    if args.demo and not status:
        status = scale(args.demo, browser)
    return status


def scale(demo: pathlib.Path, browser: list) -> int:
    command = [demo, "--listen", "127.0.0.1:0", "--services", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            return node("scale.mjs", *browser, "--url", process.stdout.readline().strip())
        finally:
            process.terminate()


def node(script: str, *arguments) -> int:
    return subprocess.run(["node", HERE / script, *arguments], timeout=300).returncode


if __name__ == "__main__":
    sys.exit(main())
