from __future__ import annotations

import pytest
from recited import GIVES_UP, GOES_ON, MakeSession

from aha.play.scene import Row, Scene
from aha.play.session import Draw, Session, Tally, who_plays
from aha.rollout.base import Partial
from aha.tasks.countdown import make_problem


def last_scene(session: Session, problem: str = "15 from 3 13 5", samples: int = 1) -> Scene:
    *_, scene = session.play(session.typed(problem), Draw(samples))
    return scene


def said(session: Session, problem: str = "15 from 3 13 5") -> str:
    scene = last_scene(session, problem)
    return scene.lanes[0].summary


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOES_ON, "right after 2 given-up tries, 56 tokens"),
        (GIVES_UP, "wrong at the first try, 25 tokens: it is 44, not 15"),
        (
            "5 - 3 = 2 , 13 + 2 = 15 , yes . </think> <answer> 13 + ( 5 - 3 ) </answer>",
            "right at the first try, 24 tokens",
        ),
        (
            "no . Wait, yes . </think> so <answer> 13 + 5 - 3 </answer>",
            "right after 1 given-up try, but not in the layout, 14 tokens",
        ),
        ("so </think> 15", "wrong at the first try, 3 tokens: there is no answer block"),
    ],
)
def test_what_became_of_a_completion(text: str, expected: str, make_session: MakeSession) -> None:
    assert said(make_session(one=[text])) == expected


def test_a_text_that_was_cut_off_says_so(make_session: MakeSession) -> None:
    found = said(make_session(one=[GOES_ON], limit=20))
    assert found == "cut off after 1 given-up try, 20 tokens: there is no answer block"


def test_without_a_gold_answer_nothing_is_judged(make_session: MakeSession) -> None:
    task = ["task.name=gsm8k", "prompt.style=r1"]
    one = make_session(task, one=["6 * 7 = 42 . Wait, yes . </think> <answer> 42 </answer>"])
    assert said(one, "What is 6 * 7?") == (
        "ended after turning back once, 13 tokens; not judged: no answer is known"
    )
    assert said(one, "What is 6 * 7? #### 42") == "right after turning back once, 13 tokens"
    assert said(one, "What is 6 * 7? #### 43") == (
        "wrong after turning back once, 13 tokens: the answer is '42', not 43"
    )


def test_several_completions_are_counted(make_session: MakeSession) -> None:
    scene = last_scene(make_session(one=[GOES_ON, GIVES_UP]), samples=4)
    summary = scene.lanes[0].summary
    # (56 + 25) / 2 tokens, (2 + 0) / 2 tries.
    assert summary == "2 of 4 right, 40 tokens and 1.0 given-up tries on average"


def test_both_readings_are_told_apart(make_session: MakeSession) -> None:
    scene = last_scene(make_session(one=["</think> so <answer> 13 + 5 - 3 </answer>"]))
    row = scene.lanes[0].rows[0]
    assert row.kind == "lenient"
    assert row.details == "strict ✗ · lenient ✓"
    assert (scene.lanes[0].right, scene.lanes[0].judged) == (0, 1)


def test_sums_are_counted() -> None:
    problem = make_problem([3, 13, 5], 15)
    for text, expected in (
        (GOES_ON, "5 of 6 sums true"),
        ("1 + 1 = 2 .", "1 of 1 sum true"),
        ("no", ""),
    ):
        assert Row(problem, Partial(text, (), (), "stop")).details == expected


def test_how_far_two_models_wrote_the_same(make_session: MakeSession) -> None:
    def parting(session: Session, samples: int = 1) -> list[str]:
        scene = last_scene(session, samples=samples)
        return [sentence for sentence in scene.summary() if sentence.startswith("Both")]

    # The first 15 words of the two texts are the same.
    (said,) = parting(make_session(base=[GIVES_UP], trained=[GOES_ON]))
    assert "wrote the same 15 tokens" in said
    assert parting(make_session(a=[GOES_ON], b=[GOES_ON])) == ["Both wrote the same."]
    assert parting(make_session(a=[GOES_ON], b=["no"])) == []
    assert parting(make_session(a=[GOES_ON])) == []
    assert parting(make_session(a=[GOES_ON], b=[GIVES_UP]), samples=2) == []


def test_the_tally_counts_games(make_session: MakeSession) -> None:
    scene = last_scene(make_session(base=[GIVES_UP], trained=[GOES_ON]), samples=2)
    tally = Tally().with_game(scene)
    assert str(tally) == ""
    assert str(tally.with_game(scene)) == "so far: base 0 of 4, trained 4 of 4"


def test_who_plays() -> None:
    assert who_plays(["a", "b"]) == "a beside b"
    assert who_plays(["a"]).startswith("a alone; --against MODEL")
