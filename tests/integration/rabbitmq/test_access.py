"""Passwords of any characters, and TLS with an authority of one's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from playbill.broker.rabbitmq.parameters import parse_url
from playbill.errors import ConfigurationError
from tests.integration.rabbitmq.conftest import Transport, messages
from tests.support.waiting import eventually
from tools import instances, services

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

#: ``{{folder}}`` is filled in by the instance.
TLS = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {{folder}}/certificates/ca.pem
ssl_options.certfile = {{folder}}/certificates/server.pem
ssl_options.keyfile = {{folder}}/certificates/server.key
"""
PASSWORD = "p@ss/w:rd?#[]%41 &=+é\"'"


@pytest.fixture(scope="module")
def secure_rabbit(version: str) -> Iterator[tuple[services.RabbitInstance, int, Path]]:
    """A server that speaks TLS too, with a certificate of its own authority."""
    port = instances.free_port()
    instance = services.new_rabbit(version, extra=TLS.format(port=port))
    certificates = instance.folder / "certificates"
    certificates.mkdir(parents=True)
    make_certificates(certificates)
    with instance:
        yield instance, port, certificates


def make_certificates(folder: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True)

    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Playbill test"),
        *("-keyout", "ca.key", "-out", "ca.pem"),
    )
    openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
        *("-keyout", "server.key", "-out", "server.csr"),
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost\n", "ascii")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", "names", "-out", "server.pem"),
    )
    for path in folder.iterdir():
        path.chmod(0o644)


def test_every_character_of_a_password_works(
    secure_rabbit: tuple[services.RabbitInstance, int, Path], queue: str
) -> None:
    instance, _, _ = secure_rabbit
    instance.add_user("odd@user", PASSWORD)
    url = f"amqp://{quote('odd@user', safe='')}:{quote(PASSWORD, safe='')}@127.0.0.1:{instance.port}/%2F"
    transport = Transport(url)
    publisher, confirmed = transport.publisher()
    publisher.publish(messages(queue, 1))
    eventually(lambda: confirmed, deadline_s=20)
    transport.close()


def test_a_wrong_password_is_logged_without_it(
    secure_rabbit: tuple[services.RabbitInstance, int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    instance, _, _ = secure_rabbit
    transport = Transport(f"amqp://playbill:s3cret-and-wrong@127.0.0.1:{instance.port}/%2F")
    publisher, _ = transport.publisher()
    eventually(lambda: "ACCESS_REFUSED" in caplog.text or "Authentication" in caplog.text, deadline_s=20)
    assert not publisher.healthy
    transport.close()
    assert "s3cret" not in caplog.text


def test_tls_checks_the_server_against_the_given_authority(
    secure_rabbit: tuple[services.RabbitInstance, int, Path], queue: str
) -> None:
    instance, port, certificates = secure_rabbit
    base = f"amqps://playbill:{quote(instance.password, safe='')}@localhost:{port}/%2F"
    transport = Transport(f"{base}?cafile={certificates}/ca.pem")
    publisher, confirmed = transport.publisher()
    publisher.publish(messages(queue, 1))
    eventually(lambda: confirmed, deadline_s=20)
    # Without the authority it is refused, unless told not to look
    stranger, _ = transport.publisher(base)
    assert stranger._connection.tried.wait(20)
    assert not stranger.healthy
    blind, seen = transport.publisher(f"{base}?verify=none")
    blind.publish(messages(queue, 1))
    eventually(lambda: seen, deadline_s=20)
    transport.close()


def test_a_certificate_for_another_name_is_refused(
    secure_rabbit: tuple[services.RabbitInstance, int, Path],
) -> None:
    instance, port, certificates = secure_rabbit
    url = f"amqps://playbill:{quote(instance.password, safe='')}@127.0.0.1:{port}/%2F?cafile={certificates}/ca.pem"
    transport = Transport(url)
    publisher, _ = transport.publisher()
    assert publisher._connection.tried.wait(20)
    assert not publisher.healthy
    transport.close()


def test_the_second_host_serves_where_the_first_is_away(
    secure_rabbit: tuple[services.RabbitInstance, int, Path],
) -> None:
    instance, _, _ = secure_rabbit
    nobody = instances.free_port()
    password = quote(instance.password, safe="")
    transport = Transport(f"amqp://playbill:{password}@127.0.0.1:{nobody},127.0.0.1:{instance.port}/%2F")
    publisher, _ = transport.publisher()
    eventually(lambda: publisher.healthy, deadline_s=30)
    transport.close()


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://host", "begins with 'http'"),
        ("amqp://", "names no host"),
        ("amqp://user:topsecret@host:port/", "wrong host or port"),
        ("amqp://user:topsecret@host/?heartbeat=soon", "heartbeat='soon'"),
        ("amqp://user:topsecret@host/?retries=3", "unknown option 'retries'"),
        ("amqps://user:topsecret@host/?cafile=/does/not/exist", "no file"),
        ("amqps://user:topsecret@host/?verify=maybe", "verify='maybe'"),
    ],
)
def test_a_wrong_url_is_refused_in_words_and_without_the_password(url: str, what: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_url(url)
    assert what in str(refused.value)
    assert "topsecret" not in str(refused.value)
