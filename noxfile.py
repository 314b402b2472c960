"""Every check of isochat: `python3 -m nox` runs them all.

| session | asks |
|---|---|
| `lint` | Is it formatted, and does ruff agree? |
| `types` | Do mypy and pyright agree on the code, and on what a caller sees of it? |
| `report` | Can a comparison's report be read, used and heard in the Chromium of this machine? |
| `docs` | Do the docs build without a warning, and does every block of them and of the README run? |
| `tests` | Does it work, on each Python, with each set of clients? |
| `extras` | Does each extra work alone, with nothing else installed, and does all that is absent say how to get it? |
| `lowest` | Do the backends work with the lowest versions that pyproject.toml allows? |
| `dist` | Do the built files hold what they should, and does the wheel pass tests with no source beside it? |
| `fuzz` | Does it still hold in 10,000 cases of each kind, made by chance? Not run by default. |
| `coverage` | Which lines did no test reach? Not run by default. |
| `audit` | Has anything that is installed a known weakness? Not run by default: it asks the network. |
| `bench` | What does it cost beside the clients? Not run by default; `-- --quick` takes a few minutes. |

`tests` takes a Python and a set of clients: `nox -s "tests(3.12, openai 2)"`. `nox -s tests` runs every pair, which is
slow and mostly says the same thing again. The default run holds the pairs that can differ:

* `openai 2`, every client, because LangChain's demands it by way of databricks-openai, on the oldest Python found: all
  there is, the great matrices among it;
* `openai 3`, every client but LangChain at its newest, on each of the others, and on all of them but the newest without
  the matrices of faults, conversations, payloads and secrets;
* `base`, the two dependencies that every user has and not one client, on the newest.

Where clients are installed, the tests are told so by `ISOCHAT_REQUIRE`: then a client that is absent fails the run, and
is not skipped.

A Python that is not on the machine is skipped and named in the summary at the end. None is ever downloaded.
`nox -R` reuses the environments of the run before; the package is installed in editable form, so it sees your changes.
Arguments after `--` go to pytest.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
CLIENTS = {
    # Everything but LangChain, whose databricks-openai demands openai 2.
    "openai 3": ["-e", ".[ai-query,databricks-sdk,mlflow,openai,openai-responses,fast,local,cli]", "openai>=3,<4"],
    "openai 2": ["-e", ".[all]"],
    "base": ["-e", "."],
}

OPTIONAL = PYPROJECT["project"]["optional-dependencies"]
EXTRAS = [name for name in OPTIONAL if name != "all"]
BACKENDS = [name for name in EXTRAS if (ROOT / "src/isochat/backends" / f"{name.replace('-', '_')}.py").exists()]
SUITES = [*BACKENDS, "fast"]  # `rest` is held to the suite once more, with what it sends with instead

nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False  # CI included: which Pythons a machine has is not ours to decide
os.environ["UV_PYTHON_DOWNLOADS"] = "never"
os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # whom pip trusts, uv trusts


@functools.cache
def interpreter(version: str) -> str | None:
    """The path of a working Python of that version, or None.

    Each candidate is run and asked, because a file of the right name proves nothing: a pyenv shim such as
    `python3.12` is there for any version that was ever installed, and fails unless that version is switched on.
    """
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [
        *(Path(folder, name) for folder in os.get_exec_path()),
        *sorted(pyenv.glob(f"versions/{version}*/bin/python"), reverse=True),
        Path("/usr/bin", name),
        Path(sys.executable),
    ]
    ask = "import sys; print('{}.{}'.format(*sys.version_info), sys.executable)"
    for candidate in candidates:
        if not os.access(candidate, os.X_OK):
            continue
        told = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)  # noqa: S603 - our own list
        if told.returncode == 0 and (answer := told.stdout.strip().partition(" "))[0] == version:
            return answer[2]
    return None


FOUND = [version for version in PYTHONS if interpreter(version)]
OLDEST, NEWEST = (interpreter(version) for version in ((FOUND or PYTHONS)[0], (FOUND or PYTHONS)[-1]))
# The newest Python for which pip finds what the extra asks for (pyproject.toml).
SUITED = {"langchain": next((interpreter(version) for version in ("3.12", "3.11") if version in FOUND), NEWEST)}
MATRIX = [(version, clients) for version in PYTHONS for clients in CLIENTS]
TELLING = [
    *((version, "openai 2") for version in FOUND[:1]),
    *((version, "openai 3") for version in PYTHONS if len(FOUND) < 2 or version not in FOUND[:1]),
    *((version, "base") for version in FOUND[-1:]),
]
# Thousands of cells each, and nothing in them that the others do not hang on as well.
FAULTS = ["tests/faults", "tests/test_conversations.py"]
MATRICES = [
    *FAULTS,
    "tests/test_samples.py",
    "tests/backends/test_wire_samples.py",
    "tests/test_secrets.py",
    "tests/test_strangers.py",
    "tests/test_load.py",
]
nox.options.sessions = [
    "lint",
    "types",
    "report",
    "docs",
    *(f"tests({version}, {clients})" for version, clients in MATRIX if (version, clients) in TELLING),
    "extras",
    "lowest",
    "dist",
]


def group(name: str) -> list[str]:
    """The requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def lower(requirement: str) -> str:
    """A requirement, pinned to the lowest version that it allows."""
    said = Requirement(requirement)
    (bound,) = (clause.version for clause in said.specifier if clause.operator == ">=")
    return f"{said.name}=={bound}"


