"""The API document is right: routes take what it says, refuse what it does not, and answer as it says, whatever they
are asked. Schemathesis makes the requests up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode, checks

from gateway import plugins
from gateway.admin._document import api_document
from gateway.admin._routes import BASE, routes_of
from gateway.core.endpoint import Inference
from tests.admin.test_with_a_gateway import CONFIG, served
from tests.support.gateway import Gateway, running_gateway

ROUTES = routes_of(plugins.modules("gateway.admin").values())
ENDPOINTS = plugins.endpoints()
DOCUMENT = api_document(ROUTES, ENDPOINTS)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {operation.label: operation for operation in (found.ok() for found in SCHEMA.get_all_operations())}
ADMINISTRATION = [label for label in OPERATIONS if BASE in label]
INFERENCE = [f"{each.method} {each.path}" for each in ENDPOINTS if isinstance(each, Inference)]

ALWAYS: list[Any] = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
EXAMPLES = 30


class Asking:
    """Sends cases to a gateway as an administrator."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._session = requests.Session()
        self._session.trust_env = False

    def __call__(self, case: Case, *more: Any) -> Any:
        """Raises where the answer is not as the document says, or else than `more` checks allow."""
        headers = {"authorization": f"Bearer {self.gateway.key}"}
        answer = case.call(base_url=self.gateway.url, session=self._session, headers=headers)
        case.validate_response(answer, checks=[*ALWAYS, *more])
        return answer

    def all(self, label: str, mode: GenerationMode, *more: Any) -> None:
        """Ask an operation whatever comes to mind."""

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
        def asked(case: Case) -> None:
            if isinstance(case.body, dict) and "model" in case.body and label in INFERENCE:
                case.body["model"] = "demo"  # one that is there
            self(case, *more)

        asked()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("document"), CONFIG) as running:
        yield running
        assert running.errors() == []


@pytest.fixture(scope="module")
def asking(gateway: Gateway) -> Asking:
    return Asking(gateway)


async def test_it_is_served_to_everybody_and_has_every_route(gateway: Gateway) -> None:
    async with gateway.client() as client:
        del client.headers["authorization"]
        answer = await client.get("/api/v1/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == DOCUMENT
    paths = answer.json()["paths"]
    for route in ROUTES:
        operation = paths[BASE + route.path][route.method.lower()]
        assert operation["x-aidock-permission"] == route.permission.value
        assert {"200", "401", "default"} <= operation["responses"].keys()
        assert operation["summary"], f"{route.path} does not say what it answers"
        assert route.answers is not None, f"{route.path} does not say how it answers"
    for endpoint in ENDPOINTS:
        assert endpoint.method.lower() in paths[endpoint.path.replace("{rest}", "{id}")]


def test_inference_endpoints_name_what_they_need() -> None:
    body = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["model", "messages"]
    form = DOCUMENT["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]
    assert list(form) == ["multipart/form-data"]


async def test_the_page_lists_it_and_needs_nothing_from_elsewhere(gateway: Gateway) -> None:
    answer = await gateway.ask("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for outside in ("http:", "https:", "<script", "<link", "src=", "@import", "url("):
        assert outside not in answer.text
    for path, methods in DOCUMENT["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}<" in answer.text


@pytest.mark.parametrize("label", ADMINISTRATION)
def test_administration_answers_as_it_says(asking: Asking, label: str) -> None:
    asking.all(label, GenerationMode.POSITIVE)


@pytest.mark.parametrize("label", [label for label in ADMINISTRATION if "{" not in label])
def test_administration_refuses_what_it_does_not_say_it_takes(asking: Asking, label: str) -> None:
    asking.all(label, GenerationMode.NEGATIVE, checks.negative_data_rejection)


@pytest.mark.parametrize("label", INFERENCE)
def test_inference_never_breaks(asking: Asking, label: str) -> None:
    asking.all(label, GenerationMode.POSITIVE)
    asking.all(label, GenerationMode.NEGATIVE)


@pytest.mark.parametrize("label", [label for label in OPERATIONS if label not in (*ADMINISTRATION, *INFERENCE)])
def test_questions_and_probes_answer_as_they_say(asking: Asking, label: str) -> None:
    asking.all(label, GenerationMode.POSITIVE)


async def test_a_receipt_is_as_it_says(asking: Asking) -> None:
    request_id = await served(asking.gateway, asking.gateway.key)
    answer = asking(OPERATIONS["GET /api/v1/usage/{request_id}"].Case(path_parameters={"request_id": request_id}))
    assert answer.json()["request_id"] == request_id


@pytest.mark.parametrize(
    "body",
    [
        {"model": "priced"},
        {"model": "priced", "prompt_tokens": 5, "max_tokens": 5},
        {"model": "priced", "endpoint": "images.generations", "body": {"prompt": "a"}},
        {"model": "priced", "body": {}},
        {"model": "nothing"},
    ],
)
def test_explanations_are_as_it_says(asking: Asking, body: dict[str, Any]) -> None:
    assert asking(OPERATIONS["POST /api/v1/quotas/explain"].Case(body=body)).status_code == 200


@pytest.mark.parametrize("by", ["policy", "policy,scope,subject,metric,window,user", "day,department,key,model"])
def test_reports_are_as_they_say(asking: Asking, by: str) -> None:
    assert asking(OPERATIONS["GET /api/v1/shadow"].Case(query={"by": by})).status_code == 200
