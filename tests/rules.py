#!/usr/bin/env python3
"""Writes docs/rules.md: which test shows which rule of Kubernetes Services and Pods.

The rules are in docs/rules.tsv: code, proof, the rule in a line, and a note. The proof is `packets` where a test must
send real packets, `any` where any test will do, and `open` where there may be none and the note says why.

A test cites a rule in its name (`..._x9_x10`) or anywhere in its text in capital letters: in its doc comment, or beside
the assertion that shows it. `--check` fails where the page is stale, a rule has neither its test nor a reason, or a test cites a
code that is not in the list.
"""

import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RULES = ROOT / "docs/rules.tsv"
PAGE = ROOT / "docs/rules.md"

SECTIONS = {
    "S": "Which Services and slices packets follow",
    "E": "Which endpoints may be chosen",
    "I": "internalTrafficPolicy",
    "X": "externalTrafficPolicy and source addresses",
    "H": "Health checks",
    "T": "Topology hints",
    "R": "Refusal or silence",
    "N": "How a refusal looks",
    "V": "externalIPs and load-balancer VIPs",
    "P": "Node ports",
    "A": "Session affinity",
    "C": "Flows",
    "F": "Protocols and families",
    "ES": "EndpointSlice controller",
    "B": "Bands of addresses and ports",
    "W": "What a change of type wipes",
    "SV": "Validation of Services",
    "D": "Cluster DNS",
    "PD": "Defaults and validation of Pods",
    "PS": "Status of Pods, and probes",
    "PX": "Deletion of Pods",
    "NM": "Names, hosts file and resolver",
    "EV": "Environment variables",
}
# Where tests of a section are: elsewhere the letters mean something else, such as v1.
DATA_PLANE = ("tests/netns/", "tests/node/", "src/plan/", "src/router/")
CONTROL_PLANE = ("tests/it/", "tests/netns/", "src/api/", "src/controllers/")
PODS = ("tests/", "src/node/", "src/api/", "src/controllers/")
NAMES = ("tests/netns/", "tests/node/", "src/dns/")
PLACES = {"ES": CONTROL_PLANE, "B": CONTROL_PLANE, "W": CONTROL_PLANE, "SV": CONTROL_PLANE, "D": NAMES}
PLACES |= {letters: PODS for letters in ("PD", "PS", "PX", "NM", "EV")}
# Programs that are their own harness: a scenario is a test when the program's list has it.
HARNESSES = ("tests/netns/", "tests/node/")

FUNCTION = re.compile(r"^(?P<indent> *)(?:pub(?:\([a-z]+\))? )?(?:async )?fn (?P<name>\w+)\((?P<arguments>\)?)")
CODE = re.compile(r"(?<![\w-])(" + "|".join(sorted(SECTIONS, key=len, reverse=True)) + r")(\d{1,2})(?![\w-])")


class Test:
    def __init__(self, path, name, text):
        self.path, self.name, self.text = path, name, text
        self.packets = path.startswith(HARNESSES)

    def title(self):
        parts = pathlib.PurePath(self.path).with_suffix("").parts
        parts = [part for part in parts[1:] if part != "main"]
        return "::".join([*parts, self.name])

    def codes(self):
        """The codes that the test cites; ranges such as A1-A3 cite nothing."""
        tokens = (token.upper() for token in self.name.split("_"))
        named = {token for token in tokens if CODE.fullmatch(token)}
        written = {match.group(0) for match in CODE.finditer(self.text)}
        return {code for code in named | written if self.path.startswith(places(code))}


def section(code):
    return code.rstrip("0123456789")


def places(code):
    return PLACES.get(section(code), DATA_PLANE)


def functions(text):
    """Name, whether it has no arguments, and the text of each function with its doc comment and attributes."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        found = FUNCTION.match(line)
        if not found:
            continue
        begin = at
        while begin > 0 and lines[begin - 1].strip().startswith(("///", "#[")):
            begin -= 1
        closing = found["indent"] + "}"
        end = next((index for index in range(at, len(lines)) if lines[index] == closing), at)
        yield found["name"], bool(found["arguments"]), "\n".join(lines[begin : end + 1])


def tests():
    listed = {folder: (ROOT / folder / "main.rs").read_text() for folder in HARNESSES}
    for path in sorted([*(ROOT / "tests").rglob("*.rs"), *(ROOT / "src").rglob("*.rs")]):
        relative = path.relative_to(ROOT).as_posix()
        harness = next((text for folder, text in listed.items() if relative.startswith(folder)), None)
        for name, no_arguments, text in functions(path.read_text()):
            if harness is not None:
                is_test = no_arguments and re.search(rf"\b{path.stem}::{name}\b", harness)
            else:
                is_test = re.search(r"^\s*#\[(?:tokio::)?test\b", text, re.MULTILINE)
            if is_test:
                yield Test(relative, name, text)


def rules():
    lines = RULES.read_text().splitlines()[1:]
    return {code: (proof, rule, note) for code, proof, rule, note in (line.split("\t") for line in lines)}


def generate():
    """The page, and what is wrong."""
    known, found, problems = rules(), {}, []
    for test in tests():
        for code in test.codes():
            if code not in known:
                problems.append(f"{test.path}: {test.name} cites {code}, which is not in docs/rules.tsv")
            found.setdefault(code, []).append(test)
    page = [
        "# Rules of Kubernetes Services and Pods, and the tests that show them",
        "",
        "Written by `tests/rules.py` from `docs/rules.tsv` and the tests; `make lint` checks that it is current. The codes",
        "are those that comments and tests cite. Tests of `netns` and `node` run real Pods, those of `netns` in a real cluster",
        "with packets between Pods and nodes; the others drive the plan, the router's pipeline, a controller's plan or the API in process.",
    ]
    for letters, title in SECTIONS.items():
        page += ["", f"## {title}", "", "| | Rule | Shown by |", "|---|---|---|"]
        for code, (proof, rule, note) in known.items():
            if section(code) != letters:
                continue
            shown = sorted(found.get(code, []), key=lambda test: (not test.packets, test.title()))
            if proof == "open" and not note:
                problems.append(f"{code} is open and no note says why")
            if proof == "any" and not shown:
                problems.append(f"{code} has no test")
            if proof == "packets" and not any(test.packets for test in shown):
                problems.append(f"{code} has no test with packets")
            cells = [f"[{test.title()}](../{test.path})" for test in shown]
            cells += [f"*{'Open: ' if proof == 'open' else ''}{note}.*"] if note else []
            page.append(f"| {code} | {rule} | {'<br>'.join(cells)} |")
    return "\n".join(page) + "\n", problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where something is wrong")
    check = parser.parse_args().check
    page, problems = generate()
    if check and (not PAGE.exists() or PAGE.read_text() != page):
        problems.append("docs/rules.md is not current: run `python3 tests/rules.py`")
    if not check:
        PAGE.write_text(page)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
