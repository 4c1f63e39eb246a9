#!/usr/bin/env bash
# Plants one bug after the other in a copy of the sources, and says which guard caught it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/planted.sh [--check] [--seeds COUNT] [--only WORDS]

  --check        only looks whether each text to replace stands in its file once
  --seeds COUNT  seeds for each bug, 2000 if not given
  --only WORDS   bugs whose names have these words
  --help         this text

The bugs are in tests/corpus/planted.txt. The copy is built in target/planted.
USAGE
}

seeds=2000
check=no
only=""
while [ $# -gt 0 ]; do
    case "$1" in
        --check) check=yes ;;
        --seeds) seeds="$2"; shift ;;
        --only) only="$2"; shift ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

copy=target/planted/sources
if [ "$check" = no ]; then
    rm -rf "$copy"
    mkdir -p "$copy"
    git ls-files -z --cached --others --exclude-standard |
        tar --null --files-from=- -cf - | tar -xf - -C "$copy"
fi

exec python3 - "$check" "$seeds" "$copy" "$only" <<'PYTHON'
import os
import re
import subprocess
import sys

check, seeds, copy, only = sys.argv[1] == "yes", *sys.argv[2:]
missed = 0


def bugs():
    with open("tests/corpus/planted.txt", encoding="utf-8") as file:
        paragraphs = file.read().split("\n\n")
    for paragraph in paragraphs:
        lines = [line for line in paragraph.splitlines() if line and not line.startswith("#")]
        if lines and only in lines[0]:
            yield lines


def caught(name):
    build = ["cargo", "build", "--profile", "soak", "-p", "srpt_tests", "--bin", "soak",
             "--target-dir", os.path.abspath("target/planted/build")]
    subprocess.run(build, cwd=copy, check=True, stderr=subprocess.DEVNULL)
    soak = [os.path.abspath("target/planted/build/soak/soak"), "--count", seeds, "--no-shrink"]
    run = subprocess.run(soak, stdout=subprocess.PIPE, text=True, check=False)
    found = re.search(r"seed (\d+) failed: (?:panicked at )?(.*)", run.stdout, re.S)
    if not found:
        print(f"MISSED  {name}")
        return 1
    guard = " ".join(found.group(2).split())[:110]
    print(f"caught  {name}: seed {found.group(1)}: {guard}", flush=True)
    return 0


for name, path, old, new in bugs():
    target = path if check else os.path.join(copy, path)
    with open(target, encoding="utf-8") as file:
        text = file.read()
    if text.count(old) != 1:
        print(f"{name}: its text stands {text.count(old)} times in {path}")
        missed += 1
        continue
    if check:
        continue
    with open(target, "w", encoding="utf-8") as file:
        file.write(text.replace(old, new))
    missed += caught(name)
    with open(target, "w", encoding="utf-8") as file:
        file.write(text)
sys.exit(1 if missed else 0)
PYTHON
