"""What ranks tell each other in text."""

import pytest
from distributed.standin import fails, run

from npbn.distributed.communicator import TEXT, agree, broadcast_text


def test_problems_are_named_by_rank_on_all_and_none_is_no_error():
    problems = ["", "the disk is full", "", "x is 3"]
    message = fails(4, lambda comm: agree(comm, problems[comm.rank], "here"))
    assert message == "here: rank 1: the disk is full; rank 3: x is 3"
    run(4, lambda comm: agree(comm, "", "here"))


def test_one_rank_has_its_own_problem_and_exchanges_nothing():
    def program(comm):
        agree(comm, "", "here")
        try:
            agree(comm, "the disk is full", "here")
        finally:
            assert comm.messages == []

    assert fails(1, program) == "here: the disk is full"


def test_a_long_problem_is_cut_also_within_a_letter():
    text = "x" * (TEXT - 1) + "é and more"
    message = fails(2, lambda comm: agree(comm, text if comm.rank else "", "here"))
    assert message == "here: rank 1: " + "x" * (TEXT - 1)


@pytest.mark.parametrize("text", ["", "x̂ = 1\n" * 1000])
def test_text_of_rank_0_comes_whole(text):
    def program(comm):
        return broadcast_text(comm, "mine" if comm.rank else text, "a text")

    assert run(3, program) == [text] * 3
