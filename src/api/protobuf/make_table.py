#!/usr/bin/env python3
"""Makes messages.tsv: the facts about Kubernetes' protobuf messages that the decoder needs.

    python3 src/api/protobuf/make_table.py

Writes messages.tsv and missing.txt beside this file. The facts come from the sources of two crates that Cargo.toml
names, as cargo has downloaded them:

- k8s-pb says which fields a message has on the wire: their numbers and types.
- k8s-openapi says how JSON writes the same message: the names, and which fields are required.

Neither tells what to do with a zero (0, false, "") of a field that is not required. Clients in Go write such fields
always when they are plain, so that zero means "not set", and only when set when they are pointers, so that zero means
zero. What the field is for decides, as its documentation in k8s-openapi tells: a zero is kept when the words say that
it is not the same as no value (DOCUMENTED), or when zeros.txt names the field. All others fall away.

One line is one field, tabs between: message, number, name in JSON, shape, type.

    message  apiVersion/Kind: v1/Pod, apps/v1/Deployment
    name     "-" where the fields of the message stand in JSON in place of the message (shape inline)
    shape    one      left out only when absent from the wire
             nonzero  also left out when zero: 0, false, ""
             list, map (from strings), inline
    type     a message, "choice:" and a message, or one of the lower-case words of `Type::parse` in table.rs

Kinds and fields that k8s-openapi has and k8s-pb does not, as it may be made from an earlier release of Kubernetes, are
left out and listed in missing.txt: clients can send them as JSON only.
"""

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

# Packages whose kinds clients may send. What these kinds contain comes along.
PACKAGES = [
    "api.admissionregistration.v1",
    "api.apps.v1",
    "api.authentication.v1",
    "api.authorization.v1",
    "api.autoscaling.v1",
    "api.autoscaling.v2",
    "api.batch.v1",
    "api.certificates.v1",
    "api.coordination.v1",
    "api.core.v1",
    "api.discovery.v1",
    "api.events.v1",
    "api.networking.v1",
    "api.node.v1",
    "api.policy.v1",
    "api.rbac.v1",
    "api.scheduling.v1",
    "api.storage.v1",
    "apiextensions_apiserver.pkg.apis.apiextensions.v1",
]
# No kind of its own group, but sent in bodies of any version.
OPTIONS = "apimachinery.pkg.apis.meta.v1.deleteoptions"
META = ("apimachinery.pkg.apis.meta.v1", "meta.k8s.io/v1")

# Messages whose form in JSON is their own.
SPECIAL = {
    "apiextensions_apiserver.pkg.apis.apiextensions.v1.json": "json",
    "apimachinery.pkg.api.resource.quantity": "quantity",
    "apimachinery.pkg.apis.meta.v1.fieldsv1": "json",
    "apimachinery.pkg.apis.meta.v1.microtime": "microtime",
    "apimachinery.pkg.apis.meta.v1.time": "time",
    "apimachinery.pkg.runtime.rawextension": "json",
    "apimachinery.pkg.util.intstr.intorstring": "intorstring",
    "api.authentication.v1.extravalue": "strings",
    "api.authorization.v1.extravalue": "strings",
    "api.certificates.v1.extravalue": "strings",
}
# Messages of which JSON writes one field's value in place of the message: its fields.
CHOICES = {
    "jsonschemapropsorarray": ("schema", "jSONSchemas"),
    "jsonschemapropsorbool": ("allows", "schema"),
    "jsonschemapropsorstringarray": ("schema", "property"),
}
SCALARS = {"string", "bytes", "bool", "int32", "int64", "double"}

# A zero of its own, or a default that is not zero.
DOCUMENTED = re.compile(
    r"explicit zero|value zero|\b(?:a|as|is|the|to) (?:nil|null)\b"
    r'|default(?:s|s to| to| value is| is) "?(?:true|\d*[1-9])',
    re.I,
)
# A default that counts for zero, too.
NEVER_ZERO = re.compile(r"default.*minimum value is 1", re.I)

