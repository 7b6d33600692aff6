"""From what a user types after --checkpoint to a folder, without the network."""

from pathlib import Path

import pytest

from rfm_live.errors import StartError
from rfm_live.places import checkpoint_folder, hub_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("facebook/musicgen-small", ("facebook/musicgen-small", None)),
        ("facebook/musicgen-small@main", ("facebook/musicgen-small", "main")),
        ("facebook/musicgen-small@refs/pr/3", ("facebook/musicgen-small", "refs/pr/3")),
        ("t5-base", None),
        ("a/b/c", None),
        ("../etc", None),
        ("a/..", None),
        ("a/b@../../x", None),
        ("a/b@", None),
        ("", None),
    ],
)
def test_a_hub_name_is_an_owner_a_name_and_perhaps_a_revision(
    name: str, expected: tuple[str, str | None] | None
) -> None:
    assert hub_name(name) == expected


def test_a_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "state_dict.bin").touch()
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("owner/name") == Path("owner/name")


def test_the_embedded_checkpoint_is_known_by_its_name() -> None:
    assert (checkpoint_folder("embedded") / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/no/such/folder"])
def test_what_is_no_checkpoint_is_told(name: str) -> None:
    with pytest.raises(StartError, match=r"holds no config\.json or state_dict\.bin"):
        checkpoint_folder(name)


def test_a_model_that_was_not_pulled_tells_the_command() -> None:
    with pytest.raises(StartError, match=r"rfm-live models pull nobody/nothing-of-this-name@v1$"):
        checkpoint_folder("nobody/nothing-of-this-name@v1")
