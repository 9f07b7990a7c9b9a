"""A private certificate authority for one cluster, and a certificate for each of its nodes."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crdtmail.errors import ConfigError
from crdtmail.limits import MAX_SECRET_FILE
from crdtmail.security.files import read_private

CA_DAYS = 3650
NODE_DAYS = 825
_HERE = ("localhost", "127.0.0.1", "::1")
"""So that a client on the node's own machine can ask it there."""
_NODE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", re.ASCII)  # fits a common name of 64
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)


def make(
    folder: Path, names: Iterable[str], hosts: Iterable[tuple[str, str]], now: datetime.datetime
) -> list[str]:
    """Make what is missing of the authority and of the nodes' certificates; the nodes that are new.

    `hosts` are further names and addresses at which a node is called.  Nothing that is there is touched.
    Raises ConfigError.
    """
    wanted = {name: [name, *_HERE] for name in names}
    for name in wanted:
        if name == "ca" or _NODE.fullmatch(name) is None:
            raise ConfigError(f"{name!r} cannot be a node's name in a certificate: letters, digits, - and .")
    for name, host in hosts:
        if name not in wanted:
            raise ConfigError(f"--host {name}:{host}: no node of that name is asked for")
        wanted[name].append(host)
    subjects = {name: x509.SubjectAlternativeName([_alternative(each) for each in dict.fromkeys(said)])
                for name, said in wanted.items()}  # fmt: skip
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca, ca_key = _authority(folder / "ca", now)
        made = [name for name in subjects if not (folder / name).exists()]
        for name in made:
            _node(folder / name, name, subjects[name], ca, ca_key, now)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be used: {error.strerror}") from error
    return made


def hosts(folder: Path) -> list[str]:
    """The names and addresses in the certificate of the node with this folder.  Raises ConfigError."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / "node.crt").read_bytes())
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}") from error
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(f"{folder} holds no certificate of a node: {error}") from error
    return [
        *found.get_values_for_type(x509.DNSName),
        *map(str, found.get_values_for_type(x509.IPAddress)),
    ]


def _authority(folder: Path, now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if not folder.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "crdtmail cluster")])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _certificate(name, name, key, CA_DAYS, now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        with _whole(folder) as made:
            _write(made / "ca.key", _pem(key), 0o600)
            _write(made / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        found = serialization.load_pem_private_key(
            read_private(folder / "ca.key", "the authority's key", MAX_SECRET_FILE), None
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{folder} holds no authority of crdtmail's: {error}") from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{folder} holds no authority of crdtmail's: its key is of another kind")
    return certificate, found


def _node(
    folder: Path,
    name: str,
    subject: x509.SubjectAlternativeName,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _certificate(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), ca.subject, key, NODE_DAYS, now
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(subject, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    with _whole(folder) as made:
        _write(made / "node.key", _pem(key), 0o600)
        _write(made / "node.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(made / "ca.crt", ca.public_bytes(serialization.Encoding.PEM), 0o644)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int, now: datetime.datetime
) -> x509.CertificateBuilder:
    """Valid from a day ago: the other machines' clocks may be behind."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise ConfigError(f"{host!r} is neither a host's name nor an address") from None
        return x509.DNSName(host)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name when all is in it."""
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))  # its mode is 0700
    try:
        yield made
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made)
        raise


def _write(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
