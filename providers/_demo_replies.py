"""The demo model's replies as an OpenAI upstream writes them: chunks, whole objects, errors, embeddings.

Replies are generators: nothing is written before it is read, and dropping one ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

from gateway.core.body import Body, encode
from gateway.core.errors import invalid_request
from gateway.core.upstream import UpstreamFailure
from providers import _demo_model as model
from providers._demo_endpoints import media_reply
from providers._demo_model import Example, Orders
from providers._demo_reply import Parts, Reply, refusal
from providers._reader import DONE

MAX_CHOICES = 128
MAX_INPUTS = 2_048
MAX_DIMENSIONS = 4_096
TYPICAL_LENGTH = 48

_Delta = dict[str, Any]


class _Generation(NamedTuple):
    """An answer to be: what every choice says, token by token, and how the endpoint writes it down."""

    head: dict[str, Any]
    chat: bool
    prompt_tokens: int
    choices: list[Callable[[], Iterator[_Delta]]]
    cap: int | None
    finish: str
    orders: Orders
    include_usage: bool


def plan_reply(operation: str, body: Body, *, identity: str, created: int) -> Reply:
    """The reply to a request. Raises a 400 or 404 `GatewayError` for one that makes no sense."""
    name = body.text("model") or "demo"
    match operation:
        case "embeddings":
            return _embeddings(body, name)
        case "chat/completions":
            generation = _chat(body)
        case "completions":
            generation = _completions(body)
        case _:
            return media_reply(operation, body, name, identity, created)
    kind = "chatcmpl" if generation.chat else "cmpl"
    generation = generation._replace(head={"id": f"{kind}-{identity}", "created": created, "model": name})
    orders = generation.orders
    if orders.error is not None:
        return refusal(orders.error, orders.slow)
    if body.flag("stream"):
        return Reply(_streamed(generation), streamed=True, wait=orders.slow)
    return Reply(_unstreamed(generation), wait=orders.slow)


def _chat(body: Body) -> _Generation:
    messages = body.value("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise invalid_request("'messages' must be an array of messages.", param="messages")
    texts = [_content(message) for message in messages]
    last = messages[-1]
    orders = model.read_orders(texts[-1]) if last.get("role") == "user" else Orders()
    tool = None if last.get("role") == "tool" else _tool_to_call(body, orders)
    cap = body.count("max_completion_tokens", least=1) or body.count("max_tokens", least=1)
    count = _count_of_choices(body, orders)
    if tool is not None:
        choices = [_tool_call(tool, number) for number in range(count)]
    else:
        form = _json_form(body)
        source = _fixed(form) if form is not None else _told(texts[-1], orders)
        choices = [_texts(source, number, _stops(body), "content") for number in range(count)]
    return _Generation(
        head={},
        chat=True,
        prompt_tokens=sum(map(model.count_tokens, texts)),
        choices=choices,
        cap=cap,
        finish="stop" if tool is None else "tool_calls",
        orders=orders,
        include_usage=_include_usage(body),
    )


def _completions(body: Body) -> _Generation:
    prompts = _inputs(body, "prompt")
    first_text = prompts[0] if isinstance(prompts[0], str) else ""
    orders = model.read_orders(first_text)
    count = _count_of_choices(body, orders, len(prompts))
    stops = _stops(body)
    sources = [_told(prompt if isinstance(prompt, str) else repr(prompt), orders) for prompt in prompts]
    return _Generation(
        head={},
        chat=False,
        prompt_tokens=model.count_tokens(prompts),
        choices=[_texts(source, number, stops, "text") for source in sources for number in range(count)],
        cap=body.count("max_tokens", least=1),
        finish="stop",
        orders=orders,
        include_usage=_include_usage(body),
    )


def _streamed(generation: _Generation) -> Parts:
    """One event per token; the choices take turns."""
    kind = "chat.completion.chunk" if generation.chat else "text_completion"
    head = {**generation.head, "object": kind}
    if generation.chat:
        for index in range(len(generation.choices)):
            yield _event(head, _chunk(generation, index, {"role": "assistant", "content": ""}, None))
    sent = 0
    orders = generation.orders
    for turn in zip_longest(*(_ending(generation, start) for start in generation.choices)):
        for index, step in enumerate(turn):
            if step is None:
                continue
            delta, finish = step
            if finish is None:
                if sent == orders.cut:
                    raise UpstreamFailure("cut", "The demo model broke off, as it was told.")
                if sent == orders.stall:
                    yield None
                sent += 1
            yield _event(head, _chunk(generation, index, delta, finish))
    if generation.include_usage:
        yield b"data: " + encode({**head, "choices": [], "usage": _usage(generation, sent)}) + b"\n\n"
    yield DONE


def _unstreamed(generation: _Generation) -> Parts:
    sent = 0
    written = []
    for index, start in enumerate(generation.choices):
        deltas = []
        finish = generation.finish
        for delta, end in _ending(generation, start):
            if end is None:
                deltas.append(delta)
            else:
                finish = end
        sent += len(deltas)
        written.append(_choice(generation, index, deltas, finish))
        yield b""
    kind = "chat.completion" if generation.chat else "text_completion"
    document = encode({**generation.head, "object": kind, "choices": written, "usage": _usage(generation, sent)})
    orders = generation.orders
    if orders.cut is not None or orders.stall is not None:
        yield document[: len(document) // 2]
        if orders.stall is not None:
            yield None
        raise UpstreamFailure("cut", "The demo model broke off, as it was told.")
    yield document


def _ending(generation: _Generation, start: Callable[[], Iterator[_Delta]]) -> Iterator[tuple[_Delta, str | None]]:
    """A choice's tokens, then how it finished."""
    for number, delta in enumerate(start()):
        if number == generation.cap:
            yield {}, "length"
            return
        yield delta, None
    yield {}, generation.finish


