"""How a program in Python is asked: `[deed, {…}]` in a line on stdin, `{"told": …}` or `{"failed": …}` on stdout."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def serve(deeds: Mapping[str, Callable[..., Any]]) -> None:
    """Do what is asked until nothing more is."""
    for line in sys.stdin:
        deed, told = json.loads(line)
        try:
            answer = {"told": deeds[deed](**told)}
        except Exception:  # noqa: BLE001  whatever it is, the test is told
            answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
