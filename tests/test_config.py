"""Each setting is found where the documentation says, and nothing secret is shown on the way."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import pickle
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from isochat._config import NAMES, Name, Setting, Settings, recall, settings, unread, workspace_host
from isochat.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CANARY = "dapi0canary0secret0"
DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def project(home: Path) -> Path:
    project = home / "project"
    project.mkdir()
    return project


@pytest.fixture
def find(home: Path, project: Path) -> Callable[..., Settings]:
    """`settings()` in an empty home and an empty project, with nothing but the environment that is named."""

    def find(environ: Mapping[str, str] | None = None, /, cwd: Path | None = None, **arguments: object) -> Settings:
        return settings(arguments, environ=environ or {}, cwd=cwd or project, home=home)

    return find


@pytest.fixture
def profiles(home: Path) -> Path:
    """A `~/.databrickscfg` with two workspaces."""
    file = home / ".databrickscfg"
    file.write_text(
        "[DEFAULT]\nhost = https://default.example\ntoken = default-token\n"
        "[prod]\nhost = https://prod.example/\ntoken = prod-token\nwarehouse_id = prod-warehouse\n"
    )
    return file


def refusal(find: Callable[..., Settings], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        find(*args, **kwargs)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(caught.value)

    assert CANARY not in shown
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------- order


def test_defaults(find: Callable[..., Settings]) -> None:
    """Nothing set anywhere leaves the documented defaults, and says that they are defaults."""
    found = find()

    assert ("rest", 600.0, 3, False) == (found.backend, found.timeout, found.attempts, found.allow_http)
    assert found.endpoint is None
    assert found.warehouse_id is None
    assert {"default"} == {setting.source for setting in found}


@pytest.mark.parametrize("left_out", range(5))
def test_order(
    find: Callable[..., Settings], project: Path, home: Path, left_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments beat ISOCHAT_ variables, those the standard ones, those the project file, that the profile DEFAULT."""
    (home / ".databrickscfg").write_text("[DEFAULT]\nwarehouse_id = 4\n")
    if left_out < 4:
        (project / "isochat.toml").write_text('warehouse_id = "3"\n')
    environ = {}
    if left_out < 3:
        environ["DATABRICKS_WAREHOUSE_ID"] = "2"
    if left_out < 2:
        environ["ISOCHAT_WAREHOUSE_ID"] = "1"
    found = find(environ, warehouse_id="0" if left_out < 1 else None)
    sources = [
        "argument",
        "ISOCHAT_WAREHOUSE_ID",
        "DATABRICKS_WAREHOUSE_ID",
        "~/project/isochat.toml",
        "~/.databrickscfg [DEFAULT]",
    ]

    assert (str(left_out), sources[left_out]) == (found.warehouse_id, found.source("warehouse_id"))


def test_empty_is_not_set(find: Callable[..., Settings]) -> None:
    """An empty argument, variable or entry counts as not set."""
    found = find({"ISOCHAT_ENDPOINT": "", "DATABRICKS_HOST": ""}, endpoint="", host=None)

    assert found.endpoint is None
    assert "host" not in found


