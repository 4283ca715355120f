#!/usr/bin/env python3
"""Sends requests that nobody would write to a real cluster and looks for answers that no server should give.

  run.py --binary target/debug/vipyard [--requests N] [--seed S] [--findings FOLDER]
         [--schemathesis PROGRAM --examples N]

Found is: a code of 500 or more, an answer that never comes, a connection that ends without one, a refusal that is no
Status, a panic in the log, a list that no longer works afterwards, memory that grows. Each finding is written to a file
with the request. With --schemathesis, that program then generates requests of its own from the server's OpenAPI
documents, N examples per operation. The last line says how many requests there were. Exit status: 1 with findings.
"""
import argparse
import base64
import collections
import http.client
import json
import multiprocessing
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))

import cluster  # noqa: E402
from generate import Generator, Request  # noqa: E402

WORKERS = 2
HANG_SECONDS = 15
# Of one round: memory is measured after each.
ROUND = 20_000
# Between two such numbers of requests of a worker, everything in the fuzzed namespace is deleted.
SWEEP = 2_500
KEPT_REVISIONS = 2_000
GROWTH_MB = 40
# A generated number of replicas would be as many Pods, which no sweep is faster than.
CONTROLLERS = "--controllers=*," + ",".join(
    f"-{kind}-controller" for kind in
    ["cronjob", "daemonset", "deployment", "job", "replicaset", "replicationcontroller", "statefulset"])
SEVERAL_BUDGETS = b"This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."


class Api:
    """A connection with the certificate of the kubeconfig, opened again when the server has closed it."""

    def __init__(self, kubeconfig: pathlib.Path):
        config = json.loads(kubeconfig.read_text())
        user, server = config["users"][0]["user"], config["clusters"][0]["cluster"]
        self.context = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            for field in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[field]))
            pair.flush()
            self.context.load_cert_chain(pair.name)
        self.host, port = server["server"].removeprefix("https://").rsplit(":", 1)
        self.port = int(port)
        self.connection = None

    def send(self, request: Request) -> tuple[int, http.client.HTTPMessage, bytes]:
        if self.connection is None:
            self.connection = http.client.HTTPSConnection(self.host, self.port, context=self.context, timeout=HANG_SECONDS)
        self.connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in request.headers.items():
            self.connection.putheader(name, value.encode("latin-1", "replace"))
        self.connection.putheader("Content-Length", str(len(request.body)))
        self.connection.endheaders(request.body)
        answer = self.connection.getresponse()
        endless = answer.status == 200 and request.watches()
        body = b"" if endless else answer.read()
        if endless or answer.will_close:
            self.close()
        return answer.status, answer.headers, body

    def get(self, path: str) -> dict:
        status, _, body = self.send(Request("GET", path, {}, b""))
        assert status == 200, (path, status, body)
        return json.loads(body)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def resources(api: Api) -> list[dict]:
    """Everything that discovery names, with the version and kind of the objects that are sent there."""
    versions = ["v1"] + [version["groupVersion"] for group in api.get("/apis")["groups"] for version in group["versions"]]
    found = []
    for version in versions:
        for resource in api.get(f"/apis/{version}" if "/" in version else f"/api/{version}")["resources"]:
            group, inner = resource.get("group", ""), resource.get("version", "")
            of = (f"{group}/{inner}" if group else inner) if inner else version
            found.append({"version": version, "of": of, **resource})
    return found


def check(request: Request, status: int, headers, body: bytes) -> str:
    """What is wrong with an answer, or nothing."""
    # As the reference says that a version is not there yet: after a while the client is to ask again.
    later = status == 504 and b"ResourceVersionTooLarge" in body
    # The reference's words and code, too.
    budgets = status == 500 and request.path.partition("?")[0].endswith("/eviction") and SEVERAL_BUDGETS in body
    # Nobody is behind a proxy of what is generated.
    proxied = status == 503 and "/proxy" in request.path.partition("?")[0]
    if status >= 500 and not later and not budgets and not proxied:
        return f"answered with {status}: {body[:300]!r}"
    json_error = status >= 400 and request.method != "HEAD" and "json" in (headers.get("Content-Type") or "")
    if json_error and json.loads(body).get("kind") != "Status":
        return f"refused with {status} but without a Status: {body[:300]!r}"
    return ""


