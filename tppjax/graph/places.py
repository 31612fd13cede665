"""The place of an operation in the source code: the modules around it, and the user's own line."""

import os
import re
from typing import Any

import flax
import jax

from tppjax.graph.values import Place

LIBRARIES = ("site-packages/", "dist-packages/", "<frozen", "<string>", os.path.dirname(os.__file__))
INSIDE = tuple(os.path.dirname(file) for file in (__file__, jax.__file__, flax.__file__) if file)


def place_of(eqn: Any, outer: Place) -> Place:
    """The scope and the line of an equation, or of the call around it if the equation has none."""
    scope = "/".join(filter(None, (outer.scope, str(eqn.source_info.name_stack))))
    scope, line = split_scope(scope)
    return Place(scope, line or outer.line or _line(eqn.source_info.traceback))


def split_scope(scope: str) -> tuple[str, str]:
    """Scope and line of a scope of the form "layer@file:line", which `convert.torch` writes."""
    lines = re.findall(r"@([^@]*?:\d+)", scope)
    names = re.sub(r"@[^@]*?:\d+", "", scope).split("/")
    return "/".join(name for name in names if name and "(" not in name), lines[-1] if lines else ""


def _line(traceback: Any) -> str:
    """The innermost line of the user; if all lines are in libraries, the innermost one outside of JAX."""
    frames = [f for f in (traceback.frames if traceback else ()) if not f.file_name.startswith(INSIDE)]
    users = [f for f in frames if not any(library in f.file_name for library in LIBRARIES)]
    frame = next(iter(users or frames), None)
    return f"{frame.file_name}:{frame.line_num}" if frame else ""