def test_environment_is_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment, the working directory and the home are those of the call, not those of the import."""
    monkeypatch.setenv("ISOCHAT_ENDPOINT", "set-after-the-import")

    assert settings().endpoint == "set-after-the-import"


def test_every_setting_has_a_variable_of_its_own(find: Callable[..., Settings]) -> None:
    """`ISOCHAT_<NAME>` works for every setting."""
    values = {"seconds": "1.5", "count": "2", "switch": "true"}
    for name in NAMES:
        if name.name in {"profile", "config_file"}:
            continue  # they need a file
        variable = f"ISOCHAT_{name.name.upper()}"

        value = name.choices[-1] if name.choices else values.get(name.kind, "text")

        assert variable == find({variable: value}).source(name.name), name.name


def test_variables_are_the_sdks_own() -> None:
    """The standard variables, the ways of logging in and what is secret are what databricks-sdk says."""
    config = pytest.importorskip("databricks.sdk.config").Config
    if tuple(map(int, importlib.metadata.version("databricks-sdk").split(".")[:2])) < (0, 156):
        pytest.skip("the list is that of 0.156")
    theirs = {a.name: (a.env, a.auth, a.sensitive) for a in config.attributes()}
    mine = {n.name: (n.variable, n.login, n.secret) for n in NAMES if n.name in theirs}

    assert {name: theirs[name] for name in mine} == mine
    assert set(mine) == {n.name for n in NAMES} - {
        "backend",
        "endpoint",
        "timeout",
        "attempts",
        "transport",
        "allow_http",
    }


# ------------------------------------------------------------------------------------------------------------ values


def test_bad_choice(find: Callable[..., Settings]) -> None:
    """One of a few names is one of them, and a sentence says which they are and where the other one stands."""
    said = "ISOCHAT_TRANSPORT must be 'httpx2' or 'pyreqwest', not 'pigeon'"

    assert said in refusal(find, {"ISOCHAT_TRANSPORT": "pigeon"})


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "1e999", "1,5"])
def test_bad_seconds(find: Callable[..., Settings], text: str) -> None:
    """A time limit that is no positive number is refused, naming the variable."""
    assert f"ISOCHAT_TIMEOUT must be a finite number of seconds above 0, not {text!r}" in refusal(
        find, {"ISOCHAT_TIMEOUT": text}
    )


@pytest.mark.parametrize("value", ["three", "0", "2.5", 1.5, True, -1])
def test_bad_count(find: Callable[..., Settings], value: object) -> None:
    """A number of attempts that is no whole number from 1 is refused, naming where it stands."""
    assert "attempts (argument) must be a whole number" in refusal(find, attempts=value)


@pytest.mark.parametrize(("text", "meant"), [("1", True), ("Yes", True), ("off", False), ("FALSE", False)])
def test_switch(find: Callable[..., Settings], text: str, meant: bool) -> None:  # noqa: FBT001
    """A switch may be said in the usual words, in any case."""
    assert find({"ISOCHAT_ALLOW_HTTP": text}).allow_http is meant


def test_bad_switch(find: Callable[..., Settings]) -> None:
    """A switch that is neither on nor off is refused."""
    assert "ISOCHAT_ALLOW_HTTP must be true or false, not 'maybe'" in refusal(find, {"ISOCHAT_ALLOW_HTTP": "maybe"})


def test_bad_text(find: Callable[..., Settings]) -> None:
    """A setting of the wrong type is refused by its type, without its value."""
    assert "host (argument) must be text, not int" in refusal(find, host=7)
    assert "token (argument) must be text, or a function that gives text, not bytes" in refusal(
        find, token=CANARY.encode()
    )


def test_value_that_does_not_hold_is_not_judged(find: Callable[..., Settings]) -> None:
    """What an argument overrides need not make sense."""
    assert find({"ISOCHAT_TIMEOUT": "soon"}, timeout=5).timeout == 5.0


def test_unknown_argument(find: Callable[..., Settings]) -> None:
    """An argument that is no setting is refused with the nearest name."""
    assert "There is no setting 'endpiont'\nDid you mean 'endpoint'" in refusal(find, endpiont="x")


# ------------------------------------------------------------------------------------------------------ project files


def test_project_file_is_found_upwards(find: Callable[..., Settings], project: Path) -> None:
    """A file in a folder above the working directory holds."""
    (project / "isochat.toml").write_text('endpoint = "mine"\ntimeout = 5\n')
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    found = find(cwd=deep)

    assert ("mine", 5.0) == (found.endpoint, found.timeout)


def test_pyproject(find: Callable[..., Settings], project: Path) -> None:
    """`[tool.isochat]` in pyproject.toml does the same, and is named so."""
    (project / "pyproject.toml").write_text('[tool.isochat]\nendpoint = "mine"\n')

    assert [Setting("endpoint", "mine", "~/project/pyproject.toml [tool.isochat]")] == [
        setting for setting in find() if setting.source != "default"
    ]


def test_isochat_toml_beats_pyproject(find: Callable[..., Settings], project: Path) -> None:
    """Where both are in one folder, isochat.toml holds, and the other is not read."""
    (project / "pyproject.toml").write_text("[tool.isochat]\nnonsense = 1\n")
    (project / "isochat.toml").write_text('endpoint = "mine"\n')

    assert find().endpoint == "mine"


def test_pyproject_of_others_is_passed_over(find: Callable[..., Settings], project: Path) -> None:
    """A pyproject.toml that says nothing of isochat, or is broken without naming it, does not end the search."""
    (project / "isochat.toml").write_text('endpoint = "mine"\n')
    for content in ("[project]\nname = 'x'\ndependencies = ['isochat']\n", "[[[broken"):
        inner = project / "package"
        inner.mkdir(exist_ok=True)
        (inner / "pyproject.toml").write_text(content)

        assert find(cwd=inner).endpoint == "mine"


@pytest.mark.parametrize("git", ["folder", "file"])
def test_search_ends_at_the_repository(find: Callable[..., Settings], project: Path, git: str) -> None:
    """A file above the repository (or above a work tree, whose .git is a file) does not hold."""
    (project / "isochat.toml").write_text('endpoint = "mine"\n')
    repository = project / "repository"
    repository.mkdir()
    _ = (repository / ".git").mkdir() if git == "folder" else (repository / ".git").write_text("gitdir: …")

    assert find(cwd=repository).endpoint is None


def test_search_ends_at_home(find: Callable[..., Settings], project: Path, home: Path) -> None:
    """The home is the last folder looked into."""
    (home.parent / "isochat.toml").write_text('endpoint = "above"\n')
    assert find().endpoint is None

    (home / "isochat.toml").write_text('endpoint = "home"\n')
    assert find().endpoint == "home"


@pytest.mark.skipif(sys.platform == "win32", reason="no sticky folders there")
def test_file_in_everybodys_folder_is_passed_over(find: Callable[..., Settings], tmp_path: Path) -> None:
    """A file where every user of the machine may put one does not decide where a token goes."""
    everybodys = tmp_path / "tmp"
    mine = everybodys / "mine"
    mine.mkdir(parents=True)
    (everybodys / "isochat.toml").write_text('host = "https://thief.example"\n')
    everybodys.chmod(0o1777)

    assert "host" not in find(cwd=mine)


def test_unknown_key(find: Callable[..., Settings], project: Path) -> None:
    """A key that is no setting is refused with the file and the nearest name."""
    (project / "isochat.toml").write_text('endpiont = "mine"\n')

    assert "~/project/isochat.toml: there is no setting 'endpiont'\nDid you mean 'endpoint'" in refusal(find)


def test_table_in_isochat_toml(find: Callable[..., Settings], project: Path) -> None:
    """Somebody who writes [isochat] into isochat.toml is told that it needs no table."""
    (project / "isochat.toml").write_text('[isochat]\nendpoint = "mine"\n')

    assert "the settings stand at the top level, in no table" in refusal(find)


def test_wrong_type_in_file(find: Callable[..., Settings], project: Path) -> None:
    """A value of the wrong type is refused with the file."""
    (project / "isochat.toml").write_text("endpoint = 3\n")
    assert "endpoint (~/project/isochat.toml) must be text, not int" in refusal(find)

    (project / "isochat.toml").write_text('attempts = "many"\n')
    assert "attempts (~/project/isochat.toml) must be a whole number" in refusal(find)


@pytest.mark.parametrize(
    "content", [f'endpoint = "x"\ntoken = "{CANARY}\n', f'endpoint = "x"\ntoken {CANARY}', f'a = 1\na = "{CANARY}"']
)
def test_malformed_file(find: Callable[..., Settings], project: Path, content: str) -> None:
    """A file that is no TOML is refused with its name and the line, never with what stands there."""
    (project / "isochat.toml").write_text(content)
    said = refusal(find)

    assert "~/project/isochat.toml is no valid TOML" in said
    assert "line 2" in said


def test_file_that_is_not_utf8(find: Callable[..., Settings], project: Path) -> None:
    """A file in another encoding is refused with the line."""
    (project / "isochat.toml").write_bytes(b'endpoint = "x"\nhost = "\xe4"\n')

    assert "isochat.toml is no valid TOML: line 2 is not UTF-8" in refusal(find)


@pytest.mark.parametrize("name", [name.name for name in NAMES if name.secret and name.in_project])
def test_secret_in_pyproject(find: Callable[..., Settings], project: Path, name: str) -> None:
    """A secret in pyproject.toml is refused, for that file gets committed; isochat.toml may hold it."""
    (project / "pyproject.toml").write_text(f'[tool.isochat]\n{name} = "{CANARY}"\n')
    assert f"{name} is a secret, and pyproject.toml gets committed" in refusal(find)

    (project / "isochat.toml").write_text(f'{name} = "{CANARY}"\n')
    assert find().get(name) == CANARY


@pytest.mark.parametrize("name", ["databricks_cli_path", "discovery_url", "metadata_service_url"])
def test_dangerous_key_in_project_file(find: Callable[..., Settings], project: Path, name: str) -> None:
    """A project file, which others may have written, chooses no program to run and no place to send a secret to."""
    (project / "isochat.toml").write_text(f'{name} = "./x"\n')

    assert f"{name} may not stand in a project file" in refusal(find)


def test_pyproject_is_cached_by_content(find: Callable[..., Settings], project: Path) -> None:
    """A changed file holds at once."""
    for endpoint in ("one", "two"):
        (project / "pyproject.toml").write_text(f'[tool.isochat]\nendpoint = "{endpoint}"\n')

        assert find().endpoint == endpoint


def test_working_directory_is_gone(find: Callable[..., Settings], tmp_path: Path) -> None:
    """A process whose working directory has been deleted still finds its settings."""
    program = (
        "import os, sys; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]);"
        "from isochat._config import settings; print(settings({'endpoint': 'x'}).endpoint)"
    )
    if sys.platform == "win32":
        pytest.skip("a working directory cannot be deleted there")
    run = subprocess.run([sys.executable, "-c", program, tmp_path / "gone"], capture_output=True, text=True, check=True)

    assert run.stdout == "x\n"


# ----------------------------------------------------------------------------------------------------------- profiles


def test_default_profile(find: Callable[..., Settings], profiles: Path) -> None:
    """With nothing else set, DEFAULT in ~/.databrickscfg holds."""
    found = find()

    assert ("https://default.example", "default-token") == (found.get("host"), found.get("token"))
    assert found.source("token") == "~/.databrickscfg [DEFAULT]"


def test_sections_lend_each_other_nothing(find: Callable[..., Settings], home: Path) -> None:
    """A profile without a token does not get DEFAULT's, as with databricks-sdk."""
    (home / ".databrickscfg").write_text("[DEFAULT]\ntoken = t\n[prod]\nhost = https://prod.example\n")

    assert "token" not in find(profile="prod")