def _event(head: dict[str, Any], choice: dict[str, Any]) -> bytes:
    return b"data: " + encode({**head, "choices": [choice]}) + b"\n\n"


def _chunk(generation: _Generation, index: int, delta: _Delta, finish: str | None) -> dict[str, Any]:
    said = {"delta": delta} if generation.chat else {"text": delta.get("text", "")}
    return {"index": index, **said, "logprobs": None, "finish_reason": finish}


def _choice(generation: _Generation, index: int, deltas: list[_Delta], finish: str) -> dict[str, Any]:
    if not generation.chat:
        text = "".join(delta["text"] for delta in deltas)
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
    content = "".join(delta.get("content", "") for delta in deltas)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    if calls:
        arguments = "".join(call["function"]["arguments"] for call in calls)
        function = {"name": calls[0]["function"]["name"], "arguments": arguments}
        message |= {"content": None, "tool_calls": [{"id": calls[0]["id"], "type": "function", "function": function}]}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def _usage(generation: _Generation, completion: int) -> dict[str, Any]:
    prompt = generation.prompt_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


_Source = Callable[[int], Iterator[str]]


def _told(prompt: str, orders: Orders) -> _Source:
    return lambda variant: model.answer(prompt, variant, orders)


def _fixed(text: str) -> _Source:
    return lambda _: model.pieces(text)


def _texts(source: _Source, variant: int, stops: list[str], member: str) -> Callable[[], Iterator[_Delta]]:
    return lambda: ({member: token} for token in model.until_stop(source(variant), stops))


def _tool_call(function: dict[str, Any], number: int) -> Callable[[], Iterator[_Delta]]:
    """A call of a function, as deltas: its name first, then its arguments in pieces."""
    name = str(function.get("name") or "tool")
    arguments = encode(Example(function.get("parameters")).value()).decode()
    opening = {"index": 0, "id": f"call_demo_{number}", "type": "function", "function": {"name": name, "arguments": ""}}

    def deltas() -> Iterator[_Delta]:
        yield {"tool_calls": [opening]}
        for piece in model.pieces(arguments):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}

    return deltas


def _tool_to_call(body: Body, orders: Orders) -> dict[str, Any] | None:
    """The function that the caller, or a command, wants called."""
    choice = body.value("tool_choice")
    wanted = orders.tool or choice == "required" or isinstance(choice, dict)
    if not wanted or choice == "none":
        return None
    functions = _functions(body.value("tools"))
    if isinstance(choice, dict):
        named = choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        functions = [function for function in functions if function.get("name") == name]
    if not functions:
        raise invalid_request("There is no such tool to call: 'tools' must name it.", param="tools")
    return functions[0]


def _functions(tools: object) -> list[dict[str, Any]]:
    listed = tools if isinstance(tools, list) else []
    found = [tool.get("function") for tool in listed if isinstance(tool, dict)]
    return [function for function in found if isinstance(function, dict)]


def _json_form(body: Body) -> str | None:
    """JSON text for the response format that was asked for, None where plain text will do."""
    match body.value("response_format"):
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return encode({"answer": "This is the built-in demo model."}).decode()
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return encode(Example(schema).value()).decode()
    raise invalid_request("'response_format' is none that the demo model knows.", param="response_format")


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""


def _stops(body: Body) -> list[str]:
    stops = body.value("stop")
    stops = [stops] if isinstance(stops, str) else stops or []
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(stop, str) and stop for stop in stops):
        raise invalid_request("'stop' must be a string or up to four of them.", param="stop")
    return stops


def _include_usage(body: Body) -> bool:
    options = body.value("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _count_of_choices(body: Body, orders: Orders, prompts: int = 1) -> int:
    count = body.count("n", least=1, most=MAX_CHOICES) or 1
    if count * prompts * (orders.long or TYPICAL_LENGTH) > model.MAX_LONG:
        raise invalid_request(f"The demo model writes at most {model.MAX_LONG} tokens in one call.", param="n")
    return count


def _inputs(body: Body, name: str) -> list[Any]:
    """Text, texts, tokens, or lists of tokens, always as a list of inputs."""
    value = body.value(name)
    inputs = [value] if isinstance(value, str) or _is_tokens(value) else value
    if isinstance(inputs, list) and 0 < len(inputs) <= MAX_INPUTS and all(map(_is_input, inputs)):
        return inputs
    raise invalid_request(f"'{name}' must be text, tokens, or up to {MAX_INPUTS} of either, none empty.", param=name)


def _is_input(value: object) -> bool:
    return (isinstance(value, str) and bool(value)) or _is_tokens(value)


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _embeddings(body: Body, name: str) -> Reply:
    inputs = _inputs(body, "input")
    dimensions = body.count("dimensions", least=1, most=MAX_DIMENSIONS) or model.DEFAULT_DIMENSIONS
    encoding = body.text("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise invalid_request("'encoding_format' must be float or base64.", param="encoding_format")
    orders = model.read_orders(inputs[0]) if isinstance(inputs[0], str) else Orders()
    if orders.error is not None:
        return refusal(orders.error, orders.slow)
    written = model.as_base64 if encoding == "base64" else model.as_floats
    vectors = (written(model.vector(item, dimensions)) for item in inputs)
    return Reply(_list(vectors, name, model.count_tokens(inputs)), wait=orders.slow)


def _list(vectors: Iterable[str | list[float]], name: str, tokens: int) -> Parts:
    """The list, vector by vector."""
    separator = b'{"object":"list","data":['
    for index, vector in enumerate(vectors):
        yield separator + encode({"object": "embedding", "index": index, "embedding": vector})
        separator = b","
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield b'],"model":' + encode(name) + b',"usage":' + encode(usage) + b"}"
