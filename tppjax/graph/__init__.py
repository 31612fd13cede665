"""Networks of any library as graphs: `trace` makes one of a function of JAX, and everything is read from it."""

from tppjax.graph.build import trace
from tppjax.graph.graph import Graph, Op, Site

__all__ = ["Graph", "Op", "Site", "trace"]