def test_named_profile_is_as_strong_as_what_named_it(
    find: Callable[..., Settings], profiles: Path, project: Path
) -> None:
    """A profile named by an argument or by ISOCHAT_PROFILE beats DATABRICKS_HOST; a standard or file name does not."""
    environ = {"DATABRICKS_HOST": "https://env.example", "DATABRICKS_TOKEN": "env-token"}

    assert find(environ, profile="prod").get("token") == "prod-token"
    assert find(environ | {"ISOCHAT_PROFILE": "prod"}).get("token") == "prod-token"
    assert find(environ | {"DATABRICKS_CONFIG_PROFILE": "prod"}).get("token") == "env-token"
    (project / "isochat.toml").write_text('profile = "prod"\n')
    assert find(environ).get("token") == "env-token"
    assert find().get("token") == "prod-token"


def test_profile_that_is_not_there(find: Callable[..., Settings], profiles: Path) -> None:
    """A profile that is not in the file is refused with the nearest names, a missing file with its path."""
    assert "~/.databrickscfg has no profile 'pord'\nDid you mean 'prod'?" in refusal(find, profile="pord")

    profiles.unlink()
    assert "The profile 'prod' (argument) cannot be read: ~/.databrickscfg does not exist" in refusal(
        find, profile="prod"
    )