STRUCT = re.compile(r"^pub struct (\w+) \{(?:\n(.*?)^)?\}", re.M | re.S)
PROST = re.compile(r"#\[prost\(([^)]*)\)\]\s*pub ([\w#]+):(.*?),\n(?=    [/#]|\Z)", re.S)
DEFINITION = re.compile(r"^// Generated from definition io\.k8s\.(.*)\.(\w+)$", re.M)
FIELD = re.compile(r"((?:^    ///.*\n)*)^    pub (\w+): .*,$", re.M)
SERIALIZE = re.compile(
    r"(?:if let Some\(value\) = &self\.(\w+) \{\s*)?"
    r'\S*::serialize_field\(&mut state, "([^"]+)", (\S+)\)'
)


def plain(name):
    """What the names of a field or type in Rust, protobuf and JSON have in common."""
    return re.sub(r"[^a-z0-9]", "", name.removeprefix("r#").lower())


def crates():
    """The sources of k8s-openapi, for the release that Cargo.toml chooses by a feature, and of k8s-pb."""
    command = ["cargo", "metadata", "--format-version=1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    [own] = [packages[id] for id in metadata["workspace_members"]]
    sources = {package["name"]: Path(package["manifest_path"]).parent / "src" for package in packages.values()}
    [openapi] = [crate for crate in own["dependencies"] if crate["name"] == "k8s-openapi"]
    [release] = [feature for feature in openapi["features"] if feature.startswith("v1_")]
    return sources["k8s-openapi"] / release, sources["k8s-pb"]


class Json:
    """A type of k8s-openapi: its version if it is a kind, and by plain name its fields (name, required, words)."""

    def __init__(self, name, text):
        self.name = name
        version = re.search(r'const API_VERSION: &\'static str = "(.*)"', text)
        self.version = version[1] if version else None
        struct = STRUCT.search(text)
        declared = FIELD.findall(struct[2] or "") if struct else []
        words_of = {rust: " ".join(words.replace("///", "").split()) for words, rust in declared}
        self.fields = {}
        for optional, in_json, value in SERIALIZE.findall(text):
            rust = optional or value.removeprefix("&self.")
            if rust in words_of:
                self.fields[plain(in_json)] = (in_json, not optional, words_of[rust])


class Wire:
    """A message of k8s-pb: number, label, type and plain name of its fields. Messages as types have their package."""

    def __init__(self, name, package, body):
        self.name = name
        self.fields = []
        for attributes, name, rust in PROST.findall(body):
            number = int(re.search(r'tag = "(\d+)"', attributes)[1])
            kind = re.match(r'(?:btree_map = "string, )?(\w+)', attributes)[1]
            label = "map" if attributes.startswith("btree_map") else "list" if "repeated" in attributes else "one"
            if kind == "message":
                kind = resolve(package, re.findall(r"[\w:]+", rust)[-1])
            self.fields.append((number, label, kind, plain(name)))


def resolve(package, path):
    """`super::core::v1::PodSpec` seen from a package."""
    parts, within = path.split("::"), package.split(".")
    while parts[0] == "super":
        parts, within = parts[1:], within[:-1]
    return ".".join(within + parts[:-1] + [plain(parts[-1])])


def read():
    """The types of k8s-openapi and the messages of k8s-pb, by package and plain name."""
    openapi, protobuf = crates()
    types, messages = {}, {}
    for path in openapi.rglob("*.rs"):
        text = path.read_text()
        if definition := DEFINITION.search(text):
            package = definition[1].replace("-", "_")
            types[f"{package}.{plain(definition[2])}"] = Json(definition[2], text)
    for path in protobuf.rglob("mod.rs"):
        package = ".".join(path.parent.relative_to(protobuf).parts)
        for name, body in STRUCT.findall(path.read_text()):
            messages[f"{package}.{plain(name)}"] = Wire(name, package, body)
    return types, messages


class Table:
    """The wanted messages and all that they contain."""

    def __init__(self, types, messages):
        self.types, self.messages = types, messages
        self.lines, self.missing, self.seen = [], [], set()
        zeros = (HERE / "zeros.txt").read_text().splitlines()
        self.zeros = {pattern: False for pattern in zeros if pattern and not pattern.startswith("#")}
        self.versions = dict([META])
        for name, of in types.items():
            if of.version:
                self.versions.setdefault(name.rpartition(".")[0], of.version)
        for name, of in sorted(types.items()):
            if (of.version and name.rpartition(".")[0] in PACKAGES) or name == OPTIONS:
                if name in messages:
                    self.add(name, of.fields)
                else:
                    self.missing.append(self.short(name))
        if stale := [pattern for pattern, used in self.zeros.items() if not used]:
            sys.exit(f"no field for {stale} of zeros.txt")

    def short(self, name):
        """The name in the table: as in the API where it has one."""
        of = self.types.get(name) or self.messages[name]
        return f"{self.versions[name.rpartition('.')[0]]}/{of.name}"

    def add(self, name, fields):
        if name in self.seen:
            return
        self.seen.add(name)
        message, left = self.short(name), dict(fields)
        for number, label, kind, field in self.messages[name].fields:
            shape, in_json = label, "-"
            if field in fields:
                in_json, required, words = left.pop(field)
                scalar = label == "one" and kind in SCALARS
                if scalar and not required and not self.keeps_zero(message, in_json, kind, words):
                    shape = "nonzero"
            elif label == "one" and self.is_inline(kind, fields):
                shape = "inline"
                for part in self.parts(kind):
                    left.pop(part, None)
            else:
                # Gone from the API since the release that k8s-pb is made from.
                continue
            of = self.type(kind)
            self.lines.append((message, number, in_json, shape, of))
            if "/" in of:
                self.add(kind, self.json(kind, fields))
        if name in self.types and not self.choice(name):
            # The type of an object is in the envelope.
            left = [in_json for in_json, *_ in left.values() if in_json not in ("apiVersion", "kind")]
            self.missing += [f"{message}.{in_json}" for in_json in left]

    def type(self, kind):
        if kind in SCALARS:
            return kind
        if kind in SPECIAL:
            return SPECIAL[kind]
        if not self.messages[kind].fields:
            return "empty"
        return ("choice:" if self.choice(kind) else "") + self.short(kind)

    @staticmethod
    def choice(kind):
        return CHOICES.get(kind.rpartition(".")[2])

    def json(self, kind, around):
        """The fields in JSON of a message; those of the message around it for one that is only ever inline."""
        if choice := self.choice(kind):
            return {plain(field): (field, True, "") for field in choice}
        return self.types[kind].fields if kind in self.types else around

    def keeps_zero(self, message, field, kind, words):
        listed = [pattern for pattern in self.zeros if fnmatch.fnmatchcase(f"{message}.{field}", pattern)]
        self.zeros.update((pattern, True) for pattern in listed)
        documented = kind != "string" and DOCUMENTED.search(words) and not NEVER_ZERO.search(words)
        return listed or documented

    def is_inline(self, name, fields):
        """Whether JSON has the fields of a message in place of the message."""
        return name in self.messages and all(part in fields for part in self.parts(name))

    def parts(self, name):
        """The fields of a message, with those of messages that are inline in it."""
        own = self.types[name].fields if name in self.types else None
        for _, _, kind, field in self.messages[name].fields:
            if own and field not in own and self.messages.get(kind):
                yield from self.parts(kind)
            else:
                yield field


def main():
    table = Table(*read())
    with open(HERE / "messages.tsv", "w") as out:
        for line in sorted(table.lines):
            print(*line, sep="\t", file=out)
    with open(HERE / "missing.txt", "w") as out:
        print(*sorted(table.missing), sep="\n", file=out)


if __name__ == "__main__":
    main()
