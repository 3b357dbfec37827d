"""Which Keytoll a command asks, and whom the access token is given to."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from command_line import run_plain

from keytoll.cli.failure import Failure
from keytoll.cli.place import Local, Place, Remote, check_server, find_place
from keytoll.cli.signin import SignIn, config_file, read_signin, remove_signin, write_signin
from keytoll.core.errors import InvalidValue
from keytoll.core.secrets import KEY_PREFIX, TOKEN_PREFIX, mint

TOKEN, OTHER = (mint(TOKEN_PREFIX, bytes([number] * 32)) for number in (1, 2))
SERVER = "https://gateway.example.com"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def place(environment: Mapping[str, str], *, server: str | None = None, run_dir: str | None = None) -> Place:
    folder = None if run_dir is None else Path(run_dir)
    return find_place(server=server, run_dir=folder, environment=environment)


def signed_in(environment: Mapping[str, str], server: str = SERVER) -> Path:
    write_signin(config_file(environment), SignIn(server, TOKEN))
    return config_file(environment)


def test_where_nothing_is_said_it_is_the_keytoll_of_the_run_folder_here(environment: dict[str, str]) -> None:
    assert place(environment) == Local(Path("run"))


def test_options_count_more_than_the_environment_and_that_more_than_a_sign_in(environment: dict[str, str]) -> None:
    signed_in(environment)
    assert place(environment) == Remote(SERVER, TOKEN)
    environment["RUN_DIR"] = "there"
    assert place(environment) == Local(Path("there"))
    environment |= {"KEYTOLL_SERVER": "https://other.example.com", "KEYTOLL_ACCESS_TOKEN": OTHER}
    assert place(environment) == Remote("https://other.example.com", OTHER)
    assert place(environment, run_dir="elsewhere") == Local(Path("elsewhere"))
    assert place(environment, server=SERVER) == Remote(SERVER, OTHER)


def test_the_token_of_a_sign_in_goes_to_no_other_server(environment: dict[str, str]) -> None:
    signed_in(environment)
    for other in ("https://gateway.example.com:444", "https://gateway.example.com.evil.example", "http://127.0.0.1"):
        with pytest.raises(Failure, match=f"not signed in at {other}: run `keytoll login --server {other}`"):
            place(environment, server=other)
    assert place(environment, server=f"{SERVER}/") == Remote(SERVER, TOKEN)


def test_a_token_is_in_no_picture_of_a_place(environment: dict[str, str]) -> None:
    signed_in(environment)
    assert TOKEN not in repr(place(environment)) + repr(read_signin(config_file(environment)))


@pytest.mark.parametrize(
    ("given", "server"),
    [
        ("https://gateway.example.com/", "https://gateway.example.com"),
        ("https://example.com/llm/", "https://example.com/llm"),
        ("http://127.0.0.1:8081/api/v1", "http://127.0.0.1:8081"),
        ("http://[::1]:8081", "http://[::1]:8081"),
        ("http://localhost:8081", "http://localhost:8081"),
    ],
)
def test_an_address_is_taken_as_people_have_it(given: str, server: str) -> None:
    assert check_server(given) == server


@pytest.mark.parametrize(
    "given",
    [
        "",
        "gateway.example.com",
        "ftp://gateway.example.com",
        "https://",
        "https://me:secret@gateway.example.com",
        "https://gateway.example.com?x=1",
        "https://gateway.example.com:99999",
        "https://gate\nway.example.com",
        "http://gateway.example.com",
        "http://10.0.0.1:8081",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@gateway.example.com",
    ],
)
def test_what_is_no_address_or_would_show_the_token_to_the_network_is_refused(given: str) -> None:
    with pytest.raises(InvalidValue, match="server: must be"):
        check_server(given)


def test_a_sign_in_is_for_its_owner_alone_from_its_first_byte_on(environment: dict[str, str]) -> None:
    file = signed_in(environment)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert read_signin(file) == SignIn(SERVER, TOKEN)
    write_signin(file, SignIn(SERVER, OTHER))
    assert read_signin(file) == SignIn(SERVER, OTHER)
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]
    assert remove_signin(file)
    assert not remove_signin(file)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_sign_in_that_others_may_read_is_refused_with_what_to_do(environment: dict[str, str], mode: int) -> None:
    file = signed_in(environment)
    file.chmod(mode)
    with pytest.raises(Failure, match=f"run `chmod 600 {file}`"):
        place(environment)
    assert place(environment, run_dir="run") == Local(Path("run"))


def test_a_sign_in_of_another_user_is_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in(environment)
    uid = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(Failure, match="belongs to another user"):
        place(environment)


@pytest.mark.parametrize(
    "text",
    [
        "server = 1\naccess_token = 'x'",
        "server = 'https://x'",
        "nonsense",
        "\xff",
        "server='a'\naccess_token='b'\nmore=1",
    ],
)
def test_a_sign_in_that_is_none_is_one_line(environment: dict[str, str], text: str) -> None:
    file = signed_in(environment)
    file.write_text(text, encoding="latin-1")
    with pytest.raises(Failure, match=str(file)) as raised:
        place(environment)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (mint(KEY_PREFIX, bytes(32)), "KEYTOLL_ACCESS_TOKEN is an API key"),
        (TOKEN[:-1] + "_", "KEYTOLL_ACCESS_TOKEN is no access token, or mistyped"),
        ("hunter2", "KEYTOLL_ACCESS_TOKEN is no access token"),
    ],
)
def test_what_is_no_access_token_is_not_sent_nor_shown(environment: dict[str, str], given: str, told: str) -> None:
    environment |= {"KEYTOLL_SERVER": SERVER, "KEYTOLL_ACCESS_TOKEN": given}
    with pytest.raises(Failure, match=told) as raised:
        place(environment)
    assert given not in str(raised.value)


def test_a_relative_folder_of_configuration_is_ignored() -> None:
    assert config_file({"XDG_CONFIG_HOME": "here"}) == Path.home() / ".config" / "keytoll" / "config.toml"


async def test_two_places_at_once_are_a_wrong_usage() -> None:
    ran = await run_plain("keys", "list", "--server", SERVER, "--run-dir", "run")
    assert (ran.code, "Give only one of --server and --run-dir" in ran.err) == (2, True)
