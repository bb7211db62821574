"""`outrider policy check|diff|schema` over a platform's and its teams' documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider.policy import json_schema
from support.commands import Ran
from support.policies import key, platform, team


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a platform and one team."""
    (tmp_path / "teams").mkdir()
    (tmp_path / "platform.yaml").write_text(json.dumps(platform()))
    (tmp_path / "teams/search.yaml").write_text(json.dumps(team()))
    return tmp_path


def test_check_takes_files_or_a_directory(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    by_directory = Ran(capsys, "policy", "check", str(folder), "--json")
    by_files = Ran(capsys, "policy", "check", str(folder / "platform.yaml"), str(folder / "teams"), "--json")
    assert by_directory.code == by_files.code == 0
    assert by_directory.json() == by_files.json()
    assert by_directory.json()["policy"]["teams"] == {"search": 2}
    assert "teams          search (2 tenants)" in Ran(capsys, "policy", "check", str(folder)).out


def test_check_names_each_file(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "platform.yaml").write_text(json.dumps({**platform(), "version": 2}))
    (folder / "teams/search.yaml").write_text(json.dumps({**team(), "team": "serch"}))
    ran = Ran(capsys, "policy", "check", str(folder))
    assert ran.code == 1
    assert [line.split(":")[0] for line in ran.err.splitlines()] == [
        str(folder / "platform.yaml"),
        str(folder / "teams/search.yaml"),
    ]
    assert "unknown team 'serch'; did you mean 'search'?" in ran.err


@pytest.mark.parametrize("names", [[], ["platform.yaml", "default.yaml"]])
def test_a_directory_must_tell_which_file_is_the_platforms(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, names: list[str]
) -> None:
    for name in names:
        (tmp_path / name).write_text(json.dumps(platform()))
    ran = Ran(capsys, "policy", "check", str(tmp_path))
    assert ran.code == 1
    assert "default.yaml" in ran.err


def test_check_refuses_a_key_that_is_over(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    document = team()
    document["tenants"]["site"]["keys"] = [key("site/web", expires="2020-02-29")]
    (folder / "teams/search.yaml").write_text(json.dumps(document))
    ran = Ran(capsys, "policy", "check", str(folder))
    assert ran.code == 1
    assert "tenants.site.keys[0].expires: the key expired on 2020-02-29; remove it or give a later day" in ran.err


def test_diff_speaks_and_its_exit_code_tells(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "new.yaml"
    document = platform()
    document["tenants"]["acme"]["models"] = ["flash"]
    other.write_text(json.dumps(document))
    same = Ran(capsys, "policy", "diff", str(folder), str(folder))
    assert (same.code, same.out.split(":")[0]) == (0, "nothing changes")
    arguments = ("policy", "diff", str(folder), str(other), "--new-team", str(folder / "teams/search.yaml"))
    ran = Ran(capsys, *arguments)
    assert (ran.code, ran.lines()) == (3, ["tenant acme: loses model pro"])
    found = Ran(capsys, *arguments, "--json").json()
    assert [change["what"] for change in found["changes"]] == ["models.pro"]
    assert found["sentences"] == ran.lines()
    other.write_text("version: 1\n")
    assert Ran(capsys, *arguments).code == 1


def test_schema_prints_or_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert Ran(capsys, "policy", "schema").json() == json_schema()
    file = tmp_path / "team.json"
    assert Ran(capsys, "policy", "schema", "--team", "--output", str(file)).out == ""
    assert json.loads(file.read_text()) == json_schema(team=True)
    refused = Ran(capsys, "policy", "schema", "--output", str(tmp_path))
    assert refused.code == 1
    assert "cannot be written" in refused.err
