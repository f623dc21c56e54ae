"""What `complete_or_absent` makes is whole, or is not there."""

import pytest

from symrun.files import complete_or_absent


def test_a_file_is_there_once_it_is_whole(tmp_path):
    target = tmp_path / "new" / "file"
    with complete_or_absent(target) as draft:
        draft.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and list(target.parent.iterdir()) == [target]


def test_an_error_leaves_nothing_and_spares_the_old(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), complete_or_absent(target) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_of_two_folders_the_earlier_stays_but_a_file_never_passes_for_a_folder(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").touch()
    with complete_or_absent(tmp_path / "target") as draft:
        draft.mkdir()
        (draft / "yours").touch()
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["mine"]
    with pytest.raises(OSError), complete_or_absent(tmp_path / "target") as draft:
        draft.write_text("a file")
