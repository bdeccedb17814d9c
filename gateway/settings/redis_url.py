"""The URL of a Redis server, or of the sentinels that know where it is.

    redis://[user:password@]host[:6379][/db]                      rediss:// for TLS
    redis+sentinel://[user:password@]host[:26379],.../service[/db]    rediss+sentinel:// for TLS to all of them
    unix://[user:password@]/path/to/socket[?db=0]

What would break the URL is percent-encoded. Options follow a `?`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
PORT, SENTINEL_PORT = 6379, 26379

Address = tuple[str, int]

_LOGIN = ("db", "username", "password")
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
_TLS = (*TLS_FILES, "ssl_password", "ssl_cert_reqs", "ssl_check_hostname")
_TRUST = ("required", "optional", "none")
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#]*)?(?:\?(?P<options>[^#]*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """`hosts` are sentinels where there is a `service`; `path` is a socket's, where there are no hosts. `tls` is None
    for a connection in the clear, else the options of the TLS context, by the names that the URL has for them."""

    hosts: tuple[Address, ...]
    path: str = ""
    service: str = ""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: Mapping[str, str | bool] | None = field(default=None, repr=False)


def parse_redis_url(url: str) -> RedisUrl:
    """Raises `ValueError`; its message says what is wrong and repeats nothing of the URL."""
    parts = _URL.fullmatch(url)
    if parts is None or parts["scheme"] not in SCHEMES:
        raise ValueError("must be a URL such as redis://host:6379/0; in a password write # as %23, / as %2F, ? as %3F")
    scheme = parts["scheme"]
    options = _options(scheme, parts["options"] or "")
    username, _, password = (parts["login"] or "").partition(":")
    hosts, path, service, database = _place(scheme, parts["hosts"], unquote(parts["path"] or ""))
    return RedisUrl(
        hosts=hosts,
        path=path,
        service=service,
        db=_database(options.get("db", database)),
        username=unquote(username) or options.get("username", ""),
        password=unquote(password) or options.get("password", ""),
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
        tls=_tls(options) if scheme.startswith("rediss") else None,
    )


def _place(scheme: str, hosts: str, path: str) -> tuple[tuple[Address, ...], str, str, str]:
    """The hosts, a socket's path, a service's name and the database's number."""
    if scheme == "unix":
        if hosts or len(path) < 2:
            raise ValueError("must have the socket's path behind three slashes, as in unix:///run/redis.sock")
        return (), path, "", ""
    if scheme.endswith("+sentinel"):
        service, _, database = path.strip("/").partition("/")
        if not service or not hosts:
            raise ValueError(
                "must name the sentinels and the service they watch, as in "
                "redis+sentinel://host1:26379,host2:26379/mymaster/0"
            )
        return tuple([_address(host, SENTINEL_PORT) for host in hosts.split(",")]), "", service, database
    if "," in hosts:
        raise ValueError("must name one host; several sentinels take redis+sentinel:// or rediss+sentinel://")
    return (_address(hosts or "localhost", PORT),), "", "", path.strip("/")


def _address(text: str, port: int) -> Address:
    found = _HOST.fullmatch(unquote(text))
    if found is None or int(found["port"] or port) > 65_535:
        raise ValueError("must have hosts such as redis.example.com:6379 or [::1]:6379")
    return found["host"].strip("[]"), int(found["port"] or port)


def _database(text: str) -> int:
    if not re.fullmatch(r"[0-9]{0,4}", text, re.ASCII):
        raise ValueError("must have a database's number, such as 0, or nothing at the end of its path")
    return int(text or 0)


def _options(scheme: str, text: str) -> dict[str, str]:
    known = list(_LOGIN)
    if scheme.startswith("rediss"):
        known += _TLS
    if scheme.endswith("+sentinel"):
        known += _SENTINEL_LOGIN
    with contextlib.suppress(ValueError):
        options = dict(parse_qsl(text, keep_blank_values=True, strict_parsing=True))
        if options.keys() <= set(known):
            return options
    raise ValueError(f"has an option that {scheme}:// does not know; it takes {', '.join(known)}")


def _tls(options: Mapping[str, str]) -> dict[str, str | bool]:
    tls: dict[str, str | bool] = {name: value for name, value in options.items() if name in _TLS}
    if tls.get("ssl_cert_reqs", "required") not in _TRUST:
        raise ValueError(f"must have {', '.join(_TRUST[:-1])} or {_TRUST[-1]} as its ssl_cert_reqs")
    switch = str(tls.get("ssl_check_hostname", "true")).lower()
    if switch not in _SWITCH:
        raise ValueError("must have true or false as its ssl_check_hostname")
    return tls | {"ssl_check_hostname": _SWITCH[switch]}