def suite(backend: str) -> str:
    """What selects the tests of a backend in the suite: `TestOpenAI`, not `TestOpenAIResponses`."""
    others = [other for other in BACKENDS if other.startswith(backend) and other != backend]
    return " and not ".join(f"test{name.replace('-', '')}" for name in (backend, *others))


def required(*requirements: str) -> dict[str, str]:
    """What tells the tests that these have to be there: the extras of isochat that are asked for, and the rest."""
    asked = [extra for said in requirements for extras in re.findall(r"\[(.+)\]", said) for extra in extras.split(",")]
    return {"ISOCHAT_REQUIRE": ",".join([*asked, *(Requirement(said).name for said in group("test"))])}


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", "--diff", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types: mypy all of it, pyright what a caller sees."""
    session.install("-e", ".[all]", *group("typing"), *group("test"))
    session.run("mypy")
    session.run("pyright", "tests/typing")
    session.run("pyright", "--verifytypes", "isochat", "--ignoreexternal")


@nox.session
def report(session: nox.Session) -> None:
    """Look at a comparison's report in a browser, where there is one."""
    session.install("-e", ".[all]", *group("test"), *group("browser"))
    session.run("pytest", "-p", "no:cacheprovider", *session.posargs, "tests/test_report.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the docs, run every block in them, read the changelog fragments."""
    session.install("-e", ".[all]", *group("docs"), *group("browser"))
    built = ROOT / "docs" / "_build"
    shutil.rmtree(built, ignore_errors=True)
    session.run("sphinx-build", "-W", "-n", "-E", "--keep-going", "-q", "docs", str(built / "html"))
    session.run("pytest", "-p", "no:cacheprovider", *session.posargs, "README.md", "CONTRIBUTING.md", "docs")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
@nox.parametrize(
    ("python", "clients"),
    [
        nox.param(interpreter(version) or version, clients, id=f"{version}, {clients}", tags=[version])
        for version, clients in MATRIX
    ],
)
def tests(session: nox.Session, clients: str) -> None:
    """Run the tests on one Python with one set of clients."""
    session.install(*CLIENTS[clients], *group("test"), *([] if clients == "base" else group("test-shapes")))
    without: list[str] = []
    if clients == "openai 3" and len(FOUND) > 1:
        without = [f"--ignore={path}" for path in (FAULTS if session.python == NEWEST else MATRICES)]
    session.run("pytest", "-n", "2", *without, *session.posargs, env=required(*CLIENTS[clients]))


@nox.session
@nox.parametrize(("python", "extra"), [nox.param(SUITED.get(extra, NEWEST), extra, id=extra) for extra in EXTRAS])
def extras(session: nox.Session, extra: str) -> None:
    """Install one extra into a clean environment, look at what is there, and hold its backend to the suite."""
    session.install("-e", f".[{extra}]")
    session.run("python", "tests/alone.py", extra)
    if extra in SUITES:
        session.install("-e", f".[{extra},local]", *group("test"))
        suites = ["-n", "2", "-k", f"({suite(extra)}) and test_says", "tests/backends"]
        session.run("pytest", *suites, *session.posargs, env=required(f"[{extra},local]"))


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """Hold the backends, the command line and SQL to their tests with the lowest versions of all that they need.

    What isochat's tests know of the newest clients only (their keywords, their surprises) is left out.
    """
    # databricks-langchain says itself which versions of the others it wants.
    asked = [extra for extra in EXTRAS if extra != "langchain"]
    wanted = [*PYPROJECT["project"]["dependencies"], *(said for extra in asked for said in OPTIONAL[extra])]
    session.install(*sorted({lower(said) for said in wanted}))
    session.install("--no-deps", "-e", ".")
    session.install(*group("test"))
    tested = [*(suite(extra) for extra in SUITES if extra in asked), "testrest", "test_cli", "test_sql"]
    files = ["tests/backends", "tests/local/test_sql.py", "tests/test_cli.py"]
    arguments = ["-n", "2", "-k", " or ".join(f"({name})" for name in tested), *files, *session.posargs]
    session.run("pytest", *arguments, env=required(f"[{','.join(asked)}]"))


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Run what is made by chance 10,000 times over: replies, streams through every client, orders of doing things."""
    session.install(*CLIENTS["openai 3"], *group("test"), *group("test-shapes"))
    made_by_chance = ("tests/test_properties.py", "tests/test_machines.py", "tests/faults/test_streams.py")
    # However long a case takes: a run that hangs is shown by the tests that everybody runs.
    session.run(
        *("pytest", "-n", "2", "-o", "faulthandler_timeout=0", *(session.posargs or made_by_chance)),
        env={"ISOCHAT_EXAMPLES": os.environ.get("ISOCHAT_EXAMPLES", "10000")},
    )


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Say which lines and branches no test reaches."""
    session.install(*CLIENTS["openai 2"], *group("test"), *group("test-shapes"), *group("coverage"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", success_codes=[0, 1])
    session.run("coverage", "report")


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Look for known weaknesses in what is installed; without a network, in a list of ours."""
    session.install("-e", ".[all]", *group("audit"))
    session.run("python", ".ci/audit.py")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure isochat beside the clients and write docs/performance.md."""
    session.install("-e", ".[all]", *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def dist(session: nox.Session) -> None:
    """Build the wheel and the sdist, look inside, and test the wheel away from its source."""
    session.install("build")
    work = Path(session.create_tmp()).resolve()
    shutil.rmtree(work)
    work.mkdir()
    session.run("python", "-m", "build", "--outdir", str(work), str(ROOT), silent=True)
    (wheel,) = work.glob("*.whl")
    (sdist,) = work.glob("*.tar.gz")
    _inspect(session, wheel, sdist)

    # The tests come out of the sdist, which proves they are in it. `src` stays in it: only the wheel can be imported.
    with tarfile.open(sdist) as archive:
        archive.extractall(work, [m for m in archive if _within(m.name) in {"tests", "pyproject.toml"}], filter="data")
    (tree,) = work.glob("isochat-*/")
    session.install(f"{wheel}[all]", *group("test"), *group("test-shapes"))
    session.chdir(tree)
    # What the clients do is no other here; whether all that is needed is in the wheel is.
    without = [f"--ignore={path}" for path in (*MATRICES, "tests/backends")]
    session.run("pytest", "-n", "2", "-p", "no:cacheprovider", *without, *session.posargs, env=required("[all]"))


def _inspect(session: nox.Session, wheel: Path, sdist: Path) -> None:
    """Fail unless the wheel is the package and no more, and the sdist is what a packager needs to build and test it."""
    source = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "isochat").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    if packed != source:
        session.error(f"the wheel differs from src/: {sorted(packed ^ source)}")
    with tarfile.open(sdist) as archive:
        held = {_within(member.name) for member in archive}
    wanted = {
        "src",
        "tests",
        "docs",
        "changelog.d",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "noxfile.py",
        "conftest.py",
    }
    if missing := wanted - held:
        session.error(f"the sdist lacks {sorted(missing)}")
    session.log(f"{wheel.name}: {len(packed)} files; {sdist.name}: {', '.join(sorted(held))}")


def _within(member: str) -> str:
    """`isochat-0.1.0/tests/test_public.py` → `tests`."""
    return member.split("/", 2)[1] if "/" in member else ""
