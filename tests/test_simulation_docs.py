"""`docs/simulations.md` says what the simulator does: its examples run, and nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path

from simulations import actions, scenarios, world
from simulations.config import Config
from simulations.faults import FAULTS
from simulations.schedule import schedule
from tests.test_docs import blocks, read


def test_the_scenario_of_the_document_runs_and_keeps_every_promise(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("simulations.md") if block.info == "scenario"]
    file = tmp_path / "vienna_graz.py"
    file.write_text(block.text)
    config = scenarios.load(str(file)).configure(1)
    assert len(config.story) == 4
    assert world.run(1, config, schedule(1, config)).violation is None


def test_the_story_of_the_document_does_what_its_comments_say(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("simulations.md") if block.info == "story"]
    file = tmp_path / "phone.py"
    file.write_text(block.text)
    config = scenarios.load(str(file)).configure(1)
    result = world.run(1, config, schedule(1, config))
    assert result.violation is None
    assert result.did_nothing == []
    told = [record.details[0] for record in result.trace if record.kind == "answer"]
    assert told[:4] == ["created INBOX", "mail to INBOX", "+$seen -$flagged", "expunged"]
    assert {id: sorted(keywords) for _, _, _, id, keywords in result.shown} == {"bill": ["$seen"], "late": []}


def test_the_flaky_line_of_the_document_fits_its_scenario(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("simulations.md") if block.info == "scenario"]
    snippet = read("simulations.md").split("`story=tuple(")[1].split("))`.")[0]
    file = tmp_path / "flaky.py"
    file.write_text(re.sub(r"story=\(.*?\n    \),", f"story=tuple({snippet})),", block.text, flags=re.DOTALL))
    config = scenarios.load(str(file)).configure(1)
    assert len(config.story) == 6
    result = world.run(1, config, schedule(1, config))
    assert result.violation is None


def test_every_action_fault_and_setting_of_a_scenario_is_documented() -> None:
    text = read("simulations.md")
    for action in actions.AnyAction.__args__:
        assert f"`{action.__name__}`" in text, action
    for name in FAULTS:
        assert f"`{name}`" in text, name
    for field in Config.__struct_fields__:
        assert f"`{field}`" in text or field == "planted", field
