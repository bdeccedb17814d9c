"""Every key of the configuration, with its type, default and meaning. The JSON Schema is made from this."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, SecretStr, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.core.deployment import CacheScope, Strategy
from gateway.core.limits import Action, Metric, Scope
from gateway.core.money import RATES
from gateway.settings.fields import (
    Amount,
    CountersUrl,
    DatabaseUrl,
    Day,
    Dollars,
    HeaderName,
    HeaderValue,
    Name,
    Seconds,
    SecondsOrNone,
    Section,
    Switch,
    Text,
    UnitDollars,
    VariableName,
    Whole,
    refuse,
)
from gateway.settings.resilience import Fallbacks, FallbackSettings, HealthCheckSettings, Patience

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool", "function")

DATA_DIR = "aidock-data"
MEMORY = "memory://"


class ServerSettings(Section):
    """Where the gateway listens and how patient it is with its own clients. Times are seconds."""

    host: Name = "127.0.0.1"
    """The address to listen on; 0.0.0.0 or :: for all."""
    port: Whole = Field(default=8080, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""
    workers: Whole = Field(default=1, ge=1, le=256)
    """Processes that share the port. More than one needs Redis counters."""
    drain_seconds: SecondsOrNone = 30.0
    """How long a shutdown waits for calls under way."""
    drain_notice: SecondsOrNone = 1.0
    """How long /readyz says 503 before the listener closes, so that balancers turn away first."""
    max_inflight: Whole = Field(default=1000, ge=1, le=1_000_000)
    """Calls one worker serves at once; more wait."""
    max_queue: Whole = Field(default=200, ge=0, le=1_000_000)
    """Calls that may wait for a place in one worker, by turns of the API keys; more are told 503."""
    queue_timeout: Seconds = 5.0
    """How long a call waits for a place before it is told 503."""
    idempotency_seconds: Whole = Field(default=86_400, ge=0, le=2_592_000)
    """How long the answer to a call with an Idempotency-Key is kept for its repetitions; 0 ignores the header."""
    responses_store_seconds: Whole = Field(default=0, ge=0, le=2_592_000)
    """How long the conversation behind a response is kept, so that previous_response_id can continue it; 0 keeps
    none."""
    max_body_bytes: Whole = Field(default=52_428_800, ge=1024, le=2**40)
    """The largest request body."""
    header_timeout: Seconds = 10.0
    """How long a client may take to send its request head."""
    body_timeout: Seconds = 30.0
    """How long a client may take to send its body, however steadily it comes."""
    write_timeout: Seconds = 30.0
    """How long a client may take nothing of its answer."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """How log lines are written; auto is text on a terminal and JSON elsewhere."""


class StorageSettings(Section):
    """Where state is kept. URLs may hold passwords and are never shown."""

    data: Name = DATA_DIR
    """The directory of the journal and, by default, of the SQLite database."""
    database: DatabaseUrl | None = Field(default=None, repr=False)
    """sqlite:///path or postgresql://user:password@host/name; by default aidock.db in the data directory."""
    counters: CountersUrl = Field(default=MEMORY, repr=False)
    """memory://, redis://host:6379/0, rediss:// for TLS, unix:///path, or
    redis+sentinel://host:26379,host:26379/service/0."""
    journal_bytes: Whole = Field(default=268_435_456, ge=65_536, le=2**40)
    """The most one process's journal may take while the database is away; then new calls are refused."""
    journal_open: Whole = Field(default=20_000, ge=1, le=1_000_000)
    """The most calls one process's journal may have under way; more are refused."""

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data}/aidock.db"


Operation = Literal[
    "audio/speech",
    "audio/transcriptions",
    "audio/translations",
    "images/generations",
    "messages",
    "messages/count_tokens",
    "moderations",
    "rerank",
    "responses",
]


class TlsSettings(Section):
    """How a provider is met over TLS."""

    ca_file: Name | None = None
    """Certificates to trust besides the system's, PEM."""
    client_cert: Name | None = None
    """Our certificate for mutual TLS, PEM."""
    client_key: Name | None = None
    """The key of client_cert, PEM; by default it is in the same file."""
    verify: Switch = True
    """false trusts any certificate: for tests only."""


class Quirks(Section):
    """How an upstream deviates from its dialect."""

    auth: Literal["bearer", "api-key"] | None = None
    """The header that carries the key: Authorization or api-key."""
    path: Literal["openai", "azure"] | None = None
    """How a request path is made; azure puts the deployment and api-version in it."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The member that caps the output."""
    stream_options: Switch | None = None
    """false: the upstream refuses stream_options."""
    drop: tuple[Name, ...] | None = None
    """Request members the upstream refuses."""
    rename: dict[Name, Name] | None = None
    """Request members the upstream knows by another name."""
    developer_role: Literal["keep", "system"] | None = None
    """system: the upstream does not know the role developer."""
    operations: tuple[Operation, ...] | None = None
    """What it serves besides chat/completions, completions and embeddings, such as responses."""
    understands: tuple[Name, ...] | None = None
    """Of calls in other dialects: cache_control, reasoning_content, reasoning_effort, thinking_blocks, top_k."""
    tokens_per_second: Annotated[Whole, Field(ge=1, le=100_000)] | None = None
    """How fast the built-in demo model streams; 40."""


