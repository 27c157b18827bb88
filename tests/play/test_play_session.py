from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recited import GIVES_UP, GOES_ON, MakeSession

from aha.play.session import FRAME_S, Draw, Session, frames, open_session
from aha.rollout.base import SamplingSettings
from aha.tasks.prompts import ask
from aha.types import UserError


def test_the_last_scene_is_what_the_engines_generate(session: Session) -> None:
    problem = session.random_problem(3)
    *_, scene = session.play(problem, Draw(samples=3, temperature=0.8, seed=5))
    assert scene.over
    for player, lane in zip(session.players, scene.lanes, strict=True):
        prompts = ask((problem,), player.recipe, player.loaded.tokenizer)
        settings = SamplingSettings(session.limit, 0.8)
        (expected,) = player.loaded.engine.generate(prompts, 3, settings, seed=5)
        assert tuple(row.partial.completion for row in lane.rows) == expected
        assert lane.written == sum(len(one.token_ids) for one in expected)
        assert lane.seconds > 0
        assert all(row.verdict is not None for row in lane.rows)


def test_a_verdict_comes_when_a_row_has_ended(make_session: MakeSession) -> None:
    session = make_session(base=[GIVES_UP], trained=[GOES_ON])
    scenes = list(session.play(session.typed("15 from 3 13 5"), Draw()))
    assert len(scenes) == 56
    for count, scene in enumerate(scenes, start=1):
        (base,), (trained,) = (lane.rows for lane in scene.lanes)
        assert len(trained.partial.token_ids) == count
        assert (base.verdict is not None) == (count >= 25)
        assert (trained.verdict is not None) == (count == 56)
        assert scene.over == (count == 56)
    assert base.outcome == "wrong at the first try, 25 tokens: it is 44, not 15"


def test_time_is_each_model_s_own(make_session: MakeSession) -> None:
    made = make_session(base=["one two"], trained=["one two three four"])
    ticks = iter(range(1_000))
    session = Session(made.players, made.recipe, 240, clock=lambda: float(next(ticks)))
    *_, scene = session.play(session.typed("15 from 3 13 5"), Draw())
    assert [lane.seconds for lane in scene.lanes] == [2.0, 4.0]
    assert [lane.speed for lane in scene.lanes] == ["1 tokens/s", "1 tokens/s"]


def test_a_game_that_is_left_ends_its_streams(make_session: MakeSession, session: Session) -> None:
    made = make_session(base=[GIVES_UP], trained=[GOES_ON])
    scenes = made.play(made.typed("15 from 3 13 5"), Draw())
    next(scenes)
    scenes.close()
    assert all(player.loaded.engine.closed for player in made.players)  # type: ignore[attr-defined]
    real = session.play(session.typed("15 from 3 13 5"), Draw())
    next(real)
    assert not torch.is_inference_mode_enabled()
    real.close()


def test_frames_keep_the_pace_and_end_with_the_last_scene(make_session: MakeSession) -> None:
    session = make_session(base=[GIVES_UP], trained=[GOES_ON])
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    scenes = session.play(session.typed("15 from 3 13 5"), Draw())
    shown = []
    for scene in frames(session, scenes, 12.0, clock=lambda: now, sleep=sleep):
        shown.append(scene)
        rows = [row for lane in scene.lanes for row in lane.rows]
        longest = max(len(row.partial.token_ids) for row in rows)
        assert longest <= 12 * now + 1e-6 or scene.over
    # 56 tokens at 12 a second, 12 frames a second.
    assert now == pytest.approx(56 / 12, abs=2 * FRAME_S)
    assert 55 <= len(shown) <= 114
    assert [scene.over for scene in shown[-2:]] == [False, True]
    assert {lane.name for lane in shown[-1].lanes} == {"base", "trained"}


def test_without_a_pace_frames_only_thin_out(make_session: MakeSession) -> None:
    session = make_session(one=[GOES_ON])
    scenes = session.play(session.typed("15 from 3 13 5"), Draw())
    shown = list(frames(session, scenes, 0.0, clock=lambda: 0.0, sleep=pytest.fail))
    assert len(shown) == 2
    assert shown[-1].over


