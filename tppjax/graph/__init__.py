"""Networks of any library as graphs: `trace` makes a graph of a function of JAX, on which everything else is based."""

from tppjax.graph.build import trace
from tppjax.graph.graph import Graph, Op, Site

__all__ = ["Graph", "Op", "Site", "trace"]