class AwsSettings(Section):
    """Keys that sign requests to AWS."""

    kind: Literal["aws"]
    """Signature version 4."""
    region: Name
    """Such as us-east-1."""
    access_key_id: Name
    """The key's public part."""
    secret_access_key: SecretStr
    """The key's secret part."""
    session_token: SecretStr | None = None
    """Belongs to temporary keys."""


class EntraSettings(Section):
    """An application of Microsoft Entra ID, for Azure OpenAI without a key."""

    kind: Literal["entra"]
    """A token by client secret."""
    tenant_id: Name
    """The directory."""
    client_id: Name
    """The application."""
    client_secret: SecretStr
    """The application's secret."""
    authority: Text = "https://login.microsoftonline.com"
    """Where tokens come from."""
    scope: Text = "https://cognitiveservices.azure.com/.default"
    """What the token is for."""


class ServiceAccountSettings(Section):
    """A Google service account, for Vertex AI."""

    kind: Literal["service_account"]
    """A token by a signed assertion."""
    file: Name
    """The account's key file, JSON."""
    project: Name | None = None
    """The project whose models are used; the account's own by default."""
    location: Name = "global"
    """Such as europe-west4."""


CredentialSettings = Annotated[AwsSettings | EntraSettings | ServiceAccountSettings, Field(discriminator="kind")]


class ProviderSettings(Patience):
    """Somewhere models are served."""

    dialect: Name | None = None
    """What it speaks; openai by default, or what the vendor's row says."""
    vendor: Name | None = None
    """A row of vendors.yaml: gives base_url, quirks and api_key_env_var. Found by base_url where not stated."""
    base_url: Text | None = None
    """Where its API begins, such as https://api.openai.com/v1."""
    api_key: SecretStr | None = None
    """The key, best as ${NAME} or ${file:/run/secrets/name}."""
    api_key_env_var: VariableName | None = None
    """The environment variable that holds the key."""
    api_keys: tuple[SecretStr, ...] | None = Field(default=None, min_length=1, max_length=100)
    """Several keys, instead of one: they share the load, and each has a health of its own."""
    auth: CredentialSettings | None = Field(default=None, repr=False)
    """Instead of a key: kind aws, entra or service_account."""
    api_version: Name | None = None
    """Azure: the dated API version; with it the deployment (upstream_model) goes into the path."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, repr=False)
    """Headers to add to every request."""
    quirks: Quirks = Quirks()
    """Deviations beyond what the vendor's row says."""
    tls: TlsSettings | None = None
    """Private certificates."""
    health_check: HealthCheckSettings | None = None
    """Checks besides the calls; none by default."""


class PriceSettings(Section):
    """US dollars per million tokens, and for what is sold by the unit."""

    since: Day | None = Field(default=None, alias="from")
    """The first day it holds, UTC; without one, always."""
    input: Dollars | None = None
    """Prompt tokens."""
    output: Dollars | None = None
    """Completion tokens; nothing where there are none, as for embeddings."""
    cached_input: Dollars | None = None
    """Prompt tokens found in the provider's cache; as input where not stated."""
    per_image: UnitDollars | None = None
    """One image."""
    per_minute: UnitDollars | None = None
    """A minute of sound, by the second."""
    per_million_characters: Dollars | None = None
    """A million characters of text to speak."""
    per_search: UnitDollars | None = None
    """One search of a reranker."""

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.input is None and all(getattr(self, name) is None for name, _ in RATES.values()):
            raise refuse(f"needs input, or one of {', '.join(name for name, _ in RATES.values())}")
        return self


def _price_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


class _OneOrMany:
    """Tells the JSON Schema that a single item may stand for a list of one."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(core)
        return {"anyOf": [many["items"], {**many, "minItems": 1}]}


Prices = Annotated[tuple[PriceSettings, ...], BeforeValidator(_price_list), Field(min_length=1), _OneOrMany()]


class CacheSettings(Section):
    """Answers kept for those who ask the same again."""

    seconds: Whole = Field(ge=1, le=2_592_000)
    """How long an answer is kept."""
    scope: CacheScope = "user"
    """Who may be given it: the user who asked for it, the user's department, or everyone."""
    when: Literal["asked", "always"] = "asked"
    """asked: only calls with the header x-aidock-cache; always: all but those with x-aidock-cache: off."""


