"""Reference pages, made from the code: one for each command, by its own parser, and one for each module of the nav."""

import re
import runpy
import warnings
from collections import Counter
from pathlib import Path
from unittest import mock

import griffe
import tyro
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from tppjax import cli

ROOT = Path(__file__).parents[2]
PACKAGES = ("convert", "train", "tppjax")


def on_files(files, config):
    """Adds the pages; a public name without a docstring would be missing there, so it is an error."""
    for command in commands():
        files.append(File.generated(config, f"commands/{command}.md", content=command_page(command)))
    modules = re.findall(r"api/([\w.]+)\.md", str(config.nav))
    loader = griffe.GriffeLoader(search_paths=[ROOT])
    for package in PACKAGES:
        loader.load(package)
    if names := [name for module in modules for name in undocumented(loader.modules_collection[module])]:
        raise PluginError(f"public names without a docstring: {', '.join(names)}")
    for module in modules:
        content = module_page(loader.modules_collection[module])
        files.append(File.generated(config, f"api/{module}.md", content=content))


def module_page(module: griffe.Module) -> str:
    """The public names of a module, those that a submodule of the same name hides from griffe, too."""
    hidden = [
        path
        for name, path in module.imports.items()
        if name in (module.exports or ()) and module[name].is_module and module[name].path != path
    ]
    shown = "\n    options: {show_root_heading: true, show_root_toc_entry: true}"
    return "\n\n".join([f"# {module.path}", f"::: {module.path}", *(f"::: {path}{shown}" for path in hidden)])


def undocumented(parent: griffe.Object):
    """The public functions, classes and methods of a module or class that have no docstring."""
    for member in parent.members.values():
        if member.is_public and not member.is_special and (member.is_function or member.is_class):
            if not member.has_docstring:
                yield member.path
            yield from undocumented(member)


def commands() -> list[str]:
    """Every module of the packages that `python -m` runs."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py") if "cli.run(" in file.read_text()]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return sorted(name.removesuffix(".__main__") for name in names)


def command_page(command: str) -> str:
    """What a command and its subcommands do, and their options."""
    with mock.patch.object(cli, "run") as run, warnings.catch_warnings(action="ignore"):
        names = runpy.run_module(command, run_name="__main__")
        parser = tyro.extras.get_parser(run.call_args[0][1], use_underscores=True)
    lines = [f"# python -m {command}", parser.description or names["__doc__"]]
    subcommands = next((a.choices for a in parser._actions if isinstance(a.choices, dict)), {})
    shared = [option for option, n in Counter(o for p in subcommands.values() for o in options(p)).items() if n > 2]
    lines += options(parser)
    for name, sub in subcommands.items():
        own = options(sub)
        lines += [f"## {name}", f"`python -m {command} {name}`: {sub.description}"]
        if len(set(own) & set(shared)) > len(shared) / 2:
            own = [option for option in own if option not in shared] + ["The others are [shared](#shared-options)."]
        lines += own
    if shared:
        lines += ["## Shared options", *shared]
    return "\n\n".join(lines)


def options(parser) -> list[str]:
    """A definition for each option: its name and values, what it does, and its default."""
    found = []
    for action in parser._actions:
        if action.dest == "help" or isinstance(action.choices, dict):
            continue
        text, _, default = " ".join(action.help.split()).replace("[", r"\[").rpartition(" (")
        default = default.removeprefix("default: ").removesuffix(")")
        names = ", ".join(action.option_strings) or action.dest.upper()
        values = re.sub(r"\{None\}\||(?<=\{)None,", "", action.metavar or "") if action.option_strings else ""
        values = re.sub(r"\{?\[(\w+) \[\1 \.\.\.\]\]\}?", r"\1 ...", values)
        more = {"required": " *(required)*", "None": "", "": ""}.get(default, f" *(default: `{default}`)*")
        found.append(f"`{names} {values}`{more}".replace(" `", "`") + f"\n:   {text}")
    return found
