"""RabbitMQ URLs: read by a library, every character of a password allowed, no password in an error."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pika

from playbill.errors import ConfigurationError

_PORTS = {"amqp": 5672, "amqps": 5671}
_HEARTBEAT_S = 30
_BLOCKED_TIMEOUT_S = 300
_TLS_OPTIONS = ("cafile", "certfile", "keyfile", "verify")
_OPTIONS = ("heartbeat", "connection_timeout", *_TLS_OPTIONS)


def parse_url(url: str) -> list[pika.ConnectionParameters]:
    """Connection parameters of each host of a URL.

    Args:
        url: ``amqp://user:password@host:port/vhost`` or ``amqps://``; several hosts of a cluster are separated by
            commas or semicolons (``host1:5672,host2:5672``). In user, password and virtual host, ``/ ? # @ : %`` and
            the like are written as ``%2F`` and so on. Options: ``heartbeat`` and ``connection_timeout`` (seconds),
            for TLS ``cafile``, ``certfile``, ``keyfile`` (paths) and ``verify`` (``peer`` or ``none``).

    Returns:
        One set of parameters per host, to be tried in turn.

    Raises:
        ConfigurationError: The URL is wrong; the message names what, never the password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote the password
        raise _wrong("is no URL") from None
    if parts.scheme not in _PORTS:
        raise _wrong(f"begins with {parts.scheme or 'no scheme'!r}; it must be amqp:// or amqps://")
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        # The password ended the host's part too early: nothing of what follows may be shown.
        raise _wrong("holds /, ? or # in its user or password; write them as %2F, %3F and %23")
    options = _options(parts.query)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    if not hosts:
        raise _wrong("names no host")
    credentials = _credentials(user, password) if userinfo else pika.PlainCredentials("guest", "guest")
    vhost = unquote(parts.path[1:]) or "/"
    secure = parts.scheme == "amqps"
    return [
        _parameters(host, port, credentials, vhost, options, secure=secure)
        for host, port in (_host(each, _PORTS[parts.scheme]) for each in hosts.replace(";", ",").split(","))
    ]


def _credentials(user: str, password: str) -> pika.PlainCredentials:
    try:
        return pika.PlainCredentials(unquote(user, errors="strict"), unquote(password, errors="strict"))
    except UnicodeDecodeError:
        raise _wrong("has a user or password that is no UTF-8 behind its % signs") from None


def _parameters(
    host: str, port: int, credentials: pika.PlainCredentials, vhost: str, options: dict[str, str], *, secure: bool
) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(
        host=host,
        port=port,
        virtual_host=vhost,
        credentials=credentials,
        heartbeat=_seconds(options, "heartbeat", _HEARTBEAT_S),
        socket_timeout=_seconds(options, "connection_timeout", 10),
        stack_timeout=_seconds(options, "connection_timeout", 10) + 5,
        blocked_connection_timeout=_BLOCKED_TIMEOUT_S,
        ssl_options=pika.SSLOptions(_context(options), host) if secure else None,
        client_properties={"connection_name": "playbill"},
    )


def _options(query: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    for name in options:
        if name not in _OPTIONS:
            raise _wrong(f"has an unknown option {name!r}; known are {', '.join(_OPTIONS)}")
    return options


def _host(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:  # its text quotes the port, which may be half a password that held a slash
        raise _wrong("has a wrong host or port") from None
    if not host:
        raise _wrong("has an empty host")
    return host, port or default_port


def _seconds(options: dict[str, str], name: str, default: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise _wrong(f"has {name}={text!r}; give whole seconds")
    return int(text)


def _context(options: dict[str, str]) -> ssl.SSLContext:
    for name in ("cafile", "certfile", "keyfile"):
        if name in options and not Path(options[name]).is_file():
            raise _wrong(f"has {name}={options[name]}, which is no file")
    verify = options.get("verify", "peer")
    if verify not in {"peer", "none"}:
        raise _wrong(f"has verify={verify!r}; it is peer or none")
    if "keyfile" in options and "certfile" not in options:
        raise _wrong("has a keyfile but no certfile")
    try:
        context = ssl.create_default_context(cafile=options.get("cafile"))
        if "certfile" in options:
            context.load_cert_chain(options["certfile"], options.get("keyfile"))
    except (ssl.SSLError, OSError) as error:
        raise _wrong(f"names certificates that cannot be read ({error})") from None
    if verify == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"PLAYBILL_BROKER_URL {what}; for example amqp://user:password@host:5672/vhost")


def turns(parameters: Sequence[pika.ConnectionParameters], attempt: int) -> pika.ConnectionParameters:
    """Which host an attempt to connect goes to: each in turn."""
    return parameters[attempt % len(parameters)]
