"""Tutorials from the scripts in examples/, with what they print and draw when they are run now.

A script has jupytext's percent format: `# %% [markdown]` begins text, `# %%` code.
"""

import contextlib
import functools
import io
import os
import re
import tempfile
from pathlib import Path

import jax
import matplotlib
from matplotlib import pyplot as plt
from mkdocs.structure.files import File

matplotlib.use("Agg")
jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/tppjax"))  # as tppjax.cli has it
OPTIONAL = ("torch",)  # without these a tutorial is shown without its outputs
EXAMPLES = Path(__file__).parents[2] / "examples"


def on_files(files, config):
    """Adds a page for each script."""
    for script in sorted(EXAMPLES.glob("*.py")):
        files.append(File.generated(config, f"examples/{script.stem}.md", abs_src_path=str(script)))


def on_page_markdown(markdown, page, config, files):
    """Runs the script of a page; its code, output and plots become the page's Markdown."""
    script = Path(page.file.abs_src_path or "")
    if script.suffix != ".py":
        return markdown
    text, plots = run(markdown, script.stem)
    for name, png in plots.items():
        files.append(File.generated(config, f"examples/{name}", content=png))
    return f"{text}\n\n*This page is `examples/{script.name}` of the repository, with what it printed in this build.*\n"


@functools.cache
def run(script: str, name: str) -> tuple[str, dict[str, bytes]]:
    """The script as Markdown, and its plots as PNG, by file name."""
    text, plots, names, missing = "", {}, {"__name__": "__main__"}, ""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for kind, source in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n)*)", script, re.M):
            if "markdown" in kind:
                text += "\n" + re.sub(r"^# ?", "", source, flags=re.M)
                continue
            text += f"\n```python\n{source.strip()}\n```\n"
            with contextlib.redirect_stdout(io.StringIO()) as output:
                try:
                    exec("" if missing else compile(source, name, "exec"), names)
                except ModuleNotFoundError as e:
                    if e.name not in OPTIONAL:
                        raise
                    missing = e.name
                    output.write(f"not run here: {missing} is not installed")
            if output.getvalue():
                text += f"\n```{{.text .output}}\n{output.getvalue().rstrip()}\n```\n"
            for number in plt.get_fignums():
                file, png = f"{name}-{len(plots) + 1}.png", io.BytesIO()
                figure = plt.figure(number)
                figure.savefig(png, dpi=150)
                plots[file] = png.getvalue()
                text += f"\n![Plot]({file}){{width={100 * figure.get_figwidth():.0f}}}\n"
            plt.close("all")
    return text, plots
