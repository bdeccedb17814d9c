"""Providers as configured -> upstreams as used: the vendor's row, the key, the address, the deadlines."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from gateway.core.deployment import Cooldown, Deadlines, HealthCheck, Retries, Tls, Upstream
from gateway.core.secret import Secret
from gateway.settings.credentials import credential
from gateway.settings.findings import Findings
from gateway.settings.problems import KeyPath, nearest
from gateway.settings.resilience import Patience
from gateway.settings.schema import AwsSettings, EntraSettings, ProviderSettings, Quirks, TlsSettings, VendorRow
from gateway.settings.tables import Vendors

_OPERATIONS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/messages", "/models")
_AZURE_V1 = "/openai/v1"
_USERS = {"aws": ("bedrock",), "entra": ("openai", "mistral"), "service_account": ("gemini", "openai", "mistral")}
"""The dialects that use each kind of credential."""
_OURS = frozenset({"openai", "anthropic", "gemini", "bedrock", "cohere", "mistral", "ollama", "demo"})
"""Others may use what they like."""
_REGION = "{region}"
"""Stands in a vendor's address where each region has its own."""


class UpstreamBuilder:
    """Compiles providers one by one; what is wrong goes to `findings`."""

    def __init__(self, findings: Findings, vendors: Vendors, known_dialects: Collection[str]) -> None:
        self._findings = findings
        self._vendors = vendors
        self._known_dialects = known_dialects

    def build(self, name: str, provider: ProviderSettings, path: KeyPath, *, inline: bool = False) -> Upstream | None:
        """The provider at `path`, None when it cannot be used. `inline` is one that a model brings along."""
        vendor, row = self._vendor(name, provider, path, inline=inline)
        dialect = provider.dialect or row.dialect
        if dialect not in self._known_dialects:
            where = (*path, "dialect")
            self._findings.refuse(
                where,
                f"there is no dialect {self._findings.shown(where, dialect)}; there are "
                + ", ".join(sorted(self._known_dialects)),
                nearest(dialect, self._known_dialects),
            )
        self._check_auth(provider, dialect, path)
        base_url = self._base_url(provider, row, path)
        if base_url is None:
            return None
        quirks = _merged(row.quirks, provider.quirks)
        if provider.api_version:
            quirks["api_version"] = provider.api_version
        if quirks.get("path") == "azure" and base_url.endswith(_AZURE_V1):
            quirks["path"] = "openai"  # the undated form, which takes the deployment as the model
        keys = () if provider.auth is not None else self._keys(provider, row, path)
        return Upstream(
            name=name,
            dialect=dialect,
            base_url=base_url,
            api_key=keys[0] if keys else None,
            api_keys=keys,
            credential=credential(provider.auth, (*path, "auth"), self._findings),
            vendor=vendor,
            quirks=MappingProxyType(quirks),
            headers=MappingProxyType(dict(provider.headers)),
            deadlines=deadlines(provider, Deadlines()),
            tls=self._tls(provider.tls, (*path, "tls")),
            retries=retries(provider, Retries()),
            cooldown=cooldown(provider, Cooldown()),
            health_check=self._health_check(provider, path),
            on_client_gone=provider.on_client_gone or "cancel",
        )

    def _vendor(
        self, name: str, provider: ProviderSettings, path: KeyPath, *, inline: bool
    ) -> tuple[str | None, VendorRow]:
        """The vendor as stated; else known by its address; else, where no address is given, by the provider's name or
        by a dialect that only its maker serves. `openai` is served by many, so it gives no address away."""
        rows = self._vendors.rows
        vendor: str | None
        if provider.vendor is not None:
            if provider.vendor not in rows:
                where = (*path, "vendor")
                said = f"there is no vendor {self._findings.shown(where, provider.vendor)} in vendors.yaml"
                self._findings.refuse(where, said, nearest(provider.vendor, rows))
            vendor = provider.vendor
        elif provider.base_url is not None:
            vendor = self._vendors.at(provider.base_url)
        elif name in rows and not inline and provider.dialect in (None, rows[name].dialect):
            vendor = name
        else:
            vendor = provider.dialect if provider.dialect != "openai" else None
        row = rows.get(vendor or "")
        if row is None or provider.dialect not in (None, row.dialect):
            return provider.vendor, VendorRow(dialect=provider.dialect or "openai")
        return vendor, row

    def _base_url(self, provider: ProviderSettings, row: VendorRow, path: KeyPath) -> str | None:
        where = (*path, "base_url")
        url = provider.base_url or row.base_url
        if not url:
            message = "is required here, such as https://api.example.com/v1, or a vendor with an address of its own"
            self._findings.refuse(where, message)
            return None
        if _REGION in url:
            region = self._region(provider)
            if region is None:
                self._findings.refuse(where, "is required here, or auth.region, or the environment variable AWS_REGION")
                return None
            url = url.replace(_REGION, region)
        fault = _url_fault(url)
        if fault:
            self._findings.refuse(where, fault)
            return None
        return url.rstrip("/")

    def _check_auth(self, provider: ProviderSettings, dialect: str, path: KeyPath) -> None:
        """A credential that our own dialects would not use leaves calls without any."""
        auth = provider.auth
        if auth is None:
            return
        users = _USERS[auth.kind]
        if dialect in _OURS and dialect not in users:
            said = f"is for the dialect {' or '.join(users)}, and this provider's is {dialect}"
            self._findings.refuse((*path, "auth", "kind"), said)
        if provider.api_key is not None or provider.api_key_env_var is not None or provider.api_keys:
            self._findings.refuse((*path, "auth"), "there is a key too; keep one of them")
        if isinstance(auth, EntraSettings) and _url_fault(auth.authority):
            self._findings.refuse((*path, "auth", "authority"), _url_fault(auth.authority) or "")

    def _region(self, provider: ProviderSettings) -> str | None:
        """Where an address that depends on a region leads."""
        if isinstance(provider.auth, AwsSettings):
            return provider.auth.region
        return self._findings.document.environ.get("AWS_REGION")

    def _keys(self, provider: ProviderSettings, row: VendorRow, path: KeyPath) -> tuple[Secret, ...]:
        """The keys that share the load; usually one."""
        if provider.api_keys is None:
            key = self._key(provider, row, path)
            return () if key is None else (key,)
        for other in ("api_key", "api_key_env_var"):
            if getattr(provider, other) is not None:
                self._findings.refuse((*path, other), "api_keys is set too; keep one of them")
        keys: list[Secret] = []
        for index, given in enumerate(provider.api_keys):
            where = (*path, "api_keys", index)
            key = self._usable(given.get_secret_value(), where)
            if key is None:
                self._findings.warn(where, "is empty and left out")
            elif key in keys:
                self._findings.refuse(where, "is the same key as another one")
            else:
                keys.append(key)
        return tuple(keys)

    def _health_check(self, provider: ProviderSettings, path: KeyPath) -> HealthCheck | None:
        check = provider.health_check
        if check is None:
            return None
        if check.path is not None and not re.fullmatch(r"/[!-~]*", check.path):
            self._findings.refuse((*path, "health_check", "path"), "must begin with a slash and be printable ASCII")
        return HealthCheck(check.interval, check.path)

    def _key(self, provider: ProviderSettings, row: VendorRow, path: KeyPath) -> Secret | None:
        if provider.api_key is not None and provider.api_key_env_var is not None:
            self._findings.refuse((*path, "api_key_env_var"), "api_key is set too; keep one of them")
            return None
        if provider.api_key is not None:
            return self._usable(provider.api_key.get_secret_value(), (*path, "api_key"))
        variable = provider.api_key_env_var or row.api_key_env_var
        if variable is None:
            return None
        where = (*path, "api_key_env_var")
        key = self._usable(self._findings.document.environ.get(variable, ""), where)
        if key is None:
            self._findings.warn(where, f"environment variable {variable} is not set; calls go out without a key")
        return key

    def _usable(self, value: str, path: KeyPath) -> Secret | None:
        value = value.strip()
        if not all("!" <= character <= "~" for character in value):
            self._findings.refuse(path, "the key has a space or another character that no key has")
        return Secret(value) if value else None

    def _tls(self, tls: TlsSettings | None, path: KeyPath) -> Tls:
        if tls is None:
            return Tls()
        for field in ("ca_file", "client_cert", "client_key"):
            file = getattr(tls, field)
            if file is not None and not Path(file).is_file():
                self._findings.refuse((*path, field), "there is no such file")
        if tls.client_key is not None and tls.client_cert is None:
            self._findings.refuse((*path, "client_key"), "needs client_cert beside it")
        if not tls.verify:
            self._findings.warn(
                (*path, "verify"), "certificates are not checked; anyone on the way can read and answer"
            )
        return Tls(tls.ca_file, tls.client_cert, tls.client_key, tls.verify)


