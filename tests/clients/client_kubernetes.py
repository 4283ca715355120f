"""The official Python client: package `kubernetes`."""
import json
import logging
import pathlib

import yaml
from kubernetes import client, config, dynamic, stream, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes.informer import SharedInformer
from urllib3.util import Retry

from eventually import eventually
from partition import Partition

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# More than run.py lets the cluster keep, with the slice that compaction waits for.
MORE_THAN_KEPT = 600


def api_client(cluster, port: int | None = None) -> client.ApiClient:
    """A client of the kubeconfig; `port` leads it through a proxy."""
    settings = client.Configuration()
    text = yaml.safe_load(cluster.kubeconfig.read_text())
    if port:
        text["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    config.load_kube_config_from_dict(text, client_configuration=settings)
    settings.retries = Retry(0)
    return client.ApiClient(settings)


def server_of(cluster) -> tuple[str, int]:
    server = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    host, port = server.removeprefix("https://").rsplit(":", 1)
    return host, int(port)


def refused(code: int, reason: str, call) -> dict:
    """The Status of a call that must be refused."""
    try:
        call()
    except ApiException as error:
        status = json.loads(error.body)
        assert (error.status, status["reason"]) == (code, reason), error
        return status
    raise AssertionError(f"not refused with {code} {reason}")


def config_map(name: str, **data: str) -> client.V1ConfigMap:
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data=data)


def namespace(core: client.CoreV1Api, name: str) -> str:
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    return name


def test_typed_objects_are_written_in_every_way(cluster):
    core = client.CoreV1Api(api_client(cluster))
    ns = namespace(core, "typed")
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name="web", labels={"tier": "front"}),
        spec=client.V1ServiceSpec(selector={"app": "web"}, ports=[client.V1ServicePort(name="http", port=80)]))
    made = core.create_namespaced_service(ns, service)
    assert made.spec.type == "ClusterIP" and made.spec.cluster_ip == made.spec.cluster_ips[0]
    assert made.spec.ports[0].target_port == 80 and made.metadata.creation_timestamp.tzinfo
    refused(409, "AlreadyExists", lambda: core.create_namespaced_service(ns, service))

    # A dict is a strategic merge patch, a list a JSON patch.
    ports = {"spec": {"ports": [{"port": 443, "name": "https"}]}}
    assert [port.name for port in core.patch_namespaced_service("web", ns, ports).spec.ports] == ["https", "http"]
    operations = [{"op": "remove", "path": "/spec/ports/0"}]
    assert [port.name for port in core.patch_namespaced_service("web", ns, operations).spec.ports] == ["http"]
    merged = core.patch_namespaced_service(
        "web", ns, {"metadata": {"labels": {"tier": None}}}, _content_type="application/merge-patch+json")
    assert not merged.metadata.labels

    stale = core.read_namespaced_service("web", ns)
    core.patch_namespaced_service("web", ns, {"spec": {"sessionAffinity": "ClientIP"}})
    stale.spec.session_affinity = "None"
    status = refused(409, "Conflict", lambda: core.replace_namespaced_service("web", ns, stale))
    assert "the object has been modified" in status["message"]
    fresh = core.read_namespaced_service("web", ns)
    fresh.spec.session_affinity = "None"
    assert core.replace_namespaced_service("web", ns, fresh).spec.session_affinity_config is None

    service.spec.ports[0].port, service.spec.ports[0].target_port = 70000, 80
    service.metadata.name = "invalid"
    status = refused(422, "Invalid", lambda: core.create_namespaced_service(ns, service))
    assert [cause["field"] for cause in status["details"]["causes"]] == ["spec.ports[0].port"]
    refused(404, "NotFound", lambda: core.read_namespaced_service("none", ns))
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    refused(409, "Conflict", lambda: core.delete_namespaced_service("web", ns, body=wrong))
    dry = core.create_namespaced_config_map(ns, config_map("dry", a="1"), dry_run="All")
    assert dry.data == {"a": "1"}
    refused(404, "NotFound", lambda: core.read_namespaced_config_map("dry", ns))
    core.delete_namespaced_service("web", ns)
    refused(404, "NotFound", lambda: core.read_namespaced_service("web", ns))


def test_lists_come_in_pages_and_selections(cluster):
    core = client.CoreV1Api(api_client(cluster))
    ns = namespace(core, "pages")
    for i in range(7):
        made = config_map(f"c{i}")
        made.metadata.labels = {"parity": str(i % 2)}
        core.create_namespaced_config_map(ns, made)
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(ns, limit=3, **({"_continue": token} if token else {}),
                                               label_selector="parity")
        assert len(page.items) <= 3
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert names == [f"c{i}" for i in range(7)]
    odd = core.list_namespaced_config_map(ns, label_selector="parity in (1),parity!=0")
    assert [item.metadata.name for item in odd.items] == ["c1", "c3", "c5"]
    one = core.list_namespaced_config_map(ns, field_selector="metadata.name=c4")
    assert [item.metadata.name for item in one.items] == ["c4"]
    core.delete_collection_namespaced_config_map(ns, label_selector="parity=1")
    assert len([i for i in core.list_namespaced_config_map(ns).items if i.metadata.name.startswith("c")]) == 4


