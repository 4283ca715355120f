"""Requests of every sort, from those that are right but for one value to those that are noise.

Nothing here starts a program: no image but pause is named that the cluster can run, and pause ignores what it is told.
"""
import dataclasses
import json
import random
import string
import urllib.parse

NAMESPACES = ["default", "fuzz", "none", "kube-system"]
NAMES = ["a", "b", "c", "none", "x.y", "A", "-", "a" * 64, "a" * 254, "ü", "..", "%00", "kubernetes", ""]
TEXTS = ["", "a", "0", "-1", "true", "null", "a" * 300, "\u0000", "ü€😀", "\ud7ff", "{}", "[]", "../..", "a/b", "a.b/c", "/",
         "10.96.0.1", "::1", "999.1.1.1", "10.0.0.0/8", "1e400", "100m", "1Gi", "9" * 40, "2024-01-01T00:00:00Z",
         "2024-13-41T99:99:99Z", "${x}", "$(x)", "Always", "TCP", "ClusterIP", "NodePort", "None", "IPv6", "\r\n", "'\"\\"]
NUMBERS = [0, 1, -1, 80, 65535, 65536, 30000, 2**31 - 1, 2**31, -2**31 - 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 0.5, -0.0, 1e300]
WORDS = ["metadata", "name", "namespace", "labels", "annotations", "finalizers", "ownerReferences", "spec", "status", "data",
         "ports", "port", "selector", "type", "clusterIP", "template", "containers", "image", "replicas", "$patch",
         "$setElementOrder/ports", "$retainKeys", "$deleteFromPrimitiveList/finalizers", "generateName", "resourceVersion",
         "uid", "kind", "apiVersion", "managedFields", "deletionTimestamp", "", "🦀"]
MEDIA = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "text/plain", "", "x",
         "application/json; charset=utf-8", "application/json;as=Table", "multipart/form-data; boundary=x", "a/b/c", "*/*"]
