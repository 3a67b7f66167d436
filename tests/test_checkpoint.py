import json
from pathlib import Path

import numpy as np
import pytest
import torch

from relaxrl import checkpoint
from relaxrl.checkpoint import load_checkpoint, load_model, save_checkpoint, save_model
from relaxrl.errors import CheckpointError
from relaxrl.seeding import Generators


def test_a_state_comes_back_as_it_was(tmp_path: Path):
    state = {"a": torch.arange(3.0), "b": {"c": [1, "two", None, (3.5, True)]}, "d": np.eye(2), "big": 2**100}
    save_checkpoint(tmp_path / "x.pt", "demo", state)
    loaded = load_checkpoint(tmp_path / "x.pt", "demo")
    assert torch.equal(loaded["a"], state["a"])
    assert loaded["b"] == state["b"]
    assert loaded["big"] == 2**100
    assert isinstance(loaded["d"], np.ndarray)
    np.testing.assert_array_equal(loaded["d"], np.eye(2))


def test_generators_continue_from_a_file(tmp_path: Path):
    generators = Generators(5)
    generators.numpy("a").random(3), torch.rand(3, generator=generators.torch("b"))
    save_checkpoint(tmp_path / "x.pt", "demo", generators.state_dict())
    expected = generators.numpy("a").random(), torch.rand(1, generator=generators.torch("b"))
    other = Generators(0)
    other.load_state_dict(load_checkpoint(tmp_path / "x.pt", "demo"))
    assert (other.numpy("a").random(), torch.rand(1, generator=other.torch("b"))) == expected


def test_a_failed_save_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.pt"
    save_checkpoint(path, "demo", {"n": 1})

    def killed(_handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, "demo", {"n": 2})
    assert load_checkpoint(path, "demo") == {"n": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_wrong_files_are_refused_in_words(tmp_path: Path):
    path = tmp_path / "x.pt"
    with pytest.raises(CheckpointError, match="can't read"):
        load_checkpoint(path, "demo")
    save_checkpoint(path, "demo", {"n": torch.zeros(1000)})
    with pytest.raises(CheckpointError, match="expected a checkpoint of kind 'other', got 'demo'"):
        load_checkpoint(path, "other")
    content = path.read_bytes()
    for part in (content[: len(content) // 2], b"", b"hello"):
        path.write_bytes(part)
        with pytest.raises(CheckpointError, match="truncated or foreign"):
            load_checkpoint(path, "demo")
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="foreign torch file"):
        load_checkpoint(path, "demo")


def test_a_pickle_with_code_is_not_run(tmp_path: Path):
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"format": "relaxrl-checkpoint", "kind": "demo", "version": 1, "state": Evil()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "x.pt", "demo")
    assert not (tmp_path / "ran").exists()


def test_old_versions_are_upgraded_and_newer_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.pt"
    save_checkpoint(path, "demo", {"steps": 3})
    monkeypatch.setitem(checkpoint.VERSIONS, "demo", 3)
    monkeypatch.setitem(checkpoint.UPGRADES, ("demo", 1), lambda state: {"t_total": state["steps"]})
    monkeypatch.setitem(checkpoint.UPGRADES, ("demo", 2), lambda state: state | {"seed": 0})
    assert load_checkpoint(path, "demo") == {"t_total": 3, "seed": 0}
    save_checkpoint(path, "demo", {"t_total": 3, "seed": 0})
    monkeypatch.setitem(checkpoint.VERSIONS, "demo", 2)
    with pytest.raises(CheckpointError, match="newer relaxrl"):
        load_checkpoint(path, "demo")


def test_a_file_of_the_first_version_loads():
    state = load_checkpoint(Path(__file__).parent / "data" / "checkpoint-v1.pt", "demo")
    assert state["counters"] == {"t_total": 12}
    assert torch.equal(state["weights"], torch.tensor([1.0, 2.0]))


def test_a_model_comes_back_and_is_replaced_whole(tmp_path: Path):
    save_model(tmp_path / "m", {"w": torch.zeros(2)}, {"name": "first"})
    save_model(tmp_path / "m", {"w": torch.ones(2, dtype=torch.float64)}, {"name": "second"})
    tensors, meta = load_model(tmp_path / "m")
    assert meta == {"name": "second"}
    assert torch.equal(tensors["w"], torch.ones(2, dtype=torch.float64))
    assert len(list((tmp_path / "m").iterdir())) == 2


def test_wrong_models_are_refused_in_words(tmp_path: Path):
    folder = tmp_path / "m"
    with pytest.raises(CheckpointError, match="can't read the model"):
        load_model(folder)
    save_model(folder, {"w": torch.zeros(100)}, {})
    weights = next(folder.glob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="can't read the model's tensors"):
        load_model(folder)
    header = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(header | {"version": 99}))
    with pytest.raises(CheckpointError, match="newer relaxrl"):
        load_model(folder)
    (folder / "model.json").write_text('{"some": "json"}')
    with pytest.raises(CheckpointError, match="foreign"):
        load_model(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_model(folder)
