#!/usr/bin/env python3
"""Makes a manual page of what a program's --help prints.

manpage.py NAME SECTION VERSION DATE "one line" < HELP > PAGE
"""

import re
import sys


def escape(text):
    """Text as roff takes it: no control line, hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text)


def options(lines):
    """Entries of a list: what stands in front, and its description."""
    entries = []
    for line in lines:
        begins = re.match(r"^ {2,6}(-\S.*|[A-Za-z{]\S*.*)$", line)
        if begins and not line.startswith("       "):
            words = re.split(r" {2,}", begins.group(1), maxsplit=1)
            entries.append([words[0], words[1:]])
        elif line.strip() and entries:
            entries[-1][1].append(line.strip())
    return entries


# The headings of a help text that begin a section.
TITLES = ("usage", "options", "arguments", "methods", "exit codes")


def main():
    """Reads the help, writes the page."""
    name, section, version, date, about = sys.argv[1:]
    print(f'.TH {name} {section} "{date}" "srpt_tgt {version}" "srpt_tgt"')
    print(f".SH NAME\n{name} \\- {about}")
    blocks, heading = {}, "DESCRIPTION"
    for line in sys.stdin.read().splitlines():
        titled = re.match(r"^([A-Za-z][A-Za-z ]*):( .*)?$", line)
        if titled and titled.group(1).lower() in TITLES:
            heading = {"usage": "SYNOPSIS"}.get(titled.group(1).lower(), titled.group(1).upper())
            blocks.setdefault(heading, []).append((titled.group(2) or "").strip())
        elif heading == "SYNOPSIS" and line and not line.startswith(" "):
            heading = "DESCRIPTION"
            blocks.setdefault(heading, []).append(line)
        elif heading in ("OPTIONS", "ARGUMENTS", "METHODS") and line and not line.startswith(" "):
            heading = "DESCRIPTION"
            blocks.setdefault(heading, []).extend(["", line])
        else:
            blocks.setdefault(heading, []).append(line)
    first = ["SYNOPSIS", "DESCRIPTION"]
    order = first + [heading for heading in blocks if heading not in first]
    for heading in order:
        lines = blocks.get(heading, [])
        if not any(line.strip() for line in lines):
            continue
        print(f".SH {heading}")
        if heading in ("OPTIONS", "ARGUMENTS", "METHODS"):
            for front, words in options(lines):
                print(f".TP\n.B {escape(front)}\n{escape(' '.join(words)) or '.'}")
        elif heading == "SYNOPSIS":
            shown = [line.strip() for line in lines if line.strip()]
            print("\n.br\n".join(escape(line) for line in shown))
        else:
            for line in lines:
                if re.match(r"^ {2,}\S", line):
                    print(f".br\n{escape(line.strip())}")
                else:
                    print(escape(line) if line.strip() else ".PP")
    print(".SH SEE ALSO\nThe manual in /usr/share/doc/srpt\\-tgt/manual.")


if __name__ == "__main__":
    main()