def test_another_profile_file(find: Callable[..., Settings], profiles: Path, project: Path) -> None:
    """config_file and its variables name another file; in a project file it is relative to that file."""
    other = project / "other.cfg"
    other.write_text("[DEFAULT]\nhost = https://other.example\ntoken = t\n")

    for found in (find(config_file=str(other)), find({"DATABRICKS_CONFIG_FILE": str(other)})):
        assert found.get("host") == "https://other.example"
    (project / "isochat.toml").write_text('config_file = "other.cfg"\n')
    assert find().get("host") == "https://other.example"
    assert find(config_file="~/.databrickscfg").get("host") == "https://default.example"


def test_default_profile_by_the_cli(find: Callable[..., Settings], profiles: Path) -> None:
    """`default_profile` under `[__settings__]`, which the Databricks CLI writes, names the profile."""
    with profiles.open("a") as file:
        file.write("[__settings__]\ndefault_profile = prod\n")

    assert find().get("host") == "https://prod.example/"
    assert "has no profile '__settings__'" in refusal(find, profile="__settings__")


@pytest.mark.parametrize(
    "content",
    [
        f"[DEFAULT]\ntoken {CANARY}\n",
        f"[DEFAULT]\ntoken = x\ntoken = {CANARY}\n",
        f"[{CANARY}]\n[{CANARY}]\n",
    ],
)
def test_malformed_profiles(find: Callable[..., Settings], profiles: Path, content: str) -> None:
    """A file that is no INI is refused with its name and line, never with what stands there."""
    profiles.write_text(content)

    assert re.search(r"~/.databrickscfg cannot be read: line [23] ", refusal(find))


