"""What isochat shows, and what its parts may know of one another."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import isochat

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(isochat.__file__).parent
REFERENCE = Path(__file__).parent.parent / "docs" / "reference.md"

# A module may import those of its own layer and of the layers above it in this list (a later one knows an earlier one).
# `isochat.local` is in no layer: it imports nothing of ours, so whoever needs it may import it.
LAYERS = [
    ["_frozen", "_help", "_stdout"],
    ["errors", "_types", "_version"],
    [
        "_wire",
        "_encode",
        "_decode",
        "_responses",
        "_sql",
        "_plain",
        "_gather",
        "_history",
        "_sse",
        "_refusal",
        "_events",
        "_retry",
        "_connection",
        "_config",
        "_request",
    ],
    ["transports"],
    ["backends._http", "backends._line", "backends._sessions", "backends._worker"],
    ["backends._base"],
    ["backends._over_responses"],
    ["backends"],
    ["_stream", "_api"],
    ["_difference"],
    ["_compare", "_report"],
    ["testing", "_cli", "_cli_compare", "_demo"],
    ["__main__"],
]
# Imported in a function, against the order, each for a reason.
UPWARD = {
    ("_types", "_encode"),  # an answer has `to_dict()`; how it is written is the codec's
}
PURE = [
    "_frozen",
    "_types",
    "_wire",
    "_encode",
    "_decode",
    "_plain",
    "_gather",
    "_history",
    "_sse",
    "_refusal",
    "_request",
]
IMPURE = {"asyncio", "http", "os", "random", "secrets", "socket", "ssl", "subprocess", "time", "urllib.request"}
CLIENTS = {
    "aiohttp",
    "databricks",
    "databricks_langchain",
    "databricks_openai",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "langchain",
    "jinja2",
    "langchain_core",
    "mlflow",
    "openai",
    "pydantic",
    "pygal",
    "pyreqwest",
    "requests",
    "rich",
    "typer",
    "yaml",
}

MODULES = {
    ".".join(path.relative_to(HERE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(HERE.rglob("*.py"))
}
BACKENDS = [name for name in MODULES if re.fullmatch(r"backends\.[a-z]\w*", name)]


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def at_run_time(node: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """The imports below `node`, whether at module level or in a function, save those for a type checker only."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return [found for other in node.orelse for found in at_run_time(other)]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [node]
    return [found for child in ast.iter_child_nodes(node) for found in at_run_time(child)]


def imported(node: ast.AST) -> set[str]:
    """The modules that the code below `node` imports, in full."""
    names: set[str] = set()
    for found in at_run_time(node):
        if isinstance(found, ast.Import):
            names |= {alias.name for alias in found.names}
        else:
            origin = found.module or ""
            # `from isochat import errors` imports a module, `from isochat import query_chat` a name of one.
            inner = {alias.name for alias in found.names if _ours(f"{origin}.{alias.name}") in MODULES}
            names |= {f"{origin}.{name}" for name in inner}
            if len(inner) < len(found.names):
                names.add(origin)
    return names


def ours(module: str) -> set[str]:
    """The modules of isochat that one of them imports, without `isochat.`; the package itself is `__init__`."""
    return {_ours(name) for name in imported(tree(module)) if name.partition(".")[0] == "isochat"}


def _ours(name: str) -> str:
    return name.removeprefix("isochat.") if name != "isochat" else "__init__"


def layer(module: str) -> int | None:
    """The number of its layer, or of the package's that it is in."""
    numbers = {name: number for number, names in enumerate(LAYERS) for name in names}
    while module not in numbers and "." in module:
        module = module.rpartition(".")[0]
    return numbers.get(module)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def built_in() -> Mapping[str, Any]:
    if "backends" not in MODULES:
        pytest.skip("isochat.backends is not there yet")
    return importlib.import_module("isochat.backends").BUILT_IN


def public() -> list[str]:
    if not hasattr(isochat, "__all__"):
        pytest.skip("isochat.__all__ is not there yet")
    return list(isochat.__all__)


def needs(module: str) -> None:
    if module not in MODULES:
        pytest.skip(f"isochat.{module} is not there yet")


# ---- what it shows


def test_public_names_are_sorted_and_there() -> None:
    """Every name of `isochat.__all__` can be had, and each is listed once, in order."""
    names = public()

    assert sorted(set(names)) == names
    assert [] == [name for name in names if not hasattr(isochat, name)]


def test_public_names_are_documented() -> None:
    """The reference documents what `isochat.__all__` lists, no less and no more."""
    if not REFERENCE.exists():
        pytest.skip("the docs are not beside these tests")
    text = REFERENCE.read_text(encoding="utf-8")
    documented = re.findall(
        r"^\.\. auto(?:class|data|decorator|exception|function):: isochat\.(\w+)$", text, re.MULTILINE
    )

    assert [name for name in public() if name != "__version__"] == sorted(documented)


def test_errors_are_all_in_the_tree() -> None:
    """The tree drawn at the top of `isochat.errors` holds every error there is."""
    errors = importlib.import_module("isochat.errors")
    drawn = re.findall(r"^[│├└─ ]*([A-Z]\w+)", errors.__doc__.split("```")[1], re.MULTILINE)
    there = [name for name in errors.__all__ if issubclass(getattr(errors, name), BaseException)]

    assert sorted(there) == sorted(drawn)


