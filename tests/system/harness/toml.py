"""Writing a dict as TOML, enough for configuration files."""

import json


def dumps(table):
    """TOML text of nested dicts, lists and scalars."""
    return "\n".join(_table(table, ())) + "\n"


def _table(table, path):
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if not _is_section(value)]
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict) and not isinstance(value, Inline):
            lines += ["", f"[{'.'.join(here)}]", *_table(value, here)]
        elif _is_section(value):
            for entry in value:
                lines += ["", f"[[{'.'.join(here)}]]", *_table(entry, here)]
    return lines


class Inline(dict):
    """A dict that is written in one line, such as `{ env = "NAME" }`."""


def _is_section(value):
    if isinstance(value, dict):
        return not isinstance(value, Inline)
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) and not isinstance(entry, Inline) for entry in value)


def _value(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    return json.dumps(value, ensure_ascii=False)