def test_dynamic_client_discovers_what_is_served(cluster):
    found = dynamic.DynamicClient(api_client(cluster), cache_file=cluster.folder / "discovery.json")
    namespace(client.CoreV1Api(found.client), "dynamic")
    slices = found.resources.get(api_version="discovery.k8s.io/v1", kind="EndpointSlice")
    assert (slices.namespaced, slices.name) == (True, "endpointslices")
    maps = found.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"a": "1"}}
    assert maps.create(body=body, namespace="dynamic").data.a == "1"
    change = {"metadata": {"name": "d"}, "data": {"b": "2"}}
    merge = "application/merge-patch+json"
    assert maps.patch(body=change, namespace="dynamic", content_type=merge).data.to_dict() == {"a": "1", "b": "2"}
    body["data"] = {"c": "3"}
    assert maps.replace(body=body, namespace="dynamic").data.to_dict() == {"c": "3"}
    assert "d" in [item.metadata.name for item in maps.get(namespace="dynamic").items]
    maps.delete(name="d", namespace="dynamic")
    try:
        maps.get(name="d", namespace="dynamic")
    except NotFoundError as error:
        assert error.reason == "Not Found"
    else:
        raise AssertionError("a deleted object is found")


def test_server_side_apply_has_owners_and_conflicts(cluster):
    found = dynamic.DynamicClient(api_client(cluster), cache_file=cluster.folder / "discovery-apply.json")
    namespace(client.CoreV1Api(found.client), "applied")
    maps = found.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1", "b": "1"}}

    def apply(data: dict, manager: str, **options):
        return maps.server_side_apply(body={**body, "data": data}, namespace="applied", field_manager=manager, **options)

    made = apply({"a": "1", "b": "1"}, "one")
    assert [(entry.manager, entry.operation) for entry in made.metadata.managedFields] == [("one", "Apply")]
    try:
        apply({"a": "2"}, "two")
    except ConflictError as error:
        status = json.loads(error.body)
        assert [cause["field"] for cause in status["details"]["causes"]] == [".data.a"], status
        assert 'conflict with "one"' in status["message"], status
    else:
        raise AssertionError("a field of another manager is taken without force")
    assert apply({"a": "2"}, "two", force_conflicts=True).data.to_dict() == {"a": "2", "b": "1"}
    # What a manager no longer applies goes, unless another one has it.
    assert apply({}, "one").data.to_dict() == {"a": "2"}


def test_watch_before_the_compaction_floor_is_gone(cluster):
    core = client.CoreV1Api(api_client(cluster))
    ns = namespace(core, "gone")
    old = core.list_namespaced_config_map(ns).metadata.resource_version
    overflow(core, ns)
    try:
        for event in watch.Watch().stream(core.list_namespaced_config_map, ns, resource_version=old,
                                          timeout_seconds=5):
            raise AssertionError(f"an event after {old}: {event}")
    except ApiException as error:
        assert error.status == 410 and "Expired" in error.reason, error
    else:
        raise AssertionError(f"the watch from {old} ends without a word")
    refused(410, "Expired", lambda: core.list_namespaced_config_map(
        ns, resource_version=old, resource_version_match="Exact"))


def overflow(core: client.CoreV1Api, ns: str):
    """Writes more revisions than are kept."""
    core.create_namespaced_config_map(ns, config_map("counter"))
    for i in range(MORE_THAN_KEPT):
        core.patch_namespaced_config_map("counter", ns, {"data": {"n": str(i)}})


