"""A provider: speaks OpenAI, and wants to know for which department it works."""

from __future__ import annotations

from gateway.core.call import Call
from gateway.core.deployment import Target
from gateway.core.headers import safe_value
from gateway.core.upstream import UpstreamRequest
from providers.openai import OpenAI


class Acme(OpenAI):
    """OpenAI's dialect with a header more."""

    dialect = "acme"

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        request = super().request(call, target)
        request.headers.append((b"x-acme-tenant", safe_value(call.principal.department)))
        return request


PROVIDER = Acme()