def test_profiles_without_a_section(find: Callable[..., Settings], profiles: Path) -> None:
    """A file that begins without a section is refused likewise."""
    profiles.write_text(f"token = {CANARY}\n")

    assert "~/.databrickscfg cannot be read: line 1 " in refusal(find)


def test_profiles_are_not_read_without_need(find: Callable[..., Settings], profiles: Path) -> None:
    """As with databricks-sdk, a host and a login above the file leave it alone, broken as it may be."""
    profiles.write_text("broken")

    assert find({"DATABRICKS_HOST": "https://w.example", "DATABRICKS_TOKEN": "t"}).get("token") == "t"


def test_percent_is_nothing_special(find: Callable[..., Settings], profiles: Path) -> None:
    """A secret with a % in it is taken as it stands."""
    profiles.write_text("[DEFAULT]\nhost = https://w.example\ntoken = a%(b)s%\n")

    assert find().get("token") == "a%(b)s%"


def test_no_home(project: Path) -> None:
    """Without a home there are no profiles, and that is said."""
    project.joinpath(".git").mkdir()
    found = settings({}, environ={}, cwd=project, home=None)

    assert "host" not in found
    assert "~/.databrickscfg" in found.looked("host")


# ------------------------------------------------------------------------------------- whose token goes to which host


def test_token_of_another_workspace_is_not_used(find: Callable[..., Settings], profiles: Path) -> None:
    """A token that stands with another host is not sent to the host that holds, and that is said."""
    found = find(host="https://w.example")

    assert "token" not in found
    assert [
        (
            "token of ~/.databrickscfg [DEFAULT] was not used: it stands there with the host https://default.example, "
            "and the host is https://w.example (argument)"
        )
    ] == list(found.withheld)


def test_token_in_the_environment_of_another_workspace(find: Callable[..., Settings]) -> None:
    """The same holds between the argument and the environment, and for every kind of login."""
    environ = {"DATABRICKS_HOST": "https://env.example", "DATABRICKS_CLIENT_ID": "id", "DATABRICKS_CLIENT_SECRET": "s"}
    found = find(environ, host="https://w.example")

    assert {"client_id", "client_secret"}.isdisjoint(setting.name for setting in found)
    assert ("client_id", "client_secret") == found.unused


def test_token_without_a_host_is_used(find: Callable[..., Settings]) -> None:
    """A token that stands with no host belongs to the host that holds."""
    assert find({"DATABRICKS_TOKEN": "t"}, host="https://w.example").get("token") == "t"
    assert find({"DATABRICKS_HOST": "https://w.example"}, token="t").get("token") == "t"


@pytest.mark.parametrize("host", ["https://default.example/", "default.example", "https://DEFAULT.example:443/?o=1"])
def test_token_of_the_same_workspace_is_used(find: Callable[..., Settings], profiles: Path, host: str) -> None:
    """The same workspace, differently written, gets its token."""
    assert find(host=host).get("token") == "default-token"


def test_login_of_another_workspace_does_not_hide_the_right_one(find: Callable[..., Settings], profiles: Path) -> None:
    """A login in the environment for another workspace leaves the profile's for this one."""
    environ = {"DATABRICKS_HOST": "https://env.example", "DATABRICKS_TOKEN": "env-token"}

    assert find(environ, host="https://default.example").get("token") == "default-token"


def test_token_is_not_taken_to_the_host_of_a_profile_nobody_named(
    find: Callable[..., Settings], profiles: Path
) -> None:
    """A token in the environment does not go to DEFAULT's host unless the profile is named, as with databricks-sdk."""
    found = find({"DATABRICKS_TOKEN": "t"})

    assert "host" not in found
    assert "nothing says that the login (DATABRICKS_TOKEN) belongs to it" in found.withheld[0]
    assert find({"DATABRICKS_TOKEN": "t"}, profile="DEFAULT").get("host") == "https://default.example"


def test_warehouse_of_another_workspace_is_not_used(find: Callable[..., Settings], profiles: Path) -> None:
    """What means something in one workspace only is not carried to another either."""
    assert find({"DATABRICKS_WAREHOUSE_ID": "w"}, profile="prod").warehouse_id == "prod-warehouse"
    found = find(
        {"DATABRICKS_HOST": "https://env.example", "DATABRICKS_WAREHOUSE_ID": "w"}, host="https://w.example", token="t"
    )
    assert found.warehouse_id is None