def work(kubeconfig: pathlib.Path, count: int, seed: int, findings: multiprocessing.Queue):
    api = Api(kubeconfig)
    generator = Generator(resources(api), seed)
    codes = collections.Counter()
    for i in range(count):
        if i % SWEEP == 0:
            sweep(api)
        request = generator.request()
        try:
            answer = api.send(request)
            wrong = check(request, *answer)
            codes[answer[0]] += 1
        except TimeoutError:
            wrong = f"no answer within {HANG_SECONDS} s"
            api.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            # A connection that the server had closed after its last answer is no finding: asked again, it answers.
            api.close()
            wrong = retry(api, request, error)
        if wrong:
            findings.put((seed, i, wrong, request.text()))
    findings.put(codes)


def retry(api: Api, request: Request, first: Exception) -> str:
    try:
        return check(request, *api.send(request))
    except http.client.InvalidURL:
        return ""  # the client itself does not send it
    except (OSError, http.client.HTTPException, ValueError) as error:
        api.close()
        return f"no answer: {error!r} after {first!r}"


def sweep(api: Api):
    """Deletes what the requests have made, so that memory measures leaks and not objects."""
    unhold = json.dumps({"metadata": {"finalizers": None}}).encode()
    for resource in resources(api):
        if "deletecollection" not in resource["verbs"] or resource["kind"] in ("Namespace", "Node"):
            continue
        base = f"/apis/{resource['version']}" if "/" in resource["version"] else f"/api/{resource['version']}"
        path = f"{base}/namespaces/fuzz/{resource['name']}" if resource["namespaced"] else f"{base}/{resource['name']}"
        if not resource["namespaced"] and resource["kind"] in ("ServiceCIDR", "ClusterRole", "ClusterRoleBinding"):
            continue
        api.send(Request("DELETE", f"{path}?gracePeriodSeconds=0", {}, b""))
        for item in api.get(path)["items"]:
            held = Request("PATCH", f"{path}/{item['metadata']['name']}", {"Content-Type": "application/merge-patch+json"}, unhold)
            if item["metadata"].get("finalizers"):
                api.send(held)
    namespace = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fuzz"}}).encode()
    api.send(Request("POST", "/api/v1/namespaces", {"Content-Type": "application/json"}, namespace))


