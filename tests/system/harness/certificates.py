"""Certificates for tests, made by openssl: an authority and what it has signed."""

import subprocess
from pathlib import Path


def _openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """An authority of its own, with its files in `folder`."""

    def __init__(self, folder, name="authority", algorithm=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.file, self._key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        _openssl("req", "-x509", "-newkey", *algorithm, "-nodes", "-days", 3, "-subj", f"/CN={name}",
                 "-keyout", self._key, "-out", self.file)

    def sign(self, name, addresses="DNS:localhost,IP:127.0.0.1", days=2, digest="sha256"):
        """A certificate and its key for whoever is called so: two files. It is good for `days`; negative: was, once.
        `digest` is of the authority's signature.
        """
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                 "-keyout", key, "-out", request)
        extensions.write_text(f"subjectAltName={addresses}\nbasicConstraints=CA:FALSE\n")
        _openssl("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-days", days,
                 f"-{digest}", "-extfile", extensions, "-out", certificate)
        key.chmod(0o600)
        return certificate, key