def test_local_takes_no_ones_login(find: Callable[..., Settings], profiles: Path) -> None:
    """host='local' uses no token of a real workspace."""
    assert "token" not in find({"DATABRICKS_TOKEN": "t"}, host="local")
    assert "token" not in find({"ISOCHAT_HOST": "local", "ISOCHAT_TOKEN": "t"})
    assert find(host="local", token="t").get("token") == "t"


def test_higher_login_wins_whole(find: Callable[..., Settings]) -> None:
    """A token as an argument is not mixed with a service principal in the environment (databricks-sdk refuses that)."""
    environ = {
        "DATABRICKS_HOST": "https://w.example",
        "DATABRICKS_CLIENT_ID": "id",
        "DATABRICKS_CLIENT_SECRET": "s",
        "DATABRICKS_AUTH_TYPE": "oauth-m2m",
    }
    found = find(environ, token="t")

    assert "t" == found.get("token")
    assert {"client_id", "client_secret", "auth_type"}.isdisjoint(setting.name for setting in found)


def test_parts_of_one_login_may_come_from_several_places(find: Callable[..., Settings]) -> None:
    """The id in one place and the secret in another make one login."""
    found = find({"DATABRICKS_HOST": "https://w.example", "ISOCHAT_CLIENT_SECRET": "s"}, client_id="id")

    assert ("id", "s") == (found.get("client_id"), found.get("client_secret"))


def test_two_logins_in_one_place(find: Callable[..., Settings]) -> None:
    """Two logins in the environment are a conflict, which auth_type settles."""
    environ = {"DATABRICKS_HOST": "https://w.example", "DATABRICKS_TOKEN": "t", "DATABRICKS_CLIENT_ID": "id"}
    conflict = find(environ).conflict

    assert conflict is not None
    assert "DATABRICKS_TOKEN" in conflict
    assert "DATABRICKS_CLIENT_ID" in conflict
    settled = find(environ, auth_type="pat")
    assert settled.conflict is None
    assert settled.get("token") == "t"


def test_clouds_variables_come_after_the_databricks_ones(find: Callable[..., Settings]) -> None:
    """ARM_ variables, which are often there for Terraform, do not compete with DATABRICKS_TOKEN."""
    environ = {
        "DATABRICKS_HOST": "https://w.example",
        "DATABRICKS_TOKEN": "t",
        "ARM_CLIENT_ID": "i",
        "ARM_TENANT_ID": "t",
    }
    found = find(environ)

    assert (None, "t") == (found.conflict, found.get("token"))
    assert "azure_client_id" not in found


# ------------------------------------------------------------------------------------------------------------ reports


def test_places_looked_at(find: Callable[..., Settings], project: Path) -> None:
    """For any setting it can be said where it was looked for, in order."""
    assert (
        "argument host; ISOCHAT_HOST; DATABRICKS_HOST; isochat.toml or pyproject.toml [tool.isochat] "
        "(there is none from ~/project upwards); ~/.databrickscfg (no such file)"
    ) == find().looked("host")
    assert "GOOGLE_CREDENTIALS" in find().looked("google_credentials")


def test_other_tools_names_are_mentioned(find: Callable[..., Settings]) -> None:
    """Other tools' variables are mentioned, never read."""
    found = find({"DATABRICKS_API_BASE": "https://w.example", "DATABRICKS_API_KEY": CANARY})

    assert "host" not in found
    assert (
        "DATABRICKS_API_BASE is set, and isochat does not read it: it reads DATABRICKS_HOST",
        "DATABRICKS_API_KEY is set, and isochat does not read it: it reads DATABRICKS_TOKEN",
    ) == found.synonyms


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("ISOCHAT_BACKEN", "Did you mean ISOCHAT_BACKEND?"),
        ("ISOCHAT_end_point", "Did you mean ISOCHAT_ENDPOINT?"),
        ("ISOCHAT_ZZZ", None),
    ],
)
def test_a_variable_of_ours_that_is_not_read_is_known(variable: str, meant: str | None) -> None:
    """A misspelt variable can be told of; one that is empty, is read, or is another's cannot be wrong."""
    fine = {name.own_variable: "x" for name in NAMES} | {"ISOCHAT_NOTHING": "", "OTHER": "x"}

    assert [(variable, meant)] == unread({**fine, variable: "x"})


