"""Helm 4, as package `helm-python-sdk` binds it: Helm's own Go code with client-go inside, without the command line."""
import base64
import pathlib

import helm_python as helm
from kubernetes import client, config
from kubernetes.client.exceptions import NotFoundException

from eventually import eventually

CHART = pathlib.Path(__file__).resolve().parent / "chart"
WAIT = {"wait": "watcher", "timeout": 60}


def found(read, *arguments):
    try:
        return read(*arguments)
    except NotFoundException:
        return None


def test_release_is_installed_upgraded_rolled_back_and_removed(cluster):
    core = client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))
    ns = "shop"
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace=ns) as releases:
        releases.check_reachable()
        releases.install(CHART, "web", namespace=ns, create_namespace=True, **WAIT)
        color = lambda: core.read_namespaced_config_map("web-settings", ns).data["color"]  # noqa: E731
        # It has waited until the Pod was ready.
        ready = [item for item in core.read_namespaced_pod("web", ns).status.conditions if item.type == "Ready"]
        assert ready[0].status == "True" and color() == "red"
        # Helm 4 applies on the server, under the name of the program it is part of.
        owners = core.read_namespaced_config_map("web-settings", ns).metadata.managed_fields
        assert [entry.operation for entry in owners] == ["Apply"], owners

        releases.upgrade(CHART, "web", {"color": "blue", "extra": True, "port": 8080}, namespace=ns, **WAIT)
        assert color() == "blue"
        assert core.read_namespaced_service("web", ns).spec.ports[0].port == 8080
        assert base64.b64decode(core.read_namespaced_secret("web-extra", ns).data["key"]) == b"value"
        assert core.read_namespaced_config_map("web-hook", ns).data == {"revision": "2"}
        history = [(entry["revision"], entry["status"]) for entry in releases.history("web")]
        assert sorted(history) == [(1, "superseded"), (2, "deployed")], history
        assert releases.get_values("web")["color"] == "blue"

        releases.rollback("web", version=1)
        assert color() == "red"
        eventually("the Secret that revision 1 has not goes", lambda: not found(core.read_namespaced_secret, "web-extra", ns))
        assert [entry["name"] for entry in releases.list()] == ["web"]
        # Where Helm keeps its releases.
        stored = core.list_namespaced_secret(ns, label_selector="owner=helm,name=web")
        assert sorted(item.metadata.labels["version"] for item in stored.items) == ["1", "2", "3"]

        releases.uninstall("web", **WAIT)
        for read, name in ((core.read_namespaced_service, "web"), (core.read_namespaced_pod, "web"),
                           (core.read_namespaced_config_map, "web-settings")):
            assert not found(read, name, ns), name
        assert releases.list() == []