class ModelSettings(Patience):
    """A model clients can name, and the provider that serves it. Instead of a provider, an OpenAI-compatible base_url
    can be given right here."""

    model_id: Name
    """The name clients send."""
    display_name: Name | None = None
    """The name people read; model_id by default."""
    provider: Name | None = None
    """A name under providers."""
    base_url: Text | None = None
    """Instead of a provider: where an OpenAI-compatible API begins."""
    api_key: SecretStr | None = None
    """With base_url: the key."""
    api_key_env_var: VariableName | None = None
    """With base_url: the environment variable that holds the key."""
    upstream_model: Name | None = None
    """The provider's name for it (Azure: the deployment); model_id by default."""
    supported_roles: tuple[Role, ...] = Field(default=ROLES, min_length=1)
    """The message roles it takes."""
    price: Prices | None = None
    """US dollars per million tokens, one price or a list with dates. By default what prices.yaml says."""
    max_output_tokens: Whole | None = Field(default=None, ge=1, le=2**31)
    """The most it writes in one answer."""
    context_window: Whole | None = Field(default=None, ge=1, le=2**31)
    """The most it reads and writes in one call."""
    fallbacks: Fallbacks = FallbackSettings()
    """Models to try, in order, when it could not answer: a list, or lists by what went wrong."""
    cache: CacheSettings | None = None
    """Keep its answers; none are kept where not stated."""


class RouteTarget(Section):
    """A model that shares a route's load."""

    model: Name
    """A model_id."""
    weight: Whole = Field(default=1, ge=1, le=10_000)
    """Its share, relative to the other targets."""


class RouteSettings(Section):
    """A public name served by several models."""

    targets: tuple[RouteTarget, ...] = Field(min_length=1)
    """The models that share the load."""
    strategy: Strategy = "weight"
    """Which comes first: by weight, in order, the one with the lowest latency, or with the lowest cost."""
    fallbacks: Fallbacks = FallbackSettings()
    """Models to try, in order, when no target could answer: a list, or lists by what went wrong."""
    cache: CacheSettings | None = None
    """Keep the answers of its targets; none are kept where not stated."""


class PolicySettings(Section):
    """A policy of the chain."""

    name: Name
    """A file of policies/."""
    settings: dict[str, Any] = Field(default_factory=dict, repr=False)
    """What it is told."""


def _policy_entry(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1:
        ((name, settings),) = value.items()
        return {"name": name, "settings": settings}
    raise refuse("must be the name of a policy, or one name with its settings")


_POLICY_FORMS = {
    "anyOf": [{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1}],
    "description": "The name of a policy, or one name with its settings.",
}
PolicyItem = Annotated[PolicySettings, BeforeValidator(_policy_entry), WithJsonSchema(_POLICY_FORMS)]


class QuotaSettings(Section):
    """The most a subject may use within a window."""

    scope: Scope
    """Whom it binds."""
    subject: Name | None = None
    """Which department, user, key or model; none for the global scope."""
    metric: Metric
    """What is counted; cost is US dollars."""
    limit: Amount
    """The most that is allowed."""
    window: Literal["minute", "hour", "day", "month", "total"] | None = None
    """The calendar window; parallel takes none."""
    action: Action = "deny"
    """deny refuses, warn lets pass and reports, shadow only counts."""


class Settings(Section):
    """An AI Dock configuration."""

    timezone: Name = "UTC"
    """The IANA time zone in which days and months begin."""
    server: ServerSettings = ServerSettings()
    """Where the gateway listens."""
    storage: StorageSettings = StorageSettings()
    """Where state is kept."""
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    """Where models are served, by name."""
    models: tuple[ModelSettings, ...] = ()
    """What clients can name. Without any there is the built-in model demo."""
    routes: dict[str, RouteSettings] = Field(default_factory=dict)
    """Public names served by several models."""
    policies: tuple[PolicyItem, ...] | None = None
    """The chain of rules each call passes, in order."""
    quotas: tuple[QuotaSettings, ...] = ()
    """Limits set here rather than in the console."""


class VendorRow(Section):
    """What is known of one vendor: a row of vendors.yaml."""

    dialect: Name = "openai"
    base_url: Text | None = None
    hosts: tuple[Name, ...] = ()
    """Hosts by which it is recognised besides base_url's own; a leading `*` takes anything."""
    api_key_env_var: VariableName | None = None
    prices: Name | None = None
    """The vendor whose prices apply, when not its own."""
    quirks: Quirks = Quirks()


class VendorTable(Section):
    """The file vendors.yaml."""

    vendors: dict[str, VendorRow]


class PriceRow(PriceSettings):
    """A row of prices.yaml. `model` is exact, or a prefix when it ends in `*`."""

    vendor: Name
    model: Name


class PriceTable(Section):
    """The file prices.yaml."""

    prices: tuple[PriceRow, ...]
