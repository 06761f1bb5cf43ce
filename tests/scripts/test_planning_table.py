"""The plans of known cohorts in docs/planning.md are those of the rules, beside nnU-Net's."""

from __future__ import annotations

import pytest
from support.bundle_runs import ROOT

from scripts.planning_table import COHORTS, REASONS, table
from scripts.tool import markers


def rows() -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in table().splitlines() if line.startswith("|")]
    return {row[0]: row for row in cells[2:]}


def test_the_document_has_the_plans_of_the_rules() -> None:
    text = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    begin, end = markers("plans")
    assert text.split(begin)[1].split(end)[0].strip() == table().strip()


def test_every_task_of_the_decathlon_has_nnu_net_s_plan_beside_ours() -> None:
    tasks = [name for name, known in COHORTS.items() if known.planes and known.volume]
    assert [name.split()[0] for name in tasks] == [f"Task{number:02d}" for number in range(1, 11)]
    assert list(rows()) == list(COHORTS)


@pytest.mark.parametrize("name", [name for name, known in COHORTS.items() if known.planes])
def test_a_plan_that_differs_says_why(name: str) -> None:
    row = rows()[name]
    differs = row[6] != row[4] or row[10] != row[8]
    assert differs == bool(len(row) > 12 and row[12])


def test_every_reason_is_one_of_a_row() -> None:
    found = [letter for row in rows().values() if len(row) > 12 for letter in row[12].split()]
    assert set(found) == set(REASONS)
