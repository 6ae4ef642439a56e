"""What the documentation shows, done: configurations are valid, statements run, links lead somewhere."""

import re
import subprocess

import psycopg
import pytest

from harness.forebay import ROOT, binary

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CLUSTER = '\n[[postgres.cluster]]\nname = "main"\nnodes = ["127.0.0.1:5432"]\n'
USER = '\n[[postgres.user]]\nname = "app"\npassword = "app"\n'
ADMIN = '\n[[admin.user]]\nname = "ops"\npassword = "ops"\nrole = "admin"\n'


def blocks(language):
    """(page, line, text) of every fenced block in this language."""
    found = []
    for page in PAGES:
        inside, begun, lines = None, 0, []
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            if line.strip().startswith("```"):
                if inside is None:
                    inside, begun, lines = line.strip()[3:], number, []
                else:
                    if inside == language:
                        found.append(pytest.param("\n".join(lines) + "\n", id=f"{page.name}:{begun}"))
                    inside = None
            elif inside is not None:
                lines.append(line)
        assert inside is None, f"{page}:{begun}: a block without an end"
    return found


@pytest.mark.parametrize("text", blocks("toml"))
def test_configurations_are_valid(text, tmp_path, monkeypatch):
    """A part of a configuration is completed to a whole one; files that it names are made."""
    monkeypatch.chdir(tmp_path)
    if "[[postgres.cluster]]" not in text and "[[redis.service]]" not in text:
        text = CLUSTER + "\n" + text
    if "[[postgres.user]]" not in text:
        text += USER
    if "[[admin.user]]" not in text and "[admin]" in text:
        text += ADMIN
    for name in re.findall(r'"(/[^"\s]+)"', text):
        file = tmp_path / name.strip("/").replace("/", "_")
        if "." in name.rsplit("/", 1)[-1] or "secrets" in name:
            file.write_text("secret\n", "utf-8")
            file.chmod(0o600)
            text = text.replace(f'"{name}"', f'"{file}"')
    (tmp_path / "hba.conf").write_text("local all all reject\n", "utf-8")
    (tmp_path / "ident.conf").write_text("map system user\n", "utf-8")
    for name in re.findall(r'env = "(\w+)"', text):
        monkeypatch.setenv(name, "secret")
    config = tmp_path / "forebay.toml"
    config.write_text(text, "utf-8")
    config.chmod(0o600)
    checked = subprocess.run([binary(), "check", "-c", config], capture_output=True, text=True, timeout=20, check=False)
    assert checked.returncode == 0, f"{text}\n{checked.stderr}"


@pytest.mark.parametrize("text", blocks("sql"))
def test_statements_run(text, start_forebay):
    """By PostgreSQL through Forebay, or by the console. What is not there is no mistake of the statement's."""
    forebay = start_forebay()
    statements = [part.strip() for part in re.sub(r"(?m)--.*$", "", text).split(";")] if "$$" not in text else [text]
    for statement in filter(None, statements):
        try:
            with forebay.connect() as client:
                client.execute(statement)
        except psycopg.errors.SyntaxError:
            with forebay.console(user="viewer") as console:
                try:
                    console.execute(statement)
                except psycopg.errors.InsufficientPrivilege:
                    pass  # a command that the console understands, and a viewer may not give
        except psycopg.Error:
            pass


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    pages = [page.name for page in PAGES if page.parent.name == "docs" and page.name not in ("index.md", "SUMMARY.md")]
    assert not [name for name in pages if f"({name})" not in index]


def test_commands_of_the_shell_exist():
    """Every `forebay COMMAND` that a page names is one."""
    known = subprocess.run([binary(), "--help"], capture_output=True, text=True, timeout=20, check=True).stdout
    commands = set(re.findall(r"(?m)^  ([a-z]+)  ", known))
    assert {"run", "check", "status", "admin", "health", "import", "init"} <= commands
    for page in PAGES:
        for named in re.findall(r"`forebay ([a-z]+)[ `]", page.read_text("utf-8")):
            assert named in commands, f"{page.name} names forebay {named}"