def test_a_cut_scene_is_an_earlier_one(make_session: MakeSession) -> None:
    session = make_session(base=[GIVES_UP], trained=[GOES_ON])
    *_, scene = session.play(session.typed("15 from 3 13 5"), Draw())
    cut = session.cut(scene, 30)
    (base,), (trained,) = (lane.rows for lane in cut.lanes)
    assert base == scene.lanes[0].rows[0]
    assert trained.partial.text == " ".join(GOES_ON.split()[:30])
    assert (trained.partial.finish_reason, trained.verdict) == (None, None)
    assert cut.lanes[1].speed == scene.lanes[1].speed


def test_a_run_is_played_beside_what_it_began_from(session: Session) -> None:
    assert [player.name for player in session.players] == ["aha-tiny", "mine (step-000003)"]
    assert session.limit == 240


def test_alone_it_takes_the_latest_run_that_has_weights(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [player.name for player in open_session().players] == ["aha-tiny"]
    (tmp_path / "runs" / "new").mkdir(parents=True)
    (tmp_path / "runs" / "old").symlink_to(run_folder)
    recipe = (run_folder / "recipe.yaml").read_text()
    (tmp_path / "runs" / "new" / "recipe.yaml").write_text(recipe)
    names = [player.name for player in open_session().players]
    assert names == ["aha-tiny", "old (step-000003)"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"against": "none"}, ["mine (step-000003)"]),
        ({"against": "aha-tiny"}, ["aha-tiny", "mine (step-000003)"]),
        ({"max_tokens": 7}, ["aha-tiny", "mine (step-000003)"]),
    ],
)
def test_against_names_the_other(
    options: dict[str, object], names: list[str], run_folder: Path
) -> None:
    session = open_session(str(run_folder), **options)  # type: ignore[arg-type]
    assert [player.name for player in session.players] == names
    assert session.limit == options.get("max_tokens", 240)


def test_a_base_that_is_gone_says_how_to_play_alone(run_folder: Path, tmp_path: Path) -> None:
    text = (run_folder / "recipe.yaml").read_text()
    (tmp_path / "orphan").mkdir()
    (tmp_path / "orphan" / "checkpoints").symlink_to(run_folder / "checkpoints")
    changed = text.replace("name: aha-tiny", "name: ./gone")
    (tmp_path / "orphan" / "recipe.yaml").write_text(changed)
    with pytest.raises(UserError, match=r"'./gone' does not exist.*alone with --against none"):
        open_session(str(tmp_path / "orphan"))


def test_problems_that_do_not_fit_are_refused_before_anything_is_written(session: Session) -> None:
    with pytest.raises(UserError, match="'15 from 3 300' has a part that 'aha-tiny' has no token"):
        session.play(session.typed("15 from 3 300"), Draw())
    with pytest.raises(UserError, match=r"--max-tokens is 1,020; .* more than the 1,024"):
        session.play(session.typed("15 from 3 13 5"), Draw(max_tokens=1_020))


def test_a_stretched_model_has_room_for_more(make_session: MakeSession) -> None:
    session = make_session(one=[GIVES_UP])
    config = session.players[0].loaded.model.config
    config.max_position_embeddings = 30
    problem = session.typed("15 from 3 13 5")
    with pytest.raises(UserError, match="more than the 30 tokens"):
        session.play(problem, Draw())
    config.rope_parameters = {"rope_type": "yarn", "factor": 32.0}
    *_, scene = session.play(problem, Draw())
    assert scene.over


def test_a_chosen_problem_keeps_its_answer(make_session: MakeSession) -> None:
    rows = Path(__file__).parents[1] / "data" / "gsm8k.jsonl"
    source = [f"task.source={rows}", f"task.test_source={rows}"]
    task = ["task.name=gsm8k", "prompt.style=r1", *source]
    session = make_session(task, one=["no"])
    problem = session.random_problem(0)
    assert problem.columns["answer"]
    assert session.typed(str(problem.columns["problem"])) == problem
    assert "answer" not in session.typed("another question").columns


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"samples": 0}, "samples is 0; allowed are 1 to 64"),
        ({"samples": 65}, "samples is 65"),
        ({"temperature": -1.0}, "temperature is -1; allowed are 0 "),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": 1e-30}, "temperature is 1e-30"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_how_to_draw_is_checked(values: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Draw(**values)  # type: ignore[arg-type]


def test_greedy_samples_are_all_the_same(session: Session) -> None:
    *_, scene = session.play(session.typed("15 from 3 13 5"), Draw(samples=2, temperature=0.0))
    for lane in scene.lanes:
        assert lane.rows[0].partial.token_ids == lane.rows[1].partial.token_ids