PATCHES = ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"] * 3
PATCHES += ["application/apply-patch+yaml"] * 3 + ["application/apply-patch+cbor", "application/json"]
ACCEPTS = ["application/json", "*/*", "application/yaml", "application/vnd.kubernetes.protobuf", "text/csv", "",
           "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v1beta1;g=meta.k8s.io,*/*",
           "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
           "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", ";;;", "application/json;q=0",
           "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "application/json;as=Nothing"]
SELECTORS = ["a=b", "a!=b", "!a", "a in (b,c)", "a notin ()", "a,,b", "a b", "a>1", "(", "=", "metadata.name=a", "spec.type=x",
             "metadata.name!=a,metadata.namespace=fuzz", "spec.none=1", "a" * 5000, "ü=1", "a==b=c"]
PARAMETERS = {
    "watch": ["true", "1", "false", "yes", ""], "timeoutSeconds": ["0", "-1", "x", "99999999999999999999"],
    "limit": ["0", "1", "-1", "2", "x", "9" * 30], "continue": ["x", "e30", "eyJydiI6MX0", "a" * 3000],
    "resourceVersion": ["0", "1", "-1", "x", "", "9" * 30, "18446744073709551615"],
    "resourceVersionMatch": ["Exact", "NotOlderThan", "x", ""], "sendInitialEvents": ["true", "false", "x"],
    "allowWatchBookmarks": ["true", "x"], "labelSelector": SELECTORS, "fieldSelector": SELECTORS,
    "dryRun": ["All", "None", "", "all"], "fieldManager": ["a", "", "a" * 200, "\u0000", "ü"], "force": ["true", "x"],
    "fieldValidation": ["Strict", "Warn", "Ignore", "x"], "gracePeriodSeconds": ["0", "-1", "x", "9" * 20],
    "propagationPolicy": ["Orphan", "Foreground", "Background", "x"], "orphanDependents": ["true", "x"],
    "includeObject": ["None", "Metadata", "Object", "x"], "pretty": ["true"], "container": ["c", ""], "tailLines": ["1", "-1", "x"],
    "sinceSeconds": ["1", "0"], "limitBytes": ["1", "x"], "previous": ["true"], "shardSelector": ["x"], "none": ["x"],
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"]
# What a verb of discovery is on the wire, and whether it is about one object.
VERBS = {"get": ("GET", True), "list": ("GET", False), "watch": ("GET", False), "create": ("POST", False),
         "update": ("PUT", True), "patch": ("PATCH", True), "delete": ("DELETE", True), "deletecollection": ("DELETE", False)}
WEIGHTS = {"get": 2, "list": 2, "watch": 1, "create": 6, "update": 4, "patch": 7, "delete": 1, "deletecollection": 0.1}


@dataclasses.dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: bytes

    def watches(self) -> bool:
        """Whether an answer of 200 may go on for ever."""
        return "watch" in self.path or "follow" in self.path

    def text(self) -> str:
        return json.dumps({"method": self.method, "path": self.path, "headers": self.headers,
                           "body": self.body.decode("latin-1")})


def seeds() -> dict:
    """An object that is right of every kind that has one here; other kinds get metadata alone."""
    container = {"name": "c", "image": "vipyard/pause"}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}}
    select = {"matchLabels": {"app": "a"}}
    backend = {"service": {"name": "a", "port": {"number": 80}}}
    return {
        "ConfigMap": {"data": {"a": "1"}, "binaryData": {"b": "AA=="}},
        "Secret": {"type": "Opaque", "data": {"a": "AA=="}, "stringData": {"b": "c"}},
        "Service": {"spec": {"selector": {"app": "a"}, "type": "NodePort", "ports": [
            {"name": "http", "port": 80, "targetPort": "http"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}},
        "Pod": {"spec": {"nodeSelector": {"none": "none"}, "containers": [
            {**container, "ports": [{"containerPort": 80, "name": "http"}], "env": [{"name": "A", "value": "b"}],
             "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}}}],
            "tolerations": [{"operator": "Exists"}], "volumes": [{"name": "v", "emptyDir": {}}]}},
        "Endpoints": {"subsets": [{"addresses": [{"ip": "10.1.0.1"}], "ports": [{"port": 80}]}]},
        "EndpointSlice": {"addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.1"]}], "ports": [{"port": 80}]},
        "Node": {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}},
        "Lease": {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2024-01-01T00:00:00.000000Z"}},
        "Event": {"involvedObject": {"kind": "Pod", "name": "a", "namespace": "fuzz"}, "reason": "A", "type": "Normal"},
        "Deployment": {"spec": {"replicas": 0, "selector": select, "template": template}},
        "ReplicaSet": {"spec": {"replicas": 0, "selector": select, "template": template}},
        "StatefulSet": {"spec": {"replicas": 0, "selector": select, "template": template, "serviceName": "a"}},
        "DaemonSet": {"spec": {"selector": select, "template": {**template, "spec": {
            **template["spec"], "nodeSelector": {"none": "none"}}}}},
        "Job": {"spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}},
        "NetworkPolicy": {"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}], "from": [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]}},
        "Ingress": {"spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}},
        "IngressClass": {"spec": {"controller": "example.com/a"}},
        "ServiceCIDR": {"spec": {"cidrs": ["10.98.0.0/24"]}},
        "IPAddress": {"spec": {"parentRef": {"resource": "services", "name": "a", "namespace": "fuzz"}}},
        "PodDisruptionBudget": {"spec": {"minAvailable": 1, "selector": select}},
        "Role": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
        "ClusterRole": {"rules": [{"nonResourceURLs": ["/healthz"], "verbs": ["get"]}]},
        "RoleBinding": {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "a"}},
        "ControllerRevision": {"revision": 1, "data": {}},
        "CustomResourceDefinition": {"spec": {"group": "fuzz.example.com", "scope": "Namespaced", "names": {
            "plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"}, "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "size": {"type": "integer", "minimum": 1}}}}}}}]}},
        "TokenRequest": {"spec": {"audiences": ["a"], "expirationSeconds": 600}},
        "SelfSubjectAccessReview": {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}},
        "TokenReview": {"spec": {"token": "a.b.c"}},
        "Eviction": {}, "Namespace": {}, "ServiceAccount": {}, "SelfSubjectReview": {}, "Binding": {"target": {"name": "n1"}},
        "Scale": {"spec": {"replicas": 1}},
    }


class Generator:
    """An endless sequence of requests, the same for the same seed."""

    def __init__(self, resources: list[dict], seed: int):
        self.random = random.Random(seed)
        self.resources = resources
        self.seeds = seeds()

    def request(self) -> Request:
        pick, chance = self.random.choice, self.random.random
        resource = pick(self.resources)
        verbs = sorted(VERBS.keys() & set(resource["verbs"]))
        if verbs and chance() < 0.93:
            verb = self.random.choices(verbs, [WEIGHTS[verb] for verb in verbs])[0]
            method, named = VERBS[verb]
        else:
            method, named = pick(METHODS), chance() < 0.5
        path = self.path(resource, named)
        if chance() < 0.04:
            path = self.noise_path()
        headers = {}
        if chance() < 0.2:
            headers["Accept"] = pick(ACCEPTS)
        body = b""
        if method in ("POST", "PUT", "PATCH", "DELETE") or chance() < 0.05:
            body, media = self.body(resource, method)
            if media:
                headers["Content-Type"] = media
        if chance() < 0.02:
            headers[pick(["X-Remote-User", "Impersonate-User", "Accept-Encoding", "If-Match", "Expect", "Origin"])] = pick(
                ["a", "gzip", "*", "100-continue", "x" * 4000])
        return Request(method, path, headers, body)

    def path(self, resource: dict, named: bool) -> str:
        pick, chance = self.random.choice, self.random.random
        base = f"/apis/{resource['version']}" if "/" in resource["version"] else f"/api/{resource['version']}"
        if resource["namespaced"] and (named or chance() < 0.95):
            base += f"/namespaces/{self.segment(pick(NAMESPACES) if chance() < 0.1 else 'fuzz')}"
        plural, _, sub = resource["name"].partition("/")
        base += f"/{plural}"
        # To create a subresource of an object is to name the object, too.
        if named or sub:
            base += f"/{self.segment(pick(NAMES) if chance() < 0.1 else pick('abc'))}"
        if sub:
            base += f"/{sub}"
        elif named and chance() < 0.02:
            base += "/" + pick(["status", "scale", "log", "exec", "proxy", "binding", "eviction", "token", "none", "finalize"])
        parameters = [(name, pick(PARAMETERS[name])) for name in self.random.sample(
            sorted(PARAMETERS), k=pick([0, 0, 0, 0, 0, 1, 1, 2, 3]))]
        return f"{base}?{urllib.parse.urlencode(parameters)}" if parameters else base

    @staticmethod
    def segment(text: str) -> str:
        return urllib.parse.quote(text, safe="%")

    def noise_path(self) -> str:
        parts = ["api", "apis", "v1", "v2", "apps", "openapi", "v3", "namespaces", "default", "services", "version", "healthz",
                 "..", "", "%2e%2e", "%ff", "a" * 2000, "metrics", "readyz", "watch", "~", "batch"]
        return "/" + "/".join(self.random.choice(parts) for _ in range(self.random.randint(0, 8)))

    def body(self, resource: dict, method: str) -> tuple[bytes, str]:
        pick, chance = self.random.choice, self.random.random
        if method == "PATCH":
            return self.patch(resource)
        if method == "DELETE":
            if chance() < 0.5:
                return b"", ""
            options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": pick([0, 1, -1, "x"]),
                       "propagationPolicy": pick(["Orphan", "Foreground", "Background", "x", 1]),
                       "preconditions": pick([{"uid": "a"}, {"resourceVersion": "1"}, {}, 1]), "dryRun": pick([["All"], [], "x"])}
            keep = self.random.sample(sorted(options), k=self.random.randint(0, 5))
            return json.dumps({key: options[key] for key in keep}).encode(), pick(MEDIA[:3])
        value = self.object(resource)
        if chance() < 0.03:
            return self.noise(), pick(MEDIA)
        media = pick(MEDIA) if chance() < 0.08 else "application/json"
        if media == "application/yaml" or chance() < 0.03:
            return self.yaml(value), "application/yaml"
        if media == "application/vnd.kubernetes.protobuf" or chance() < 0.05:
            return self.protobuf(resource), "application/vnd.kubernetes.protobuf"
        data = json.dumps(value, ensure_ascii=chance() < 0.5).encode("utf-8", "surrogatepass")
        if chance() < 0.05:
            cut = self.random.randint(0, len(data))
            data = pick([data[:cut], data[:cut] + b"\xff" + data[cut:], data + data, data.replace(b":", b"::", 1)])
        return data, media

    def object(self, resource: dict) -> dict:
        """An object of the resource's kind; mostly one or two of its values are not what they should be."""
        pick, chance = self.random.choice, self.random.random
        value = json.loads(json.dumps(self.seeds.get(resource["kind"], {})))
        value["metadata"] = {"name": pick("abc") if chance() < 0.8 else pick(NAMES)}
        for field, some in (("labels", {"app": "a"}), ("annotations", {"a/b": "c"}), ("finalizers", ["example.com/a"]),
                            ("generateName", "g-"), ("resourceVersion", "1"), ("uid", "a"), ("namespace", "fuzz"),
                            ("ownerReferences", [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "a"}])):
            if chance() < 0.1:
                value["metadata"][field] = some
        if chance() < 0.9:
            value["apiVersion"] = resource["of"]
            value["kind"] = resource["kind"]
        for _ in range(pick([0, 0, 0, 1, 1, 2, 4])):
            self.spoil(value)
        return value

    def spoil(self, value):
        """Changes one place of a value, however deep."""
        chance = self.random.random
        while True:
            keys = sorted(value) if isinstance(value, dict) else list(range(len(value)))
            if not keys or chance() < 0.1:
                if isinstance(value, dict):
                    value[self.random.choice(WORDS)] = self.any()
                else:
                    value.append(self.any())
                return
            key = self.random.choice(keys)
            inner = value[key]
            if isinstance(inner, (dict, list)) and chance() < 0.75:
                value = inner
                continue
            if chance() < 0.15:
                del value[key]
            elif chance() < 0.1 and isinstance(value, list):
                value.append(inner)
            else:
                value[key] = self.any()
            return

    def any(self, depth: int = 0):
        pick, chance = self.random.choice, self.random.random
        roll = chance()
        if roll < 0.35:
            return pick(TEXTS)
        if roll < 0.55:
            return pick(NUMBERS)
        if roll < 0.7 or depth > 3:
            return pick([None, True, False, [], {}, "".join(self.random.choices(string.printable, k=8))])
        if roll < 0.85:
            return [self.any(depth + 1) for _ in range(pick([1, 1, 2, 5]))]
        return {pick(WORDS): self.any(depth + 1) for _ in range(pick([1, 1, 2, 5]))}

    def patch(self, resource: dict) -> tuple[bytes, str]:
        pick, chance = self.random.choice, self.random.random
        media = pick(PATCHES) if chance() < 0.95 else pick(MEDIA)
        if chance() < 0.03:
            return self.noise(), media
        if media == "application/json-patch+json" and chance() < 0.95:
            paths = ["/metadata/labels", "/metadata/labels/a", "/metadata/name", "/spec", "/spec/ports/0", "/spec/ports/-", "/a~1b",
                     "/~2", "", "/", "a", "/metadata", "/data/a", "/spec/ports/99999999999999999999", "/spec/ports/-1", "/kind"]
            operations = [{"op": pick(["add", "remove", "replace", "move", "copy", "test", "x"]), "path": pick(paths),
                           "from": pick(paths), "value": self.any()} for _ in range(pick([0, 1, 1, 2, 30]))]
            for operation in operations:
                if chance() < 0.1:
                    del operation[pick(sorted(operation))]
            return json.dumps(operations).encode(), media
        value = self.object(resource)
        if media == "application/strategic-merge-patch+json" and chance() < 0.6:
            directives = {"$patch": pick(["replace", "delete", "merge", "x", 1]), "$retainKeys": pick([["a"], "a", [1]]),
                          "$setElementOrder/ports": pick([[{"port": 1}], [1], "a"]),
                          "$deleteFromPrimitiveList/finalizers": pick([["example.com/a"], {}])}
            name = pick(sorted(directives))
            where = value.get("spec", value)
            if isinstance(where, dict):
                where[name] = directives[name]
        if chance() < 0.6 and isinstance(value, dict):
            value.pop("apiVersion", None)
            value.pop("kind", None)
        if media == "application/apply-patch+yaml" and chance() < 0.5:
            return self.yaml(value), media
        return json.dumps(value).encode(), media

    def yaml(self, value) -> bytes:
        pick = self.random.choice
        laughs = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk"))
        return pick([json.dumps(value), json.dumps(value), "a: [", "- a\n- b\n", "a: 1\na: 2\n", "---\n---\n", laughs, "&a [*a]",
                     "!!binary x", "? {a: b}\n: c\n", "\t", "kind: Service\nkind: Pod\n", "1: 2\ntrue: 3\n"]).encode()

    def protobuf(self, resource: dict) -> bytes:
        """The envelope of Kubernetes around noise."""
        def field(number: int, data: bytes) -> bytes:
            return bytes([number << 3 | 2]) + varint(len(data)) + data
        kind = field(1, resource["of"].encode()) + field(2, resource["kind"].encode())
        raw = self.random.choice([b"", field(1, field(1, b"a")), self.random.randbytes(30), field(1, field(1, b"a")) * 50,
                                  field(2, self.random.randbytes(9)), b"\x0a\xff\xff\xff\xff\x0f", b"\x08" + b"\xff" * 11,
                                  field(1, field(11, field(1, b"a") + field(2, b"b")))])
        data = b"k8s\x00" + field(1, kind) + field(2, raw)
        return data if self.random.random() < 0.8 else data[:self.random.randint(0, len(data))]

    def noise(self) -> bytes:
        pick = self.random.choice
        return pick([b"", b"{", b"null", b"[]", b"1", b'"a"', self.random.randbytes(40), b"[" * 100_000, b'{"a":' * 20_000, b" " * 5000,
                     b'{"metadata":{"name":"a","name":"b"}}', b"\xef\xbb\xbf{}", b"k8s\x00", b'{"a":1e999999}', b"{}" * 3])


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
