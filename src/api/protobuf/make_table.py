#!/usr/bin/env python3
"""Makes messages.tsv: the facts about Kubernetes' protobuf messages that the decoder needs.

    python3 make_table.py API APIMACHINERY > messages.tsv

API and APIMACHINERY are directories with the Go modules k8s.io/api and k8s.io/apimachinery, both of the release that
`KUBERNETES_VERSION` in src/api.rs names (v1.36 is v0.36 there). Two files of a package say what is needed:
generated.proto has field numbers and wire types; the struct tags in the Go sources have the names in JSON, and only
they tell which fields are pointers. That counts: zero values of fields that are no pointers are always on the wire,
though JSON leaves them out when the tag says `omitempty`.

One line is one field, tabs between: message, number, name in JSON, shape, type.

    message  apiVersion/Kind: v1/Pod, apps/v1/Deployment
    name     "-" where the fields of the message stand in JSON in place of the message (shape inline)
    shape    one      left out only when absent from the wire
             nonzero  also left out when zero: 0, false, "" (`omitempty` without a pointer)
             list, map (from strings), inline
    type     a message, or one of the lower-case words of `Type::parse` in table.rs
"""

import re
import sys
from pathlib import Path

# Packages whose kinds clients may send. What these kinds contain comes along.
PACKAGES = [
    ("api", "admissionregistration/v1", "admissionregistration.k8s.io/v1"),
    ("api", "apps/v1", "apps/v1"),
    ("api", "authentication/v1", "authentication.k8s.io/v1"),
    ("api", "authorization/v1", "authorization.k8s.io/v1"),
    ("api", "autoscaling/v1", "autoscaling/v1"),
    ("api", "autoscaling/v2", "autoscaling/v2"),
    ("api", "batch/v1", "batch/v1"),
    ("api", "certificates/v1", "certificates.k8s.io/v1"),
    ("api", "coordination/v1", "coordination.k8s.io/v1"),
    ("api", "core/v1", "v1"),
    ("api", "discovery/v1", "discovery.k8s.io/v1"),
    ("api", "events/v1", "events.k8s.io/v1"),
    ("api", "networking/v1", "networking.k8s.io/v1"),
    ("api", "node/v1", "node.k8s.io/v1"),
    ("api", "policy/v1", "policy/v1"),
    ("api", "rbac/v1", "rbac.authorization.k8s.io/v1"),
    ("api", "scheduling/v1", "scheduling.k8s.io/v1"),
    ("api", "storage/v1", "storage.k8s.io/v1"),
    ("apimachinery", "pkg/apis/meta/v1", "meta.k8s.io/v1"),
]
META = "meta.k8s.io/v1"
# Of this package's kinds, those that are sent in bodies; the other options are query parameters.
META_KINDS = ["DeleteOptions", "Status"]

# Messages whose form in JSON is their own.
SPECIAL = {
    ".k8s.io.apimachinery.pkg.api.resource.Quantity": "quantity",
    ".k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1": "json",
    ".k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime": "microtime",
    ".k8s.io.apimachinery.pkg.apis.meta.v1.Time": "time",
    ".k8s.io.apimachinery.pkg.runtime.RawExtension": "json",
    ".k8s.io.apimachinery.pkg.util.intstr.IntOrString": "intorstring",
}
SCALARS = {"string", "bytes", "bool", "int32", "int64", "double"}

MESSAGE = re.compile(r"^message (\w+) \{(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"^\s*(optional|repeated|map<string, ([\w.]+)>)\s+(?:([\w.]+)\s+)?(\w+) = (\d+);", re.M)
STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.M | re.S)
STRINGS = re.compile(r"^type (\w+) \[\]string$", re.M)
TAGGED = re.compile(r"^\t(?:(\w+)\s+)?(\S+)\s+`(.*)`", re.M)


def proto_name(module, path):
    return ".k8s.io." + module + "." + path.replace("/", ".")


def go_facts(directory):
    """Per struct and field number: name in JSON ("" for inline), pointer, omitempty. And which types are []string."""
    structs, kinds, strings = {}, set(), set()
    for file in sorted(directory.glob("*.go")):
        if file.name.startswith(("zz_", "generated", "types_swagger")) or file.name.endswith("_test.go"):
            continue
        text = file.read_text()
        strings.update(STRINGS.findall(text))
        for name, body in STRUCT.findall(text):
            fields = structs.setdefault(name, {})
            for field, go_type, tag in TAGGED.findall(body):
                if go_type.endswith("TypeMeta"):
                    kinds.add(name)
                number = re.search(r'protobuf:"\w+,(\d+)', tag)
                json = re.search(r'json:"([^",]*)((?:,\w+)*)"', tag)
                if number and json:
                    omit = "omitempty" in json[2] or "omitzero" in json[2]
                    fields[int(number[1])] = (json[1], go_type.startswith("*"), omit)
    return structs, kinds, strings


def main(api, apimachinery):
    roots = {"api": Path(api), "apimachinery": Path(apimachinery)}
    versions = {proto_name(module, path): version for module, path, version in PACKAGES}
    messages, wanted, special = {}, [], dict(SPECIAL)
    for module, path, version in PACKAGES:
        package = proto_name(module, path)
        structs, kinds, strings = go_facts(roots[module] / path)
        special.update({f"{package}.{name}": "strings" for name in strings})
        proto = (roots[module] / path / "generated.proto").read_text()
        for name, body in MESSAGE.findall(proto):
            messages[f"{package}.{name}"] = (package, body, structs.get(name))
        wanted += [f"{package}.{name}" for name in (META_KINDS if version == META else kinds)]

    def short(name):
        package, _, kind = name.rpartition(".")
        return f"{versions[package]}/{kind}"

    lines, seen = [], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        package, body, facts = messages[name]
        for label, map_value, of, field, number in FIELD.findall(body):
            kind = map_value or of
            if kind not in SCALARS:
                kind = kind if kind.startswith(".") else f"{package}.{kind}"
                if kind in special:
                    kind = special[kind]
                else:
                    wanted.append(kind)
                    kind = short(kind)
            json, pointer, omit = facts[int(number)]
            if map_value:
                shape = "map"
            elif label == "repeated":
                shape = "list"
            elif not json:
                shape = "inline"
            elif omit and not pointer and kind in SCALARS:
                shape = "nonzero"
            else:
                shape = "one"
            lines.append((short(name), int(number), json or "-", shape, kind))
    for line in sorted(lines):
        print(*line, sep="\t")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