@pytest.mark.parametrize("name", [name.name for name in NAMES if name.secret])
def test_secrets_are_not_shown(find: Callable[..., Settings], home: Path, name: str) -> None:
    """No secret is in the repr of a setting or of all of them, wherever it was found, also after a copy."""
    (home / ".databrickscfg").write_text(f"[DEFAULT]\n{name} = {CANARY}\nhost = https://w.example\n")
    for found in (
        find(**{name: CANARY}),
        find({f"ISOCHAT_{name.upper()}": CANARY}),
        find({str(n.variable): CANARY for n in NAMES if n.name == name}),
        find(),
        find(host="https://other.example"),
    ):
        copies = [found, copy.deepcopy(found), pickle.loads(pickle.dumps(found))]
        said = [f"{one!r} {one} {list(one)} {one.setting(name)} {one.looked(name)}" for one in copies]

        assert CANARY not in "".join(said)
    assert find(**{name: CANARY}).get(name) == CANARY


def test_host_with_a_login_is_not_shown(find: Callable[..., Settings]) -> None:
    """A secret that somebody wrote into the host is not shown either."""
    found = find({"DATABRICKS_HOST": f"https://token:{CANARY}@w.example"})

    assert CANARY not in repr(found)


@pytest.fixture
def here(home: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process stands in the project, whose files nobody has touched for an hour."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(project)
    _write(project / "isochat.toml", 'endpoint = "first"\n')
    return project


def _write(file: Path, text: str, *, age: float = 3600.0) -> None:
    file.write_text(text)
    os.utime(file, (time.time() - age, time.time() - age))


def test_settings_are_remembered(here: Path) -> None:
    """What was found is not looked for again while it holds, by asyncio's callers without touching the disk."""
    assert recall({"host": "https://a.example"}) is None
    found = settings({"host": "https://a.example"})

    assert found.endpoint == "first"
    assert settings({"host": "https://a.example"}) is found
    assert recall({"host": "https://a.example"}, max_age=3600.0) is found
    assert recall({"host": "https://b.example"}) is None


@pytest.mark.parametrize(
    ("change", "endpoint"),
    [
        ("edit", "other"),
        ("delete", None),
        ("nearer", "other"),
        ("profile", "first"),
        ("variable", "other"),
        ("folder", None),
        ("repository", None),
    ],
)
def test_a_change_is_noticed(
    here: Path, home: Path, monkeypatch: pytest.MonkeyPatch, change: str, endpoint: str | None
) -> None:
    """Whatever could change a setting ends the remembering at once."""
    below = here / "below"
    below.mkdir()
    if change in ("nearer", "repository"):
        monkeypatch.chdir(below)
    assert (settings().endpoint, settings().get("host")) == ("first", None)

    match change:
        case "edit":
            _write(here / "isochat.toml", 'endpoint = "other"\n', age=1800.0)
        case "delete":
            (here / "isochat.toml").unlink()
        case "nearer":
            _write(below / "pyproject.toml", '[tool.isochat]\nendpoint = "other"\n')
        case "profile":
            _write(home / ".databrickscfg", "[DEFAULT]\nhost = https://a.example\n")
        case "variable":
            monkeypatch.setenv("ISOCHAT_ENDPOINT", "other")
        case "folder":
            monkeypatch.chdir(home)
        case _:
            (below / ".git").mkdir()

    after = settings()
    assert after.endpoint == endpoint
    assert after.get("host") == ("https://a.example" if change == "profile" else None)


def test_a_file_just_written_is_not_relied_on(here: Path) -> None:
    """It may be written again within the same tick of the disk's clock, and look the same."""
    stamp = time.time()
    for endpoint in ("one", "two"):
        (here / "isochat.toml").write_text(f'endpoint = "{endpoint}"\n')
        os.utime(here / "isochat.toml", (stamp, stamp))
        assert settings().endpoint == endpoint


def test_a_secret_among_the_arguments_is_not_remembered(here: Path) -> None:
    """A token that was given for one question is not kept beyond it."""
    given = {"host": "https://a.example", "token": CANARY}

    assert settings(given).get("token") == CANARY
    assert recall(given) is None


def test_cheap(find: Callable[..., Settings], profiles: Path, project: Path) -> None:
    """Finding everything takes a few milliseconds at most, files included."""
    (project / "pyproject.toml").write_text('[tool.isochat]\nendpoint = "mine"\n' + "[tool.x]\nkey = [1, 2, 3]\n")
    took = []
    for _ in range(50):
        begin = time.perf_counter()
        find()
        took.append(time.perf_counter() - begin)

    assert min(took) < 0.005  # 0.4 ms where it was measured


# ---------------------------------------------------------------------------------------------------------------- host


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://w.example", "https://w.example"),
        ("w.example", "https://w.example"),
        ("https://w.example/", "https://w.example"),
        ("HTTPS://W.Example:443", "https://w.example"),
        ("https://w.example:8443/", "https://w.example:8443"),
        ("w.example:8443", "https://w.example:8443"),
        ("https://adb-1.2.azuredatabricks.net/?o=123", "https://adb-1.2.azuredatabricks.net"),
        ("https://w.example/?o=123#", "https://w.example"),
        ("https://w.example/serving-endpoints", "https://w.example"),
        ("https://w.example/serving-endpoints/", "https://w.example"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("https://10.0.0.1", "https://10.0.0.1"),
        ("https://under_score.example", "https://under_score.example"),
    ],
)
def test_host_as_people_paste_it(written: str, meant: str) -> None:
    """What people paste becomes scheme, name and port, and stays so."""
    assert workspace_host(written) == meant
    assert workspace_host(meant) == meant


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("https://w.example/browse", "has a path: /browse"),
        ("https://w.example/ml/endpoints/x?o=1", "Say host='https://w.example'"),
        ("https://w.example/serving-endpoints/my%20model/invocations", "endpoint='my%20model'"),
        ("https://w.example/?x=1", "has a query"),
        ("https://user:dapi0canary0secret0@w.example", "holds a login before an @"),
        ("user:dapi0canary0secret0@w.example", "holds a login before an @"),
        ("https://w.example\n", "contains a line break"),
        ("https://w.example\r\nX-Evil: 1", "contains a line break"),
        (" https://w.example", "contains white space"),
        ("https://w.\x00example", "contains a control character"),
        ("ftp://w.example", "must begin with https://"),
        ("https://", "is no address"),
        ("https://w.example:port", "is no address"),
        ("https://w.example:99999", "is no address"),
        ("https://w..example", "is no address"),
        ("https://good.example\\.thief.example", "is no address"),
        ("https://wörkspace.example", "is no address"),
        ("https://[fe80::1%25eth0]", "is no address"),
        ("https://[::1", "is no address"),
        ("http://w.example", "unencrypted"),
        ("http://localhost.thief.example", "unencrypted"),
        ("http://127.0.0.1.thief.example", "unencrypted"),
        ("http://10.0.0.1", "unencrypted"),
        ("http://2130706433", "unencrypted"),
        ("http://0x7f.1", "unencrypted"),
        ("http://127.1", "unencrypted"),
        ("http://[::]", "unencrypted"),
        ("http://127.0.0.1@thief.example", "holds a login before an @"),
        ("http://127.0.0.1:80@thief.example:80", "holds a login before an @"),
        ("http://127。0。0。1", "is no address"),
        ("http://loca\u217chost", "is no address"),
        ("http://localhost%2ethief.example", "is no address"),
        ("http://localhost%00.thief.example", "is no address"),
        ("LOCAL", "Did you mean 'local', the local endpoint?"),
        ("loca", "Did you mean 'local', the local endpoint?"),
    ],
)
def test_host_that_is_refused(written: str, said: str) -> None:
    """What is no workspace address is refused with what to write, and without a secret."""
    with pytest.raises(ConfigurationError) as caught:
        workspace_host(written, source="DATABRICKS_HOST")

    assert said in str(caught.value)
    assert "DATABRICKS_HOST" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_http_where_it_is_allowed() -> None:
    """`allow_http` permits an unencrypted host that is not this machine."""
    assert workspace_host("http://host.docker.internal:8080", allow_http=True) == "http://host.docker.internal:8080"


# ---------------------------------------------------------------------------------------------------------------- docs


def test_the_documented_table() -> None:
    """docs/configuration.md lists every setting with its meaning, default and variable, as the code has them."""
    if not DOCUMENT.exists():
        pytest.skip("the docs are not here")

    def row(name: Name) -> str:
        default = f"{name.default:g}" if isinstance(name.default, float) else str(name.default or "").lower()
        cells = (name.name, "", "false" if name.kind == "switch" and name.default is False else default, name.variable)
        shown = [f"`{cell}`" if cell else "" for cell in cells]
        return f"| {shown[0]} | {name.means} | {shown[2]} | {shown[3]} |"

    rows = [row(name) for name in NAMES]
    text = DOCUMENT.read_text(encoding="utf-8")

    assert rows == [line for line in text.splitlines() if line in rows or re.match(r"\| `\w+` \|", line)]
    assert f"Secrets ({', '.join(f'`{name.name}`' for name in NAMES if name.secret)})" in text
