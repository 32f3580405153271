"""Which cell is which: ids, outputs and places stay with their cells, whatever a sync brings."""

import json

import pytest
from notebook_pairs import percent


def test_code_that_python_cannot_parse_is_synced_like_any_other(pair):
    long = " + ".join(["1"] * 5_000)  # a RecursionError
    pair.edit_nb("second = 2", f"second = {long}")
    pair.sync()
    pair.edit_py("second = 1 + ", "second = 2 + ")
    pair.sync()
    assert f"second = 2{long[1:]}" in pair.says()


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (["a = 1", "b = 2"], ["new = 0", "b = 2", "a = 1"], 2),
        (["plot()", "b = 2", "plot()"], ["new = 0", "plot()", "plot()", "b = 2"], 2),
        (["plot()", "b = 2", "plot()"], ["plot()", "plot()", "b = 2"], 3),
    ],
)
def test_cells_that_move_share_no_id_and_keep_their_outputs(pair, old, new, kept):
    pair.make(old)
    pair.execute()
    pair.py.write_text(percent(new))
    pair.sync()
    cells = pair.read()["cells"]
    assert len({cell["id"] for cell in cells}) == len(new)
    assert sum(bool(cell["outputs"]) for cell in cells) == kept


def test_a_cell_that_is_no_python_keeps_its_output_while_another_is_edited(pair):
    pair.make(["%%bash\necho hi", "second = 2"])
    outputs = pair.execute()
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    assert pair.outputs() == {"%%bash\necho hi": outputs["%%bash\necho hi"], "second = 22": ""}


def test_a_new_cell_of_an_old_notebook_gets_no_id(pair):
    nb = pair.read() | {"nbformat_minor": 4}
    for cell in nb["cells"]:
        del cell["id"]
    pair.write(nb)
    pair.edit_py("# %%\nthird", "# %%\nnew = 0\n\n# %%\nthird")
    pair.sync()
    assert not any("id" in cell for cell in pair.read()["cells"])


def test_blank_lines_after_an_edited_cell_are_none_of_it(pair):
    pair.edit_py("second = 2", "second = 22\n\n\n")
    pair.sync()
    assert pair.read()["cells"][2]["source"] == ["second = 22"]


def test_an_empty_cell_that_is_new_is_whole(pair):
    pair.edit_py("# %%\nthird", "# %%\n\n# %%\nthird")
    pair.sync()
    code = [cell for cell in pair.read()["cells"] if cell["cell_type"] == "code"]
    assert len(code) == 5
    assert all(cell["outputs"] == [] for cell in code)


def test_what_nobody_edited_of_a_notebook_stays_as_it_is_byte_for_byte(pair):
    nb = pair.read()
    nb["cells"][1]["source"] = ["first = 1\n"]  # some editors end a cell so
    pair.write(nb)
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    assert pair.read()["cells"][1]["source"] == ["first = 1\n"]
    pair.nb.write_text(json.dumps(pair.read(), indent=4))
    pair.edit_nb("third = 3", "third = 33")
    pair.nb.write_text(json.dumps(pair.read(), indent=4))
    before = pair.nb.read_bytes()
    pair.sync()
    assert pair.nb.read_bytes() == before


def test_a_file_that_only_spacing_differs_in_takes_the_other_halfs_edit(pair):
    pair.py.write_text(pair.py.read_text().replace("second = 2", "\n\nsecond = 2\n\n"))
    assert pair.sync() == ""
    pair.edit_nb("second = 2", "second = 22")
    pair.sync()
    assert "second = 22" in pair.says()


def test_cells_added_in_the_notebook_keep_their_place_whatever_the_spacing_of_the_other_half(pair):
    pair.make(["a = 1", "a = 1", "b = 2", "b = 2\na = 1"])
    spaced = "# %% \na = 1\n\n# %%\na = 1\n\n\n\n# %%\n\nb = 2\n#%%\nb = 2\na = 1\n\n\n"
    pair.py.write_text(spaced)
    assert pair.sync() == ""
    nb = pair.read()
    prose = {"cell_type": "markdown", "id": "new1", "metadata": {}, "source": ["a = 1"]}
    nb["cells"][3:3] = [prose, nb["cells"][0] | {"id": "new2", "source": ["x = 9"]}]
    pair.write(nb)
    pair.sync()
    assert pair.says() == ["a = 1", "a = 1", "b = 2", "a = 1", "x = 9", "b = 2\na = 1"]


@pytest.mark.slow
@pytest.mark.parametrize("edited", ["py", "nb", "gone"])
def test_a_cell_that_jupyter_saved_in_both_halves_is_not_written_twice(pair, edited):
    pair.edit_py("third = 3\n", "third = 3\n\n# %%\nnew = 1\n")
    nb = pair.read()
    at = next(n for n, cell in enumerate(nb["cells"]) if "third" in "".join(cell["source"]))
    new = {"cell_type": "code", "id": "new", "metadata": {}, "source": ["new = 1"]}
    nb["cells"].insert(at + 1, {**new, "outputs": [], "execution_count": None})
    pair.write(nb)
    if edited == "nb":
        pair.edit_nb("third = 3", "third = 33")
    else:
        pair.edit_py(*{"py": ("= 3", "= 33"), "gone": ("# %%\nthird = 3\n\n", "")}[edited])
    pair.sync()
    third = [] if edited == "gone" else ["third = 33"]
    assert pair.says()[4:-1] == [*third, "new = 1"]


@pytest.mark.slow
def test_a_cell_moved_in_one_half_and_edited_in_the_other_loses_neither(pair):
    nb = pair.read()
    nb["cells"].insert(1, nb["cells"].pop(4))  # `third = 3`
    pair.write(nb)
    pair.edit_py("third = 3", "third = 33")
    before = pair.py.read_text(), pair.nb.read_text()
    if pair.sync(check=False).returncode:
        assert (pair.py.read_text(), pair.nb.read_text()) == before
    else:
        assert "third = 33" in pair.says()
        assert pair.says()[1].startswith("third")


@pytest.mark.slow
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("half", ["py", "nb"])
def test_a_new_cell_deleted_after_a_stash_does_not_come_back_without_a_word(pair, half, more):
    pair.edit_py("third = 3\n", "third = 3\n\n# %%\nnew = 1\n\n# %%\nextra = 2\n")
    pair.sync()
    pair.project.git("stash", "-q")
    pair.project.git("stash", "pop", "-q")
    if half == "py":
        pair.edit_py("\n# %%\nextra = 2\n", "")
    else:
        nb = pair.read()
        nb["cells"] = [cell for cell in nb["cells"] if "extra" not in "".join(cell["source"])]
        pair.write(nb)
    if more:  # and in the other half a cell is added after it
        old, new = "extra = 2", "extra = 2\n\n# %%\nmore = 3"
        (pair.edit_nb if half == "py" else pair.edit_py)(old, new if half == "nb" else "extra = 22")
    done = pair.sync(check=False)
    assert done.returncode == 1 or not any("extra" in said for said in pair.says())
