#!/usr/bin/python3
"""Writes the manual page of a program from what it says of itself.

    PROGRAM --experimental-dump-help | manual.py --date YYYY-MM-DD [--version TEXT] [REST.mdoc]

The page has NAME, SYNOPSIS, DESCRIPTION, OPTIONS and COMMANDS from the dump, the same source that
--help has, and then REST. It is mdoc(7), and goes to standard output.
"""

import argparse
import datetime
import json
import re
import sys

SECTION = 8


def text(words):
    """A line of running text: nothing in it is markup."""
    line = words.replace("\\", "\\e").strip()
    return "\\&" + line if line[:1] in (".", "'") else line


def sentences(words):
    """Running text, a sentence a line, as mdoc wants it."""
    paragraphs = [" ".join(part.split()) for part in (words or "").split("\n\n")]
    lines = []
    for number, paragraph in enumerate(part for part in paragraphs if part):
        if number > 0:
            lines.append(".Pp")
        lines += [text(line) for line in re.split(r"(?<=[.!?]) (?=[A-Z`'\"])", paragraph)]
    return lines


def quoted(words):
    """One argument of a macro, whatever it holds; no macro's name is taken for one."""
    plain = words.replace("\\", "\\e").replace('"', '\\(dq')
    return f'"\\&{plain}"'


def flag(name):
    dashes = "" if name["kind"] == "short" else "\\-"
    return f"Fl {dashes}{name['name'].replace('-', chr(92) + '-')}"


def shown(arguments):
    return [argument for argument in arguments if argument["shouldDisplay"]]


def is_built_in(argument):
    names = {name["name"] for name in argument.get("names") or []}
    return argument["kind"] == "flag" and bool(names & {"help", "version"})


def identity(argument):
    return (argument.get("valueName"), argument.get("abstract"), argument["kind"])


def synopsis_of(argument):
    value = f"Ar {quoted(argument['valueName'])}"
    if argument["kind"] == "positional":
        macro = value
    else:
        macro = flag(argument["preferredName"])
        if argument["kind"] == "option":
            macro += " " + value
    if argument["isRepeating"]:
        macro += " ..."
    return f".Op {macro}" if argument["isOptional"] else f".{macro}"


def item_of(argument):
    """What it is called, and what it does."""
    if argument["kind"] == "positional":
        lines = [f".It Ar {quoted(argument['valueName'])}"]
    else:
        value = f" Ar {quoted(argument['valueName'])}" if argument["kind"] == "option" else ""
        names = [flag(name) + value for name in argument["names"]]
        lines = [".It " + " , ".join(names)]
    lines += sentences(argument.get("abstract")) + sentences(argument.get("discussion"))
    values = argument.get("allValues") or argument.get("allValueStrings")
    if values:
        lines.append(text(f"One of {', '.join(values)}."))
    if argument.get("defaultValue"):
        lines.append(text(f"Default: {argument['defaultValue']}."))
    return lines


def items(arguments):
    if not arguments:
        return []
    lines = [".Bl -tag -width Ds"]
    for argument in arguments:
        lines += item_of(argument)
    return [*lines, ".El"]


def leaves(command, path=()):
    """Every command that does something, with the words that name it."""
    below = [sub for sub in command.get("subcommands") or [] if sub["commandName"] != "help"]
    if not below:
        yield path, command
    for sub in below:
        if sub.get("shouldDisplay", True):
            yield from leaves(sub, (*path, sub["commandName"]))


def synopsis(name, commands, common):
    lines = []
    for path, command in commands:
        lines.append(f".Nm {name}")
        if path:
            lines.append(".Cm " + quoted(" ".join(path)))
        lines += [synopsis_of(argument) for argument in shown(command["arguments"])
                  if identity(argument) not in common]
    return lines


def page(root, options, rest):
    commands = list(leaves(root))
    # What every command takes is told once.
    common = {identity(argument) for argument in shown(commands[0][1]["arguments"])}
    for _, command in commands:
        common &= {identity(argument) for argument in shown(command["arguments"])}
    if len(commands) == 1:
        common = {identity(argument) for argument in commands[0][1]["arguments"]
                  if is_built_in(argument)}
    name = root["commandName"]
    lines = [
        f".\\\" From {name} --experimental-dump-help.",
        f".Dd {options.date.strftime('%B')} {options.date.day}, {options.date.year}",
        f".Dt {name.upper()} {SECTION}",
        f".Os {quoted(options.version)}" if options.version else ".Os",
        ".Sh NAME", f".Nm {name}",
        f".Nd {quoted((root.get('abstract') or name).rstrip('.'))}",
        ".Sh SYNOPSIS", *synopsis(name, commands, common),
        ".Sh DESCRIPTION", *(sentences(root.get("discussion")) or sentences(root["abstract"])),
        ".Sh OPTIONS",
    ]
    first = shown(commands[0][1]["arguments"])
    if len(commands) == 1:
        return lines + items(first) + rest
    lines += ["Every command takes", *items([a for a in first if identity(a) in common])]
    lines.append(".Sh COMMANDS")
    for path, command in commands:
        lines += [".Ss " + quoted(" ".join(path)), *sentences(command.get("abstract")),
                  *sentences(command.get("discussion"))]
        own = [a for a in shown(command["arguments"]) if identity(a) not in common]
        lines += items(own)
    return lines + rest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", type=datetime.date.fromisoformat, required=True)
    parser.add_argument("--version")
    parser.add_argument("rest", nargs="?")
    options = parser.parse_args()
    rest = []
    if options.rest:
        with open(options.rest, encoding="utf-8") as file:
            rest = file.read().splitlines()
    dump = json.load(sys.stdin)
    if dump.get("serializationVersion") != 0:
        print(f"error: a dump of version {dump.get('serializationVersion')}", file=sys.stderr)
        return 1
    print("\n".join(page(dump["command"], options, rest)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
