"""`crdtmail certs`: one private authority, a certificate for each node, nothing ever overwritten."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509

from crdtmail.errors import ConfigError
from crdtmail.security import certificates
from tests.test_security_tokens import crdtmail

NOW = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def alternatives(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}


def test_it_makes_an_authority_and_a_certificate_for_each_node(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    hosts = ("--host", "mx1.example.org:10.0.0.1", "--host", "mx1.example.org:2001:db8::1")
    made = crdtmail("certs", str(folder), "mx1.example.org", "mx2", *hosts)
    assert made.returncode == 0, made.stderr
    assert 'certificate = "/etc/crdtmail/node.crt"' in made.stdout
    assert f"valid for {certificates.NODE_DAYS} days" in made.stdout
    ca = read(folder / "ca" / "ca.crt")
    first = read(folder / "mx1.example.org" / "node.crt")
    first.verify_directly_issued_by(ca)
    here = {"localhost", "127.0.0.1", "::1"}
    assert alternatives(first) == {"mx1.example.org", "10.0.0.1", "2001:db8::1"} | here
    assert alternatives(read(folder / "mx2" / "node.crt")) == {"mx2"} | here
    assert not (folder / "mx2" / "ca.key").exists()


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    certificates.make(tmp_path / "certs", ["mx1"], [], NOW)
    keys = list(tmp_path.rglob("*.key"))
    assert len(keys) == 2
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_again_it_adds_nodes_with_the_same_authority_and_touches_nothing(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["mx1"], [], NOW)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert certificates.make(tmp_path, ["mx1", "mx2"], [("mx1", "10.0.0.9")], NOW) == ["mx2"]
    assert {path: path.read_bytes() for path in before} == before
    read(tmp_path / "mx2" / "node.crt").verify_directly_issued_by(read(tmp_path / "ca" / "ca.crt"))
    again = crdtmail("certs", str(tmp_path), "mx1")
    assert "stays as it is" in again.stdout


def test_certificates_are_valid_from_a_day_ago_for_as_long_as_is_said(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["10.0.0.1"], [], NOW)
    node = read(tmp_path / "10.0.0.1" / "node.crt")
    assert node.not_valid_before_utc == NOW - datetime.timedelta(days=1)
    assert node.not_valid_after_utc == NOW + datetime.timedelta(days=certificates.NODE_DAYS)
    assert str(ipaddress.ip_address("10.0.0.1")) in alternatives(node)


@pytest.mark.parametrize(
    ("names", "hosts"),
    [
        (["ca"], []),
        (["../mx1"], []),
        ([""], []),
        (["mx1"], [("mx2", "10.0.0.1")]),
        (["mx1"], [("mx1", "no host")]),
    ],
)
def test_what_cannot_be_certified_is_refused_before_anything_is_made(
    tmp_path: Path, names: list[str], hosts: list[tuple[str, str]]
) -> None:
    with pytest.raises(ConfigError):
        certificates.make(tmp_path, names, hosts, NOW)
    assert not list(tmp_path.iterdir())


def test_a_damaged_authority_signs_nothing(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["mx1"], [], NOW)
    (tmp_path / "ca" / "ca.crt").write_text("nothing of the kind")
    with pytest.raises(ConfigError, match="holds no authority"):
        certificates.make(tmp_path, ["mx2"], [], NOW)
    assert not (tmp_path / "mx2").exists()


def test_a_certificate_that_is_renewed_keeps_its_names_and_addresses(tmp_path: Path) -> None:
    hosts = ("--host", "mx1:10.0.0.1", "--host", "mx1:2001:db8::1")
    made = crdtmail("certs", str(tmp_path), "mx1", "mx2", *hosts)
    assert "at mx1, localhost, 127.0.0.1, ::1, 10.0.0.1, 2001:db8::1." in made.stdout
    before = alternatives(read(tmp_path / "mx1" / "node.crt"))
    shutil.rmtree(tmp_path / "mx1")
    again = crdtmail("certs", str(tmp_path), "mx1", "--host", "mx1:mail.example.org")
    assert again.returncode == 0, again.stderr
    assert alternatives(read(tmp_path / "mx1" / "node.crt")) == before | {"mail.example.org"}


def test_a_name_that_is_not_in_a_certificate_which_is_there_is_an_error(tmp_path: Path) -> None:
    assert crdtmail("certs", str(tmp_path), "mx1").returncode == 0
    before = (tmp_path / "mx1" / "node.crt").read_bytes()
    refused = crdtmail("certs", str(tmp_path), "mx1", "mx2", "--host", "mx1:10.0.0.1")
    assert refused.returncode == 2
    assert "10.0.0.1 is not in mx1's certificate" in refused.stderr
    assert (tmp_path / "mx1" / "node.crt").read_bytes() == before
    assert not (tmp_path / "mx2").exists()