def deadlines(patience: Patience, default: Deadlines) -> Deadlines:
    """The stated deadlines over the default ones."""
    return Deadlines(
        connect=default.connect if patience.connect_timeout is None else patience.connect_timeout,
        first_byte=default.first_byte if patience.first_byte_timeout is None else patience.first_byte_timeout,
        idle=default.idle if patience.idle_timeout is None else patience.idle_timeout,
    )


def retries(patience: Patience, default: Retries) -> Retries:
    """The stated retries over the default ones, none above the stated `max_retries`."""
    most = patience.max_retries
    usual = default if most is None else Retries(most, most, most, default.timeout)
    stated = patience.retries.model_dump(exclude_none=True) if patience.retries is not None else {}
    made = usual._replace(**stated)
    return made if most is None else made.up_to(most)


def cooldown(patience: Patience, default: Cooldown) -> Cooldown:
    """The stated rest over the default one."""
    stated = patience.cooldown
    return default if stated is None else Cooldown(stated.failures, stated.seconds)


def _merged(vendor: Quirks, provider: Quirks) -> dict[str, Any]:
    return {**vendor.model_dump(exclude_none=True), **provider.model_dump(exclude_none=True)}


def _url_fault(url: str) -> str | None:
    """Why a base URL cannot be used. Never quotes it: it may hold a credential."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be a URL that begins with http:// or https:// and names a host"
    if "@" in parts.netloc:
        return "must not hold a user name or password; use api_key or headers"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "must not have a query or a fragment; api_version and headers have keys of their own"
    if port == 0 or not url.isascii() or not url.isprintable() or " " in url:
        return "is not a URL"
    if parts.path.rstrip("/").endswith(_OPERATIONS):
        return "must end before the operation, such as https://api.example.com/v1"
    return None