def test_informer_lists_again_after_410(cluster):
    # The informer says with a traceback that it lost its connection, which is what happens here.
    logging.getLogger("kubernetes.informer.informer").disabled = True
    direct = client.CoreV1Api(api_client(cluster))
    ns, other = namespace(direct, "informed"), namespace(direct, "elsewhere")
    for name in ("stays", "changes", "goes"):
        direct.create_namespaced_config_map(ns, config_map(name, v="1"))
    with Partition(server_of(cluster)) as partition:
        core = client.CoreV1Api(api_client(cluster, partition.port))
        informer = SharedInformer(core.list_namespaced_config_map, namespace=ns)
        events = []
        for kind in ("ADDED", "MODIFIED", "DELETED"):
            informer.add_event_handler(kind, lambda item, kind=kind: events.append((kind, item.metadata.name)))
        expired = []
        informer.add_event_handler("ERROR", lambda error: expired.append(getattr(error, "status", None)))

        def cached():
            found = {item.metadata.name: (item.data or {}).get("v") for item in informer.cache.list()}
            found.pop("kube-root-ca.crt", None)
            return found

        informer.start()
        try:
            eventually("the first list", lambda: cached() == {"stays": "1", "changes": "1", "goes": "1"})
            direct.create_namespaced_config_map(ns, config_map("watched", v="1"))
            eventually("an event", lambda: "watched" in cached())
            partition.cut()
            direct.delete_namespaced_config_map("goes", ns)
            direct.patch_namespaced_config_map("changes", ns, {"data": {"v": "2"}})
            direct.create_namespaced_config_map(ns, config_map("comes", v="1"))
            overflow(direct, other)
            events.clear()
            partition.heal()
            wanted = {"stays": "1", "changes": "2", "comes": "1", "watched": "1"}
            eventually("the second list", lambda: cached() == wanted)
            assert ("DELETED", "goes") in events and ("ADDED", "comes") in events, events
            # An object that nobody touched is told again: it was listed, not watched.
            assert ("MODIFIED", "stays") in events, events
            direct.delete_namespaced_config_map("comes", ns)
            eventually("an event after the second list", lambda: "comes" not in cached())
        finally:
            partition.heal()
            direct.create_namespaced_config_map(ns, config_map("last"))  # wakes the watch, which then stops
            informer.stop()


def test_example_runs_and_its_logs_are_read(cluster):
    calls = api_client(cluster)
    core = client.CoreV1Api(calls)
    utils.create_from_yaml(calls, str(ROOT / "examples" / "web.yaml"))

    def ready(name: str):
        conditions = core.read_namespaced_pod(name, "default").status.conditions or []
        return any(item.type == "Ready" and item.status == "True" for item in conditions)

    for name in ("web-1", "web-2", "web-3"):
        eventually(f"{name} is ready", lambda: ready(name))
    assert "whoami: HTTP on 80" in core.read_namespaced_pod_log("web-1", "default")
    lines = watch.Watch().stream(core.read_namespaced_pod_log, "web-1", "default", follow=True)
    assert next(iter(lines)).startswith("whoami:")
    discovery = client.DiscoveryV1Api(calls)
    eventually("three endpoints", lambda: sum(
        len(item.endpoints) for item in discovery.list_namespaced_endpoint_slice(
            "default", label_selector="kubernetes.io/service-name=web").items) == 3)
    for name in ("web-1", "web-2", "web-3", "client"):
        core.delete_namespaced_pod(name, "default", grace_period_seconds=0)
    core.delete_namespaced_service("web", "default")


def test_streams_reach_into_pods(cluster):
    """exec and port-forward over the client's WebSocket (v4.channel.k8s.io), and a proxied request."""
    api = api_client(cluster)
    core = client.CoreV1Api(api)
    container = {"name": "c", "image": "vipyard/whoami", "ports": [{"containerPort": 80}],
                 "readinessProbe": {"periodSeconds": 1, "httpGet": {"path": "/ready", "port": 80}}}
    pod = {"metadata": {"name": "streams"}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    core.create_namespaced_pod("default", pod)

    def ready():
        conditions = core.read_namespaced_pod("streams", "default").status.conditions or []
        return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)

    eventually("the pod is ready", ready)

    def start(call, *args, **options):
        # stream() changes the client that it is given, so each gets one of its own.
        return stream.stream(getattr(client.CoreV1Api(api_client(cluster)), call), "streams", "default", *args, **options)

    options = {"stdin": False, "stdout": True, "stderr": True, "tty": False}
    text = start("connect_get_namespaced_pod_exec", command=["sh", "-c", "echo out; echo err >&2"], **options)
    assert sorted(text.split()) == ["err", "out"], text
    session = start("connect_post_namespaced_pod_exec", command=["sh", "-c", "read line; echo got $line; exit 9"],
                    _preload_content=False, **(options | {"stdin": True}))
    session.write_stdin("word\n")
    session.run_forever(timeout=30)
    assert (session.read_stdout(), session.returncode) == ("got word\n", 9)

    forward = stream.portforward(client.CoreV1Api(api_client(cluster)).connect_get_namespaced_pod_portforward,
                                 "streams", "default", ports="80,81")
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    socket = forward.socket(80)
    socket.setblocking(True)
    socket.sendall(request)
    answer = b""
    while piece := socket.recv(4096):
        answer += piece
    assert b"pod: streams\n" in answer, answer
    eventually("the closed port says why", lambda: "connection refused" in (forward.error(81) or ""))

    proxied = core.connect_get_namespaced_pod_proxy_with_path("streams:80", "default", "some/path")
    assert "pod: streams\n" in proxied, proxied
    core.delete_namespaced_pod("streams", "default")
