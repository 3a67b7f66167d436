import json

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from relaxrl.agents import default_agent, load_agent, registry
from relaxrl.errors import CheckpointError
from relaxrl.optimize import RLOptimizer


def pretend(folder, **agents):
    """Agents of which only the description is there."""
    for name, elements in agents.items():
        (folder / name).mkdir()
        header = {"format": "relaxrl-model", "meta": {"metadata": {"elements": list(elements)}}}
        (folder / name / registry.MODEL_FILE).write_text(json.dumps(header))


def test_the_first_agent_that_knows_all_elements(tmp_path, monkeypatch):
    assert default_agent(["Cu"]) == default_agent({"Al", "Pt"}) == "metals"
    assert default_agent(["Cu", "O"]) is None or "universal" in registry.shipped_agents()
    monkeypatch.setattr(registry, "SHIPPED", tmp_path)
    assert default_agent(["Cu"]) is None
    pretend(tmp_path, metals=["Cu", "Al"], universal=["Cu", "Al", "O"], other=["He"])
    assert default_agent(["Cu"]) == "metals"
    assert default_agent(["Cu", "O"]) == "universal"
    assert default_agent(["He"]) is None  # not one of those to choose from


def test_where_one_agent_is_needed_for_all_the_choice_is_none():
    with pytest.raises(CheckpointError, match=r"`auto` chooses an agent for each structure.*metals"):
        load_agent("auto")


def test_the_optimizer_chooses_by_the_elements():
    for symbol, chosen in (("Cu", True), ("Pd", False)):
        atoms = bulk(symbol, cubic=True)
        atoms.rattle(0.1, seed=0)
        atoms.calc = EMT()
        optimizer = RLOptimizer(atoms, agent="auto", logfile=None)
        assert (optimizer.agent is not None) == (chosen or default_agent([symbol]) is not None)
        assert optimizer.run(fmax=0.01)
