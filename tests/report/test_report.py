from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html import unescape
from pathlib import Path

import pytest
from made_run import HOSTILE, MakeRun

from aha.recipe import load_recipe
from aha.report.curves import POINTS
from aha.report.pages import build_report, render_report
from aha.report.run_data import write
from aha.runs import RunDirectory
from aha.types import UserError
from begun_run import begun_run


def sections(html: str) -> list[str]:
    return re.findall(r'<section id="([a-z]+)">', html)


def test_the_page_is_self_contained(run: RunDirectory) -> None:
    html = build_report(run).read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!#|data:,")[^"]*"', html)
    assert "@import" not in html
    assert "http://" not in html
    assert "https://" not in html
    assert html.count("<html") == html.count("</html>") == 1


def test_a_whole_run_has_every_section_and_the_contents_name_them(run: RunDirectory) -> None:
    html = render_report(run)
    assert sections(html) == [
        "evaluation", "curves", "phases", "behaviours", "moments", "case", "cost", "reproduce",
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#([a-z]+)"', html) == sections(html)


def test_a_run_without_evaluations_shows_its_training(make_run: MakeRun) -> None:
    html = render_report(make_run(evaluations=False, reasoning=False))
    assert sections(html)[:3] == ["curves", "phases", "moments"]
    assert "with no held-out evaluation" in html
    assert "Completions with self-check" not in html


def test_accuracy_stands_by_difficulty(run: RunDirectory) -> None:
    before, after = (run.evaluation()[when]["accuracy"] for when in ("before", "after"))
    cells = "".join(
        f"<td>{write(x / 2, 'percent')}<small>0.0 to 80.0.%</small></td>" for x in (before, after)
    )
    assert re.search(
        "accuracy, 4 numbers<small>2 problems</small></th>" + cells, render_report(run)
    )


def test_what_never_changes_is_named_instead_of_drawn(run: RunDirectory) -> None:
    html = render_report(run)
    assert "KL to the start, nats a token (0)" in html
    assert "<figcaption>KL to the start" not in html


def test_a_run_is_compared_with_earlier_ones_of_its_recipe(make_run: MakeRun) -> None:
    html = render_report(make_run())
    # The made run rises to a reward of 1 within 40 steps.
    assert re.search(
        "<p>At step 40 reward is [0-9.]+, above the [0-9.]+ to [0-9.]+ seen before", html
    )
    assert html.count(">seen before, ") == 3  # in the legends of reward, accuracy and length
    assert re.search('aria-label="Accuracy of rollouts[^"]* seen before, [^"]* at step 150', html)


def test_a_run_with_other_settings_is_not_compared(make_run: MakeRun) -> None:
    html = render_report(make_run(overrides=("train.max_steps=40",)))
    assert "seen before" not in html


def test_a_published_figure_is_a_star(tmp_path: Path) -> None:
    run = begun_run(load_recipe("gsm8k-xml-0.5b"), tmp_path / "run")
    for step in (1, 2):
        run.append_metrics({"step": step, "rewards/correctness/mean": step / 10})
    html = render_report(run)
    assert "Star: a published figure" in html
    assert "<p>At step" not in html
    assert ">published<" in html
    assert re.search('aria-label="[^"]* published: 0.801 at step 1868."', html)


def test_a_run_is_reproduced_by_its_recipe(run: RunDirectory) -> None:
    html = render_report(run)
    assert "<pre>aha train recipe.yaml</pre>" in html
    assert "--resume" not in html


def test_a_run_whose_recipe_was_changed_says_which_steps_ran_with_which(run: RunDirectory) -> None:
    more = ["grpo.beta=0.1", "rewards=[{name: accuracy}]", "logging.samples_steps=5"]
    run.change_recipe(load_recipe("countdown-tiny", ["grpo.beta=0.1"]), 10)
    run.change_recipe(load_recipe("countdown-tiny", more), 30)
    run.change_recipe(load_recipe("countdown-tiny", [*more, "logging.samples_steps=1"]), 40)
    html = render_report(run)
    assert "<pre>aha train recipe.yaml</pre>" not in html
    commands = re.findall(r"<td><code>(aha train .*?)</code></td>", html)
    assert commands[0] == "aha train recipe.yaml --output again"
    assert commands[1] == "aha train --resume again --allow-change --set grpo.beta=0.1"
    # No step ran with the last change.
    assert len(commands) == 3
    sets = [part for part in shlex.split(unescape(commands[2])) if "=" in part]
    changed = load_recipe("countdown-tiny", ["grpo.beta=0.1", *sets])
    assert changed == load_recipe("countdown-tiny", more)
    assert [f"steps {steps}" in html for steps in ("1 to 10", "11 to 30", "31 to 40")] == [True] * 3


def test_alerts_are_shown_when_there_are_some(run: RunDirectory) -> None:
    run.write_lines(
        "alerts.jsonl",
        [{"step": 7, "kind": "collapse", "metric": "reward", "message": "collapse: <b> fell."}],
    )
    html = render_report(run)
    assert sections(html)[0] == "alerts"
    assert '<td class="text">&lt;b&gt; fell.</td>' in html


def test_hostile_text_stays_text_everywhere(make_run: MakeRun) -> None:
    run = make_run(after={t: f"{HOSTILE} Wait, {t}" for t in (6, 8, 9)})
    run.append_samples(
        {**record, "step": step, "prompt": HOSTILE, "columns": {"target": 1, "nums": [1]}}
        for step, record in enumerate(run.read_lines("samples.jsonl") * 3, start=20)
    )
    run.write_lines(
        "alerts.jsonl", [{"step": 1, "kind": HOSTILE, "metric": "m", "message": HOSTILE}]
    )
    html = render_report(run)
    assert "&lt;script&gt;document.title" in html
    assert html.count("<script>") == 1
    assert "<img" not in html
    assert "<h1 id=injected>" not in html
    assert "{{ 7*7 }}" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "⟨U+202E⟩gnp.exe⟨U+2069⟩" in html
    assert "⟨U+001B⟩[31mred" in html


def test_a_megabyte_on_one_line_is_cut(make_run: MakeRun) -> None:
    text = "Wait, " + "x" * 1_000_000
    run = make_run(after=dict.fromkeys((6, 8, 9, 12, 15, 20), text))
    html = render_report(run)
    assert "characters left out]" in html
    assert len(html) < 1_000_000


def test_half_a_character_can_be_written_to_a_file(run: RunDirectory) -> None:
    lines = (run.path / "eval-after.jsonl").read_text("utf-8").replace("Wait", "\\ud83d Wait")
    (run.path / "eval-after.jsonl").write_text(lines, encoding="utf-8")
    assert "⟨U+D83D⟩" in build_report(run).read_text(encoding="utf-8")


def test_the_policy_allows_the_pages_scripts_and_no_others(run: RunDirectory) -> None:
    html = render_report(run, "v1")
    policy = re.search(r'Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.group(1).replace("&#39;", "'").split("; "))
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    ]
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == hashes
    assert len(hashes) == 2
    assert rules["connect-src"] == "'self'"
    assert "connect-src" not in render_report(run)


def test_a_run_of_two_thousand_steps_stays_small(make_run: MakeRun) -> None:
    run = make_run(steps=2_000)
    html = render_report(run)
    assert len(html.encode()) < 5_000_000
    charts = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(charts) > 15
    for chart in charts:
        for path in re.findall(r' d="([^"]*)"', chart):
            # A band goes there and back.
            assert path.count("L") <= 2 * POINTS + 5


def test_a_run_without_steps_is_one_sentence(tmp_path: Path) -> None:
    empty = begun_run(load_recipe("countdown-tiny"), tmp_path / "empty")
    with pytest.raises(UserError, match="no recorded step"):
        build_report(empty)


def test_two_builds_are_the_same(run: RunDirectory) -> None:
    assert render_report(run) == render_report(run)


NBSP = "\N{NO-BREAK SPACE}"


def cost(run: RunDirectory) -> dict[str, tuple[str, str]]:
    """The value and the note by label, as the page has them."""
    table = render_report(run).partition('<section id="cost">')[2].partition("</section>")[0]
    row = re.compile("<th[^>]*>([^<]*)(?:<small>(.*?)</small>)?</th><td>(.*?)</td>")
    return {label: (value, note) for label, note, value in row.findall(table)}


def test_the_cost_by_hand(run: RunDirectory) -> None:
    rows = cost(run)
    # Forty steps of 4 s (1 rollout, 0.25 reward, 2.5 train) and 1,000 tokens.
    assert rows["tokens written in training"] == ("40,000", "")
    assert rows["time in training steps"] == (
        f"2.7{NBSP}min",
        f"writing 25{NBSP}%, scoring 6{NBSP}%, learning 62{NBSP}%",
    )
    assert rows["tokens a second"][0] == "250"
    assert rows["peak memory"][0] == "0.500 GiB"
    assert "energy" not in rows


def test_energy_is_told_only_where_it_was_measured(run: RunDirectory) -> None:
    records = [{**record, "machine/energy_j": 90.0} for record in run.metrics()]
    run.metrics_file.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    # 40 x 90 J = 3,600 J = 1 Wh.
    assert cost(run)["energy"] == ("1.00 Wh", "measured by the machine")