def test_one_version() -> None:
    """What was installed says the version that the code says."""
    try:
        installed = importlib.metadata.version("isochat")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("isochat is on the path but not installed")

    assert installed == isochat.__version__


# ---- what its parts may know of one another


@pytest.mark.parametrize("module", [name for name in MODULES if name.partition(".")[0] not in {"__init__", "local"}])
def test_layers(module: str) -> None:
    """A module knows what is below it, never what is above it."""
    mine = layer(module)

    assert mine is not None, f"give isochat.{module} a place in LAYERS"

    known = {name for name in ours(module) if name.partition(".")[0] not in {"__init__", "local"}}

    assert set() == {(module, name) for name in known if (layer(name) or 0) > mine} - UPWARD


@pytest.mark.parametrize("module", BACKENDS)
def test_backends_do_not_know_one_another(module: str) -> None:
    """A backend can be read, changed and deleted on its own."""
    assert set() == ours(module) & (set(BACKENDS) - {module})


@pytest.mark.parametrize("module", [name for name in MODULES if name.partition(".")[0] == "local"])
def test_local_stands_apart(module: str) -> None:
    """The local endpoint shares nothing with the library: else one misreading is written twice and tested green."""
    assert [] == sorted(name for name in ours(module) if name.partition(".")[0] != "local")


def test_only_backends_use_transports() -> None:
    """How bytes travel is a backend's own business."""
    users = {module for module in MODULES if any(name.partition(".")[0] == "transports" for name in ours(module))}

    assert set() == {name for name in users if name.partition(".")[0] not in {"backends", "transports"}}


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.partition(".")[0] in {"_cli", "_cli_compare", "testing"}]
)
def test_what_stands_on_top_uses_the_public_names(module: str) -> None:
    """The command line and the test kit can do what any user can do, and nothing else."""
    own = module.partition(".")[0]
    modules = {name for name in ours(module) if name.partition(".")[0] != own}
    private = {
        f"{found.module}.{alias.name}"
        for found in at_run_time(tree(module))
        if isinstance(found, ast.ImportFrom) and (found.module or "").partition(".")[0] == "isochat"
        for alias in found.names
        if alias.name.startswith("_")
        and alias.name not in {"__version__", "_cli", "_cli_compare"}
        and _ours(found.module or "").partition(".")[0] != own
    }

    # The command line shows where each setting came from, which no public name tells yet; demo and
    # pipe are its own.
    own_rooms = {"_cli": {"_config", "_demo", "_stdout", "_cli_compare"}, "_cli_compare": {"_cli", "_compare"}}.get(
        own, set()
    )

    assert set() == modules - {"__init__", "backends", "errors", "local", "testing"} - own_rooms
    assert set() == private


def test_the_cli_is_only_started_from_main() -> None:
    """`python -m isochat` and `isochat` are one thing."""
    needs("__main__")

    assert ours("__main__") <= {"_cli", "_help", "_stdout", "__init__", "errors"}


# ---- what is loaded when


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages, beyond the standard library, that importing these brings into a bare interpreter."""
    names = run(f"""
        import importlib, sys
        before = set(sys.modules)
        for name in {modules!r}:
            importlib.import_module(name)
        print(*{{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names)
    """)
    return set(names.split())


# msgspec looks for typing_extensions and does without.
LIGHT = {"isochat", "msgspec", "typing_extensions"}


def test_import_isochat_is_light() -> None:
    """`import isochat` loads itself and msgspec: no client, no HTTP library, no pydantic."""
    assert set() == loaded_by("isochat") - LIGHT


def test_import_of_any_module_of_ours_loads_no_client() -> None:
    """Not even importing every backend does: a client is loaded when a backend is made."""
    if not BACKENDS:
        pytest.skip("no backend is there yet")

    assert set() == loaded_by("isochat", "isochat.backends", *(f"isochat.{name}" for name in BACKENDS)) - LIGHT


def test_what_is_heavy_is_named() -> None:
    """Every client an adapter imports is on the list this file guards against."""
    tops = {
        name.partition(".")[0] for module in BACKENDS for name in imported(tree(module)) if name != "__future__"
    } - sys.stdlib_module_names

    assert set() == tops - CLIENTS - LIGHT


# ---- the backends


def test_table_of_backends_matches_the_folder() -> None:
    """Each built-in backend is a file and a line of the table, in the order of the alphabet."""
    table = built_in()
    modules = {target.partition(":")[0].removeprefix("isochat.") for target in table.values()}

    assert sorted(table) == list(table)
    assert sorted(BACKENDS) == sorted(modules)


def test_backends_are_called_what_the_table_calls_them() -> None:
    """The class a table entry points to says the same name of itself."""
    for name, target in built_in().items():
        module, _, attribute = target.partition(":")

        assert name == getattr(importlib.import_module(module), attribute).name


@pytest.mark.parametrize("module", PURE)
def test_what_decides_does_not_act(module: str) -> None:
    """The codec reads no clock, no environment and no socket: what it needs it is given."""
    needs(module)

    assert set() == imported(tree(module)) & IMPURE


@pytest.mark.parametrize("module", BACKENDS)
def test_pure_ends(module: str) -> None:
    """A backend may read the environment to make its client; `encode` and `decode` read nothing."""
    ends = [
        node
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef) and node.name in {"encode", "decode", "decode_event"}
    ]
    named = {node.id for end in ends for node in ast.walk(end) if isinstance(node, ast.Name)}

    assert set() == named.union(*map(imported, ends)) & IMPURE
