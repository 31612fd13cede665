"""Equations as MathML, which browsers render by themselves: no script is loaded, and none is needed."""

import html
import re

from latex2mathml.converter import convert


def on_page_content(content, page, config, files):
    """Replaces what arithmatex has found: spans in the text, and blocks on lines of their own."""

    def rendered(match):
        tag, tex = match.groups()
        if tag == "span":
            return convert(html.unescape(tex))
        return f'<div class="equation">{convert(html.unescape(tex), display="block")}</div>'

    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', rendered, content, flags=re.S)
