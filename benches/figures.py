#!/usr/bin/env python3
"""Start-up time, idle memory, size of the binary, and what many Pods cost, as README names them.

  figures.py --binary target/release/vipyard [--runs 5] [--pods 200]

Each run starts `vipyard up` on an empty data directory in a network namespace of its own, creates a Service and a Pod
as soon as the API is ready, and asks the VIP from inside the Pod's network namespace until it answers 200. The time runs
from the exec of `vipyard up` to that answer.

Many Pods are of vipyard/pause, on three nodes: the time from the first POST until the last one is Ready, the memory that
they add, and the time from the deletion until their objects, processes and files are gone. The last line is JSON.
"""
import argparse
import base64
import ctypes
import http.client
import json
import os
import pathlib
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

INSIDE = "VIPYARD_FIGURES_INSIDE"
CLONE_NEWNET = 0x40000000
LIMIT = 20
IDLE_SECONDS = 3
LIBC = ctypes.CDLL(None, use_errno=True)

SERVICE = {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
}
POD = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "web", "image": "vipyard/whoami"}], "terminationGracePeriodSeconds": 1},
}


class Api:
    """A client with the certificate of the kubeconfig."""

    def __init__(self, kubeconfig: pathlib.Path):
        config = json.loads(kubeconfig.read_text())
        user = config["users"][0]["user"]
        cluster = config["clusters"][0]["cluster"]
        with tempfile.NamedTemporaryFile() as pair:
            for field in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[field]))
            pair.flush()
            self.context = ssl.create_default_context(
                cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
            self.context.load_cert_chain(pair.name)
        host, port = cluster["server"].removeprefix("https://").rsplit(":", 1)
        self.connection = http.client.HTTPSConnection(host, int(port), context=self.context, timeout=LIMIT)

    def call(self, method: str, path: str, body=None):
        data = None if body is None else json.dumps(body)
        self.connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        return answer.status, answer.read()


def until(what: str, check):
    """Asks again each millisecond: this is the clock of the measurement."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        result = check()
        if result:
            return result
        time.sleep(0.001)
    raise SystemExit(f"waited {LIMIT} s in vain for {what}")


def child_running(parent: int, words: bytes):
    try:
        children = pathlib.Path(f"/proc/{parent}/task").glob("*/children")
        for pid in (pid for file in children for pid in file.read_text().split()):
            if words in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    except OSError:
        pass  # a process that has just ended
    return None


def first_answer(pid: int, address: str) -> float:
    """The time of the first 200 from the VIP, asked from inside the namespace of process `pid`."""
    result = {}

    def ask():
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        if LIBC.setns(namespace, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

        def once():
            try:
                connection = http.client.HTTPConnection(address, 80, timeout=1)
                connection.request("GET", "/")
                return connection.getresponse().status == 200
            except OSError:
                return False

        until("the VIP", once)
        result["at"] = time.monotonic()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return result["at"]


def resident_mib(pid: int) -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the process has no VmRSS")


def run(binary: pathlib.Path, idle: bool) -> dict:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vipyard-figures-"))
    data = folder / "data"
    started = time.monotonic()
    process = subprocess.Popen([binary, "up", "--data-dir", data], stdout=subprocess.DEVNULL)
    try:
        if idle:
            until("the kubeconfig", (data / "kubeconfig").exists)
            until("readiness", lambda: Api(data / "kubeconfig").call("GET", "/readyz")[0] == 200)
            time.sleep(IDLE_SECONDS)
            return {"rss": resident_mib(process.pid)}
        until("the kubeconfig", (data / "kubeconfig").exists)
        api = Api(data / "kubeconfig")
        until("readiness", lambda: api.call("GET", "/readyz")[0] == 200)
        ready = time.monotonic()
        base = "/api/v1/namespaces/default"
        status, answer = api.call("POST", f"{base}/services", SERVICE)
        assert status == 201, answer
        vip = json.loads(answer)["spec"]["clusterIP"]
        until("the ServiceAccount", lambda: api.call("GET", f"{base}/serviceaccounts/default")[0] == 200)
        status, answer = api.call("POST", f"{base}/pods", POD)
        assert status == 201, answer
        pid = until("the Pod's process", lambda: child_running(process.pid, b"whoami"))
        return {"ready": (ready - started) * 1000, "answer": (first_answer(pid, vip) - started) * 1000}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def watch_pods(kubeconfig: pathlib.Path, version: str):
    """The events of the Pods, as they come."""
    api = Api(kubeconfig)
    api.connection.timeout = 10 * LIMIT
    api.connection.request("GET", f"/api/v1/namespaces/default/pods?watch=true&resourceVersion={version}")
    answer = api.connection.getresponse()
    assert answer.status == 200, answer.read()
    while line := answer.readline():
        yield json.loads(line)


def is_ready(pod: dict) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def processes_below(parent: int) -> int:
    files = pathlib.Path(f"/proc/{parent}/task").glob("*/children")
    return sum(len(file.read_text().split()) for file in files)


def many(binary: pathlib.Path, count: int) -> dict:
    """Starts `count` Pods at once and deletes them."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vipyard-figures-"))
    data = folder / "data"
    process = subprocess.Popen([binary, "up", "--data-dir", data], stdout=subprocess.DEVNULL)
    try:
        until("the kubeconfig", (data / "kubeconfig").exists)
        api = Api(data / "kubeconfig")
        until("readiness", lambda: api.call("GET", "/readyz")[0] == 200)
        base = "/api/v1/namespaces/default"
        until("the ServiceAccount", lambda: api.call("GET", f"{base}/serviceaccounts/default")[0] == 200)
        time.sleep(IDLE_SECONDS)
        before = resident_mib(process.pid)
        version = json.loads(api.call("GET", f"{base}/pods")[1])["metadata"]["resourceVersion"]
        events = watch_pods(data / "kubeconfig", version)
        started = time.monotonic()
        for number in range(count):
            spec = {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "vipyard/pause"}]}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}, "spec": spec}
            status, answer = api.call("POST", f"{base}/pods", pod)
            assert status == 201, answer
        ready = set()
        while len(ready) < count:
            pod = next(events)["object"]
            if is_ready(pod):
                ready.add(pod["metadata"]["name"])
        ready_at = time.monotonic()
        time.sleep(IDLE_SECONDS)
        after = resident_mib(process.pid)
        deleted = time.monotonic()
        status, answer = api.call("DELETE", f"{base}/pods")
        assert status == 200, answer
        gone = 0
        while gone < count:
            gone += next(events)["type"] == "DELETED"
        until("the end of all processes", lambda: processes_below(process.pid) == 0)
        until("the end of all files", lambda: not any((data / "pods").iterdir()))
        gone_at = time.monotonic()
        return {
            "ready": ready_at - started,
            "kib": (after - before) * 1024 / count,
            "gone": gone_at - deleted,
        }
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def apart():
    """Goes on in a network namespace: no packet to a cluster address may leave through the machine's own interface."""
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        flags = "-n" if os.geteuid() == 0 else "-Urn"
        os.execvp("unshare", ["unshare", flags, sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pods", type=int, default=200)
    args = parser.parse_args()
    apart()
    runs = [run(args.binary, idle=False) for _ in range(args.runs)]
    pods = many(args.binary, args.pods)
    figures = {
        "pods_ready_s": round(pods["ready"], 1),
        "pod_kib": round(pods["kib"]),
        "pods_gone_s": round(pods["gone"], 1),
        "ready_ms": round(statistics.median(r["ready"] for r in runs)),
        "first_answer_ms": round(statistics.median(r["answer"] for r in runs)),
        "idle_rss_mib": round(run(args.binary, idle=True)["rss"], 1),
        "binary_mib": round(args.binary.stat().st_size / 2**20, 1),
    }
    print(f"exec of `vipyard up` to ready                     {figures['ready_ms']} ms (median of {args.runs})")
    print(f"exec of `vipyard up` to first 200 through a VIP   {figures['first_answer_ms']} ms (median of {args.runs})")
    print(f"resident memory, idle, 3 nodes                    {figures['idle_rss_mib']} MiB")
    print(f"size of the binary                                {figures['binary_mib']} MiB")
    print(f"{args.pods} Pods from the first POST to all Ready            {figures['pods_ready_s']} s")
    print(f"memory of vipyard per Pod                         {figures['pod_kib']} KiB")
    print(f"{args.pods} Pods from the deletion to nothing left           {figures['pods_gone_s']} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
