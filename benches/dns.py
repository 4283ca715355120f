#!/usr/bin/env python3
"""Cluster DNS under dnsperf, as README names the figures.

  dns.py --binary target/release/vipyard [--services 5000] [--seconds 8] [--clients 4]

Starts a cluster in memory in a network namespace of its own, creates Services, and lets dnsperf (Debian's package of that
name) ask for the A records of all of them over UDP: at the loopback port of the host, and through the VIP from inside a
Pod. Then at half of the first rate, for the latencies. Server and dnsperf share all processors. The last line is JSON.
"""
import argparse
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile

from figures import Api, apart, child_running, resident_mib, until

SERVICES = "/api/v1/namespaces/default/services"
POD = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asker"},
    "spec": {"containers": [{"name": "c", "image": "vipyard/pause"}], "terminationGracePeriodSeconds": 0},
}


def dnsperf(server: str, port: int, questions: pathlib.Path, args, *more: str, pid=None):
    """What dnsperf prints."""
    enter = [] if pid is None else ["nsenter", "--target", str(pid), "--net"]
    command = [*enter, "dnsperf", "-s", server, "-p", str(port), "-d", questions, "-c", str(args.clients),
               "-l", str(args.seconds), *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


def number(text: str, label: str) -> float:
    return float(re.search(rf"{re.escape(label)}:?\s+([\d.]+)", text).group(1))


def rate(text: str) -> int:
    """Answers a second; all must be answers, and there must be one to each question but a few."""
    codes = re.search(r"Response codes:\s+(.*)", text).group(1)
    assert codes.startswith("NOERROR") and "100.00%" in codes, text
    lost = number(text, "Queries lost")
    assert lost <= number(text, "Queries sent") / 1000, text
    return round(number(text, "Queries per second"))


def percentile(text: str, part: float) -> float:
    """Milliseconds, of what -v prints for each answer."""
    latencies = sorted(float(line.rsplit(None, 1)[1]) for line in text.splitlines() if line.startswith("> "))
    return latencies[min(len(latencies) - 1, int(len(latencies) * part))] * 1000


def measure(args) -> dict:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vipyard-dns-"))
    data = folder / "data"
    process = subprocess.Popen([args.binary, "up", "--in-memory", "--data-dir", data], stdout=subprocess.DEVNULL)
    try:
        until("the kubeconfig", (data / "kubeconfig").exists)
        api = Api(data / "kubeconfig")
        until("readiness", lambda: api.call("GET", "/readyz")[0] == 200)
        until("the ServiceAccount",
              lambda: api.call("GET", "/api/v1/namespaces/default/serviceaccounts/default")[0] == 200)
        host, port = (data / "dns-address").read_text().strip().rsplit(":", 1)
        idle = resident_mib(process.pid)
        for index in range(args.services):
            spec = {"ports": [{"port": 80}], "selector": {"app": f"web-{index}"}}
            service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"web-{index}"}, "spec": spec}
            status, answer = api.call("POST", SERVICES, service)
            assert status == 201, answer
        status, answer = api.call("POST", "/api/v1/namespaces/default/pods", POD)
        assert status == 201, answer
        pid = until("the Pod's process", lambda: child_running(process.pid, b"pause"))
        status, answer = api.call("GET", "/vipyard/v1/barrier")
        assert status == 200, answer
        before = resident_mib(process.pid)
        names = [f"web-{index}.default.svc.cluster.local A" for index in range(args.services)]
        random.Random(7).shuffle(names)
        questions = folder / "questions"
        questions.write_text("\n".join(names) + "\n")
        full = rate(dnsperf(host, int(port), questions, args))
        pod = rate(dnsperf("10.96.0.10", 53, questions, args, pid=pid))
        half = dnsperf(host, int(port), questions, args, "-Q", str(full // 2), "-v")
        assert rate(half) > full * 0.45, half[-2000:]
        return {
            "services": args.services, "queries_per_second": full, "queries_per_second_through_vip": pod,
            "half_load_p50_ms": round(percentile(half, 0.5), 3), "half_load_p99_ms": round(percentile(half, 0.99), 3),
            "idle_rss_mib": round(idle, 1), "services_rss_mib": round(before, 1),
            "load_rss_mib": round(resident_mib(process.pid), 1),
        }
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--services", type=int, default=5000)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=4)
    args = parser.parse_args()
    if shutil.which("dnsperf") is None:
        print("cluster DNS is not measured: dnsperf is missing; install it with: apt-get install dnsperf")
        return
    apart()
    figures = measure(args)
    print(f"queries a second, {args.services} Services, {args.clients} clients   {figures['queries_per_second']:,}")
    print(f"the same from a Pod, through the VIP              {figures['queries_per_second_through_vip']:,}")
    print(f"latency at half of the first, median and p99      {figures['half_load_p50_ms']} and "
          f"{figures['half_load_p99_ms']} ms")
    print(f"resident memory: idle, with Services, under load  {figures['idle_rss_mib']}, {figures['services_rss_mib']}, "
          f"{figures['load_rss_mib']} MiB")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
