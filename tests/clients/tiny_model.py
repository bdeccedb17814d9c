"""A model of a few words for llama.cpp, with weights by chance: python tiny_model.py FILE

Bytes can be spelled, so that any prompt and any grammar works, but are never chosen freely, and neither is an end.
"""

from __future__ import annotations

import sys
from typing import Any

import gguf
import numpy as np

WORDS = ("the", "a", "river", "stone", "and", "under", "bird", "sings", "always", "door", "opens", "snow", "falls")
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
WIDTH, HEADS, INNER, LAYERS = 32, 4, 64, 2
CONTEXT = 65_536
_UNLIKELY = -10.0


def write(path: str) -> None:
    tokens = [*SPECIAL, *BYTES, *(f"▁{word}" for word in WORDS)]
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, tokens)
    for name, weights in _weights(len(tokens)):
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, tokens: list[str]) -> None:
    kinds = gguf.TokenType
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * len(BYTES), *[kinds.NORMAL] * len(WORDS)]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:")


def _weights(size: int) -> Any:
    """Every token has the same large first number, by which the last layer tells what is chosen and what is not."""
    chance = np.random.default_rng(7)

    def matrix(rows: int, columns: int, scale: float = 0.15) -> Any:
        return chance.normal(0, scale, (rows, columns)).astype(np.float32)

    rare = len(SPECIAL) + len(BYTES)
    told, said = matrix(size, WIDTH, 0.5), matrix(size, WIDTH, 0.5)
    told[:, 0] = 4
    said[:rare] = 0
    said[:, 0] = 0
    said[:rare, 0] = _UNLIKELY
    ones = np.ones(WIDTH, np.float32)
    yield from (("token_embd.weight", told), ("output.weight", said), ("output_norm.weight", ones))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", ones
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}.weight", matrix(WIDTH, WIDTH)
        for name, shape in (("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))):
            yield f"blk.{layer}.ffn_{name}.weight", matrix(*shape)


if __name__ == "__main__":
    write(sys.argv[1])