def still_works(api: Api) -> list[str]:
    """Lists everything in every form: one bad object must not spoil a list."""
    wrong = []
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    for resource in resources(api):
        if "list" not in resource["verbs"]:
            continue
        base = f"/apis/{resource['version']}" if "/" in resource["version"] else f"/api/{resource['version']}"
        for accept in ("application/json", table, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"):
            status, _, body = api.send(Request("GET", f"{base}/{resource['name']}", {"Accept": accept}, b""))
            if status != 200:
                wrong.append(f"list of {resource['name']} as {accept} afterwards: {status} {body[:300]!r}")
    return wrong


def rounds(running: cluster.Cluster, requests: int, seed: int) -> tuple[list, collections.Counter, list[float]]:
    """At least four rounds, so that memory of the later ones can be compared with that of the first."""
    found, codes, memory = [], collections.Counter(), []
    print(f"{running.resident_mb():.0f} MB before", flush=True)
    parts = max(4, requests // ROUND)
    for part in range(parts):
        queue = multiprocessing.Queue()
        each = requests // parts // WORKERS
        workers = [multiprocessing.Process(target=work, args=(running.kubeconfig, each, seed + part * WORKERS + n, queue))
                   for n in range(WORKERS)]
        for worker in workers:
            worker.start()
        done = 0
        while done < WORKERS:
            try:
                item = queue.get(timeout=1)
            except multiprocessing.queues.Empty:
                if not any(worker.is_alive() for worker in workers):
                    found.append((seed, -1, "a worker has ended early", ""))
                    break
                continue
            if isinstance(item, collections.Counter):
                codes += item
                done += 1
            else:
                found.append(item)
        for worker in workers:
            worker.join()
        api = Api(running.kubeconfig)
        sweep(api)
        api.close()
        time.sleep(2)  # what the controllers still do about it
        memory.append(running.resident_mb())
        print(f"{sum(codes.values())} requests, {len(found)} findings, {memory[-1]:.0f} MB", flush=True)
    return found, codes, memory


def without_streams(document: dict) -> dict:
    """The document without what makes an answer endless: schemathesis reads each to its end."""
    document["paths"] = {path: item for path, item in document["paths"].items() if not path.endswith(("/log", "/exec"))}
    for item in document["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict) and "parameters" in operation:
                operation["parameters"] = [p for p in operation["parameters"] if p.get("name") not in ("watch", "follow")]
    return document


def schemathesis(running: cluster.Cluster, program: str, examples: int, seed: int) -> tuple[list[str], int]:
    """Lets schemathesis loose on every group's document. Returns its findings and the number of requests."""
    api = Api(running.kubeconfig)
    config = json.loads(running.kubeconfig.read_text())
    server = config["clusters"][0]["cluster"]["server"]
    user = config["users"][0]["user"]
    pair = running.folder / "pair.pem"
    pair.write_bytes(b"".join(base64.b64decode(user[f]) for f in ("client-certificate-data", "client-key-data")))
    found, count = [], 0
    for path in sorted(api.get("/openapi/v3")["paths"]):
        if not path.startswith("api"):
            continue
        api.close()
        schema = running.folder / "openapi.json"
        schema.write_text(json.dumps(without_streams(api.get(f"/openapi/v3/{path}"))))
        report = running.folder / "report.ndjson"
        command = [pathlib.Path(program).absolute(), "run", schema, "--url", server, "--request-cert", pair, "--tls-verify", "false",
                   "--checks", "not_a_server_error", "--phases", "fuzzing", "--mode", "all",
                   "--max-examples", str(examples), "--seed", str(seed), "--request-timeout", str(HANG_SECONDS),
                   "--workers", str(WORKERS), "--continue-on-failure",
                   "--report", "ndjson", "--report-ndjson-path", report]
        # In a folder of its own, as it leaves one of its findings behind.
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=running.folder,
                                env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"})
        lines = result.stdout.splitlines()
        count += sum(line.count('"status_code"') for line in report.open()) if report.exists() else 0
        print(f"schemathesis {path}: exit {result.returncode}; {lines[-1] if lines else ''}", flush=True)
        if result.returncode:
            found.append(f"schemathesis {path}:\n" + "\n".join(lines[-60:]))
    return found, count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=pathlib.Path, default=pathlib.Path("target/fuzz"))
    parser.add_argument("--schemathesis", metavar="PROGRAM")
    parser.add_argument("--examples", type=int, default=20)
    args = parser.parse_args()
    cluster.enter_namespace()
    with cluster.Cluster(args.binary, "--nodes", "1", "--keep-revisions", str(KEPT_REVISIONS), CONTROLLERS) as running:
        found, codes, memory = rounds(running, args.requests, args.seed)
        wrong = [f"seed {seed} request {i}: {what}\n{request}" for seed, i, what, request in found]
        total = sum(codes.values())
        if args.schemathesis:
            more, count = schemathesis(running, args.schemathesis, args.examples, args.seed)
            wrong += more
            total += count
            memory.append(running.resident_mb())
        if running.process.poll() is not None:
            wrong.append(f"the cluster has ended with {running.process.returncode}")
        else:
            wrong += still_works(Api(running.kubeconfig))
        wrong += [line for line in running.log.read_text().splitlines() if "panicked" in line]
        # The first half fills what is filled once: schemas, histories, the allocator's arenas. A short run does nothing else.
        if total >= ROUND and memory[-1] > memory[len(memory) // 2] + GROWTH_MB:
            wrong.append(f"memory grows: {memory} MB")
    args.findings.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(wrong):
        (args.findings / f"finding-{i}.txt").write_text(text + "\n")
    print(*(text[:500] for text in wrong[:20]), sep="\n")
    print("answers by code:", dict(sorted(codes.items())))
    print(f"{total} requests, {len(wrong)} findings" + (f" in {args.findings}" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
