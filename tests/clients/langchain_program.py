"""What a program with LangChain does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from deeds import serve
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

ADDRESS: Any = {"base_url": os.environ["BASE_URL"], "api_key": os.environ["API_KEY"]}


class Weather(BaseModel):
    """How the weather is."""

    city: str
    degrees: int


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


def chat(model: str, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, max_retries=0, **ADDRESS, **settings)


def answer(model: str, words: str) -> Any:
    told = chat(model).invoke(words)
    return {"text": told.text, "usage": told.usage_metadata}


def stream(model: str, words: str) -> Any:
    chunks = list(chat(model, stream_usage=True).stream(words))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {"text": whole.text, "usage": whole.usage_metadata, "chunks": len(chunks)}


def tool_loop(model: str, words: str) -> Any:
    bound = chat(model).bind_tools([weather])
    said: list[Any] = [HumanMessage(words)]
    called = bound.invoke(said)
    results = [ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in called.tool_calls]
    final = bound.invoke([*said, called, *results])
    return {"asked": [call["args"] for call in called.tool_calls], "text": final.text}


def tool_stream(model: str, words: str) -> Any:
    chunks = list(chat(model).bind_tools([weather]).stream(words))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return [call["args"] for call in whole.tool_calls]


def structured(model: str, words: str) -> Any:
    return chat(model).with_structured_output(Weather, method="json_schema").invoke(words).model_dump()


def structured_by_tool(model: str, words: str) -> Any:
    return chat(model).with_structured_output(Weather, method="function_calling").invoke(words).model_dump()


def response(model: str, words: str) -> Any:
    told = chat(model, use_responses_api=True).invoke(words)
    return {"text": told.text, "usage": told.usage_metadata}


def embeddings(model: str, words: str) -> Any:
    # Otherwise it sends tokens, for which it fetches OpenAI's vocabulary.
    return OpenAIEmbeddings(model=model, check_embedding_ctx_length=False, **ADDRESS).embed_documents([words, "more"])


def failure(model: str, words: str) -> Any:
    try:
        chat(model).invoke(words)
    except Exception as error:  # noqa: BLE001  which one it is, is what is asked
        return [kind.__name__ for kind in type(error).__mro__]
    return []


DEEDS: dict[str, Callable[[str, str], Any]] = {
    deed.__name__: deed
    for deed in (answer, stream, tool_loop, tool_stream, structured, structured_by_tool, response, embeddings, failure)
}

if __name__ == "__main__":
    serve(DEEDS)
