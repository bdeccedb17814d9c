"""What a program with LlamaIndex does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from deeds import serve
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Weather(BaseModel):
    """How the weather is."""

    city: str
    degrees: int


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


TOOL = FunctionTool.from_defaults(weather)


def chat(model: str) -> OpenAILike:
    return OpenAILike(
        model=model,
        api_base=os.environ["BASE_URL"],
        api_key=os.environ["API_KEY"],
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
    )


def answer(model: str, words: str) -> Any:
    told = chat(model).chat([ChatMessage(words)])
    return {"text": told.message.content, "usage": told.raw.usage.model_dump()}


def stream(model: str, words: str) -> Any:
    pieces = [piece.delta for piece in chat(model).stream_chat([ChatMessage(words)])]
    return {"text": "".join(piece or "" for piece in pieces), "chunks": len(pieces)}


def tool_loop(model: str, words: str) -> Any:
    llm, said = chat(model), [ChatMessage(words)]
    called = llm.chat_with_tools([TOOL], chat_history=said)
    calls = llm.get_tool_calls_from_response(called)
    results = [
        ChatMessage(
            str(TOOL(**call.tool_kwargs)), role=MessageRole.TOOL, additional_kwargs={"tool_call_id": call.tool_id}
        )
        for call in calls
    ]
    final = llm.chat_with_tools([TOOL], chat_history=[*said, called.message, *results])
    return {"asked": [call.tool_kwargs for call in calls], "text": final.message.content}


def structured(model: str, words: str) -> Any:
    told = chat(model).as_structured_llm(Weather).complete(words)
    return told.raw.model_dump()


def failure(model: str, words: str) -> Any:
    try:
        chat(model).chat([ChatMessage(words)])
    except Exception as error:  # noqa: BLE001  which one it is, is what is asked
        return [kind.__name__ for kind in type(error).__mro__]
    return []


DEEDS: dict[str, Callable[[str, str], Any]] = {
    deed.__name__: deed for deed in (answer, stream, tool_loop, structured, failure)
}

if __name__ == "__main__":
    serve(DEEDS)
