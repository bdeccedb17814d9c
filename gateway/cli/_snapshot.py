"""A configuration compiled as the server would."""

from __future__ import annotations

from gateway import plugins
from gateway.cli._shared import BAD_CONFIG, fail
from gateway.settings.compile import Snapshot, compile_document
from gateway.settings.load import Document
from gateway.settings.problems import ConfigError


def snapshot_of(document: Document) -> Snapshot:
    """The snapshot; a configuration, or an extension, that cannot be served ends the program with exit code 78."""
    try:
        snapshot = compile_document(
            document,
            version=1,
            known_policies=plugins.policy_names(),
            known_dialects=frozenset(plugins.providers()),
            check_policy=plugins.policy,
        )
    except (ConfigError, ValueError) as error:
        fail(str(error), BAD_CONFIG)
    return snapshot
