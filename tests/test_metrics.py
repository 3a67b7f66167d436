import math
from pathlib import Path

from relaxrl.metrics import CSVSink, FanOut, MetricSink, TensorBoardSink, read_metrics


def test_columns_grow_and_gaps_are_nan(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    with CSVSink(path) as sink:
        sink.write(1, {"a": 0.1})
        sink.write(2, {"b": 2.0, "a": 1 / 3})
        sink.write(3, {"b": 3.0})
    columns = read_metrics(path)
    assert columns["t_total"] == [1, 2, 3]
    assert columns["a"][:2] == [0.1, 1 / 3]
    assert math.isnan(columns["b"][0])
    assert columns["b"][1:] == [2.0, 3.0]


def test_truncation_and_going_on_gives_the_same_bytes(tmp_path: Path):
    straight, resumed = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (straight, resumed):
        with CSVSink(path) as sink:
            sink.write(10, {"a": 1.0})
            sink.write(20, {"a": 2.0, "b": 0.5})
    with CSVSink(straight) as sink:
        sink.write(30, {"a": 3.0})
    with CSVSink(resumed) as sink:
        sink.write(30, {"a": 99.0})
    with resumed.open("a") as file:
        file.write("40,12")  # cut off by a kill
    with CSVSink(resumed) as sink:
        sink.truncate(20)
        sink.write(30, {"a": 3.0})
    assert resumed.read_bytes() == straight.read_bytes()


def test_tensorboard_shows_the_truncated_curve(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardSink(tmp_path) as sink:
        for step in (1, 2, 3):
            sink.write(step, {"eval/ratio": float(step)})
    with TensorBoardSink(tmp_path) as sink:
        sink.truncate(2)
        sink.write(3, {"eval/ratio": 30.0})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/ratio")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_the_fan_out_passes_on_everything(tmp_path: Path):
    sinks: list[MetricSink] = [CSVSink(tmp_path / "a.csv"), CSVSink(tmp_path / "b.csv")]
    with FanOut(sinks) as sink:
        sink.write(1, {"a": 1.0})
        sink.write(2, {"a": 2.0})
        sink.truncate(1)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text() == "t_total,a\n1,1.0\n"
