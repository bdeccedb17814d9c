from datetime import UTC, datetime

from gateway.core.credentials import AwsKeys
from gateway.core.deployment import Deadlines
from gateway.core.headers import Headers, first
from gateway.core.secret import Secret
from gateway.core.upstream import Origin, UpstreamRequest
from providers._aws_signature import sign

SECRET = Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


def a_request(method: bytes, host: str, target: bytes, content_type: bytes, body: bytes = b"") -> UpstreamRequest:
    headers: Headers = [(b"content-type", content_type), (b"accept", b"*/*")]
    return UpstreamRequest(method, Origin("https", host, 443), target, headers, body, Deadlines())


def proof(request: UpstreamRequest) -> str:
    return (first(request.headers, b"authorization") or b"").decode()


def test_the_example_of_awss_own_manual_has_its_signature() -> None:
    form = b"application/x-www-form-urlencoded; charset=utf-8"
    request = a_request(b"GET", "iam.amazonaws.com", b"/?Action=ListUsers&Version=2010-05-08", form)
    keys = AwsKeys("us-east-1", "AKIDEXAMPLE", SECRET)
    sign(request, keys, "iam", datetime(2015, 8, 30, 12, 36, tzinfo=UTC))
    assert proof(request).endswith(
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_a_models_arn_and_a_session_are_signed_as_amazons_own_library_signs_them() -> None:
    arn = "arn%3Aaws%3Abedrock%3Aeu-west-1%3A123%3Ainference-profile%2Feu.anthropic.claude-3%3A0"
    target = f"/model/{arn}/converse-stream".encode()
    host = "bedrock-runtime.eu-west-1.amazonaws.com"
    request = a_request(b"POST", host, target, b"application/json", b'{"a":1}')
    keys = AwsKeys("eu-west-1", "AKIDEXAMPLE", SECRET, Secret("tok/en=="))
    for _ in range(2):  # the second time it is signed anew
        sign(request, keys, "bedrock", datetime(2026, 11, 26, 12, tzinfo=UTC))
    assert proof(request) == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261126/eu-west-1/bedrock/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, "
        "Signature=c887575ad0b0ac41e876a5f3ada42af3ca2439cb10726f67868f61953aa6662c"
    )
    assert [name for name, _ in request.headers].count(b"x-amz-security-token") == 1
