#!/usr/bin/env python3
"""Drives a real cluster with clients that others have written.

  run.py --binary target/debug/vipyard [NAME...]

Each file client_*.py beside this one is about one client; its functions named `test_*` are scenarios, which share a
cluster in a network namespace of its own. A client that is not installed is reported as ignored, with the reason.
Exit status: 1 when a scenario fails.
"""
import argparse
import importlib
import pathlib
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))

import cluster  # noqa: E402

# So few that a scenario can write more than are kept.
KEPT = 200


def scenarios(only: list[str]):
    for file in sorted(HERE.glob("client_*.py")):
        try:
            module = importlib.import_module(file.stem)
        except ImportError as missing:
            yield file.stem, None, f"{missing}: make client-test installs it from PyPI"
            continue
        for name in dir(module):
            full = f"{file.stem}::{name}"
            if name.startswith("test_") and (not only or any(part in full for part in only)):
                yield full, getattr(module, name), None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("only", nargs="*", metavar="NAME")
    args = parser.parse_args()
    cluster.enter_namespace()
    sys.path.insert(0, str(HERE))
    count = {"ok": 0, "FAILED": 0, "ignored": 0}
    with cluster.Cluster(args.binary, "--keep-revisions", str(KEPT)) as running:
        for name, scenario, reason in scenarios(args.only):
            begin, why = time.monotonic(), ""
            if reason:
                outcome, why = "ignored", f", {reason}"
            else:
                try:
                    scenario(running)
                    outcome = "ok"
                except Exception:
                    outcome = "FAILED"
                    traceback.print_exc()
            count[outcome] += 1
            print(f"test {name} ... {outcome}{why} ({time.monotonic() - begin:.1f}s)", flush=True)
    print(f"\n{count['ok']} passed, {count['FAILED']} failed, {count['ignored']} skipped")
    return 1 if count["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
