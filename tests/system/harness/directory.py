"""A directory: OpenLDAP's slapd with entries for tests, on free loopback ports, with TLS if it has a certificate."""

import os
import shutil
import signal
import socket
import subprocess
from base64 import b64encode

from harness import ports, process, rundir
from harness.waiting import wait_until

BASE = "dc=example,dc=org"
PEOPLE = f"ou=people,{BASE}"
STAFF = f"ou=staff,{BASE}"  # only who logs in as SEARCHER finds anything there
SEARCHER, SEARCHER_PASSWORD = f"cn=searcher,{BASE}", "a-Password, with #spaces"

# Binds without a password are let in, as of nobody: whoever takes that for a proof lets everybody in.
CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
allow bind_anon_cred bind_anon_dn
{tls}
database mdb
maxsize 16777216
suffix "{base}"
directory {folder}/data
dbnosync
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree="{staff}" by dn.exact="{searcher}" read by * none
access to * by * read
"""


def _program(name):
    for folder in (None, "/usr/sbin"):
        if found := shutil.which(name, path=folder):
            return found
    raise AssertionError(f"no {name}: install slapd and ldap-utils")


def entry(name, kind, **attributes):
    """As LDIF; values in base64, which may hold anything."""
    attributes = {"objectClass": kind, **attributes}
    lines = [f"{key}:: {b64encode(value.encode()).decode()}" for key, value in attributes.items()]
    return "\n".join([f"dn:: {b64encode(name.encode()).decode()}", *lines]) + "\n"


def person(uid, password, below=PEOPLE, name=None, **attributes):
    """An entry that may log in."""
    attributes = {"cn": uid, "sn": uid, "uid": uid, "userPassword": password, **attributes}
    return entry(name or f"uid={uid},{below}", "inetOrgPerson", **attributes)


ENTRIES = [
    entry(BASE, "domain", dc="example"),
    entry(PEOPLE, "organizationalUnit", ou="people"),
    entry(STAFF, "organizationalUnit", ou="staff"),
    entry(SEARCHER, "person", cn="searcher", sn="searcher", userPassword=SEARCHER_PASSWORD),
    person("app", "app-ldap", mail="app@example.org"),
    person("other", "other-ldap"),
    person("u_scram", "pw-scram"),
    person("twin", "twin-ldap"),
    person("twin", "twin-ldap", name=f"cn=twin,{PEOPLE}"),
    # Its name needs escapes, and there are names that would become others without them.
    person("odd, one", "odd-ldap", name=f"uid=odd\\, one,{PEOPLE}"),
    person("u_md5", "of-the-directory", below=STAFF),
]


class Directory:
    """A running slapd. `authority` signs its certificate, which is made out to `addresses`."""

    def __init__(self, authority=None, addresses="DNS:localhost,IP:127.0.0.1", name="directory"):
        self.name = name
        self.folder = rundir.folder(name)
        self.port, self.tls_port = ports.free_port(), ports.free_port()
        self.log_file = self.folder / "log"
        (self.folder / "data").mkdir()
        tls = ""
        if authority:
            certificate, key = authority.sign(f"{name}-{self.port}", addresses)
            tls = f"TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\nTLSCACertificateFile {authority.file}"
        self._tls = bool(tls)
        self._file = self.folder / "slapd.conf"
        self._file.write_text(CONFIGURATION.format(
            folder=self.folder, base=BASE, staff=STAFF, searcher=SEARCHER, tls=tls), "utf-8")
        entries = self.folder / "entries.ldif"
        entries.write_text("\n".join(ENTRIES), "utf-8")
        process.run_as(None, [_program("slapadd"), "-q", "-f", self._file, "-l", entries])
        self._process = None
        rundir.LIVE.append(self)
        self.start()

    def start(self):
        """Starts it and waits until it answers."""
        urls = f"ldap://127.0.0.1:{self.port}" + (f" ldaps://127.0.0.1:{self.tls_port}" if self._tls else "")
        # -d keeps it in the foreground.
        argv = [_program("slapd"), "-d", "none", "-f", self._file, "-h", urls]
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                process.command_as(None, argv, "KILL"), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.folder, start_new_session=True)
        wait_until(self._answers, 20, "slapd to answer")

    def _answers(self):
        assert self._process.poll() is None, f"slapd has ended: {rundir.tail(self.log_file)}"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def freeze(self):
        """It takes connections and says nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self):
        """It goes on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self):
        """Ends it; its port answers no more."""
        if self._process and self._process.poll() is None:
            process.kill_family(self._process.pid)
            self._process.wait()

    def set_password(self, uid, password):
        """Of an entry below PEOPLE."""
        self.stop()
        change = self.folder / "change.ldif"
        change.write_text(f"dn: uid={uid},{PEOPLE}\nchangetype: modify\nreplace: userPassword\nuserPassword: {password}\n")
        process.run_as(None, [_program("slapmodify"), "-f", self._file, "-l", change])
        self.start()

    def log_sections(self):
        """For reports of failed tests."""
        return [(f"{self.name}: log", rundir.tail(self.log_file))]

    def destroy(self):
        """Ends it and removes its files."""
        self.stop()
        for port in (self.port, self.tls_port):
            ports.release(port)
        if self in rundir.LIVE:
            rundir.LIVE.remove(self)
        shutil.rmtree(self.folder, ignore_errors=True)
