#!/usr/bin/env python3
"""Holds the dependencies against deny.toml: licences, sources, wildcards.

Reads what `cargo metadata` says of every crate that a build for the targets of deny.toml takes in,
and the lists of deny.toml itself, so that `cargo deny check bans licenses sources` and this check
have one list. It needs nothing but cargo and Python 3.11. An entry of deny.toml that it does not
know ends it: nothing there is left out in silence. Security advisories are not its business: they
need a database that only cargo-deny reads.

  dependencies.py                checks; status 1 with a line for each crate that is refused
  dependencies.py --check-itself tries each rule on a made-up crate that breaks it
"""

import json
import re
import subprocess
import sys

try:
    import tomllib
except ImportError:
    sys.exit("dependencies: Python 3.11 or later is needed (its module tomllib reads deny.toml)")

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"

# What is understood of deny.toml, and the values that each entry may have. None: any.
KNOWN = {
    ("graph", "targets"): None,
    ("licenses", "allow"): None,
    ("bans", "multiple-versions"): ("allow", "warn"),
    ("bans", "wildcards"): ("allow", "deny"),
    ("bans", "allow-wildcard-paths"): (True,),
    ("sources", "unknown-registry"): ("deny",),
    ("sources", "unknown-git"): ("deny",),
}


def rules(text):
    """deny.toml as a table. Ends with a message at an entry that this check can't keep."""
    table = tomllib.loads(text)
    for section, entries in table.items():
        for name, value in entries.items():
            if (section, name) not in KNOWN:
                raise SystemExit(f"dependencies: deny.toml has {section}.{name}, unknown here")
            allowed = KNOWN[section, name]
            if allowed is not None and value not in allowed:
                what = f"{section}.{name} = {value!r}"
                raise SystemExit(f"dependencies: deny.toml has {what}, only {allowed} is known")
    return table


def is_allowed(expression, allow):
    """Whether a licence expression (SPDX 2.3, annex D) can be fulfilled with the allowed ones."""
    # A slash is how old manifests wrote OR.
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def taken(word):
        nonlocal at
        if at < len(words) and words[at] == word:
            at += 1
            return True
        return False

    def licence():
        nonlocal at
        if taken("("):
            value = either()
            if not taken(")"):
                raise ValueError("a bracket is open")
            return value
        if at == len(words) or words[at] in ("AND", "OR", "WITH", ")"):
            raise ValueError("a licence is missing")
        name = words[at]
        at += 1
        if taken("WITH"):
            if at == len(words):
                raise ValueError("an exception is missing")
            name += f" WITH {words[at]}"
            at += 1
        return name in allow

    def both():
        value = licence()
        while taken("AND"):
            value = licence() and value
        return value

    def either():
        value = both()
        while taken("OR"):
            value = both() or value
        return value

    value = either()
    if at != len(words):
        raise ValueError(f"{words[at]} is not expected")
    return value


def refused(package, table):
    """What is wrong with one crate, a line each."""
    licence, source = package["license"], package["source"]
    try:
        if not licence:
            yield "names no licence"
        elif not is_allowed(licence, table["licenses"]["allow"]):
            yield f"has the licence {licence}, which licenses.allow does not cover"
    except ValueError as error:
        yield f"has a licence that can't be read: {licence}: {error}"
    if source is not None and source != CRATES_IO:
        yield f"comes from {source}; crates.io is the only source"
    if table["bans"]["wildcards"] == "deny":
        for dependency in package["dependencies"]:
            if dependency["req"] == "*" and dependency.get("path") is None:
                yield f"asks for any version of {dependency['name']}"


def several_versions(packages):
    """Names of crates that are there in more than one version, with the versions."""
    versions = {}
    for package in packages:
        versions.setdefault(package["name"], []).append(package["version"])
    return {name: found for name, found in sorted(versions.items()) if len(found) > 1}


def check():
    with open("deny.toml", encoding="utf-8") as file:
        table = rules(file.read())
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    for target in table["graph"]["targets"]:
        command += ["--filter-platform", target]
    metadata = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    packages = json.loads(metadata)["packages"]
    bad = 0
    for package in packages:
        for what in refused(package, table):
            print(f"{package['name']} {package['version']} {what}")
            bad += 1
    if table["bans"]["multiple-versions"] == "warn":
        for name, versions in several_versions(packages).items():
            print(f"warning: {name} is there as {' and '.join(versions)}")
    print(f"{len(packages)} crates: licences, sources and wildcards by deny.toml: {bad} refused")
    return 1 if bad else 0


def made_up(**changes):
    return {"name": "made-up", "version": "1.0.0", "license": "MIT", "source": CRATES_IO,
            "dependencies": [], **changes}


def check_itself():
    """Each rule has to find the crate that breaks it, and to be silent about the others."""
    table = {"licenses": {"allow": ["MIT", "Apache-2.0", "NCSA", "Apache-2.0 WITH LLVM-exception"]},
             "bans": {"wildcards": "deny"}}
    any_version = [{"name": "other", "req": "*"}]
    cases = [
        (made_up(), None),
        (made_up(license="GPL-2.0-only OR MIT"), None),
        (made_up(license="MIT/Unlicense"), None),
        (made_up(license="(MIT OR GPL-2.0-only) AND NCSA"), None),
        (made_up(license="Apache-2.0 WITH LLVM-exception"), None),
        (made_up(source=None, dependencies=[{"name": "own", "req": "*", "path": "/own"}]), None),
        (made_up(license="GPL-2.0-only"), "has the licence GPL-2.0-only"),
        (made_up(license="MIT AND GPL-2.0-only"), "does not cover"),
        (made_up(license="GPL-2.0-only AND MIT OR ISC"), "does not cover"),
        (made_up(license="NCSA WITH LLVM-exception"), "does not cover"),
        (made_up(license="MIT OR"), "can't be read"),
        (made_up(license="(MIT"), "can't be read"),
        (made_up(license="MIT NCSA"), "can't be read"),
        (made_up(license=None), "names no licence"),
        (made_up(source="git+file:///made-up#0"), "comes from git+file"),
        (made_up(source="registry+file:///other"), "comes from registry+file"),
        (made_up(dependencies=any_version), "asks for any version of other"),
    ]
    bad = 0
    for package, wanted in cases:
        found = "; ".join(refused(package, table))
        if (wanted or "") not in found or (wanted is None and found):
            print(f"{package}: wanted {wanted!r}, found {found!r}")
            bad += 1
    if several_versions([made_up(), made_up(version="2.0.0")]) != {"made-up": ["1.0.0", "2.0.0"]}:
        print("two versions of a crate are not seen")
        bad += 1
    for text in ("[bans]\ndeny = ['made-up']", "[sources]\nunknown-git = 'allow'"):
        try:
            rules(text)
            print(f"accepted: {text!r}")
            bad += 1
        except SystemExit:
            continue
    print(f"dependencies: {len(cases) + 3} cases of its own, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check-itself"]):
        sys.exit(__doc__)
    sys.exit(check_itself() if sys.argv[1:] else check())
