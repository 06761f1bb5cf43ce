from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import LrScheduleHandler
from monai.transforms import CutMix
from torch.utils.data import DataLoader

from vqseg_bundle.data import SharedRandomSampler
from vqseg_bundle.engines import STRONG, EMATeacher, SemiSupervisedTrainer, iteration_budget
from vqseg_bundle.handlers import ResumeCheckpoint, ResumedSchedule, StopOnSignal
from vqseg_bundle.layers import QuantizedPerturbation
from vqseg_bundle.losses import VQSegLoss, VQSegTargets
from vqseg_bundle.networks import VQSegNet, VQSegTrainingModule

EPOCH_LENGTH = 3


def _batches(seed: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 1, 8, 8, generator=generator)
    samples = [{"image": image, STRONG: image * 1.1, "label": (image > 0).float()} for image in images]
    return DataLoader(samples, batch_size=2, sampler=SharedRandomSampler(samples, 100, seed=seed))


def _trainer(
    path: Path, resume: bool = False, max_epochs: int = 3, max_iterations: int = 8, minutes: float | None = None
) -> Any:
    """The same trainer at every call, but for the random states, which a resumed training must not take from here."""
    torch.manual_seed(0)
    student = VQSegNet(2, 1, 2, (4, 6), (2,), num_embeddings=8, embedding_dim=4, dropout=0.1)
    module = VQSegTrainingModule(student, QuantizedPerturbation())
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    steps = iteration_budget(max_epochs, EPOCH_LENGTH, max_iterations)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    teacher = EMATeacher(student)
    objects = {"student": module, "teacher": teacher, "optimizer": optimizer, "lr_scheduler": schedule}
    checkpoint = ResumeCheckpoint(path, objects, resume, minutes)
    return SemiSupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        epoch_length=EPOCH_LENGTH,
        max_iterations=max_iterations,
        train_data_loader=_batches(1),
        unlabeled_data_loader=_batches(2),
        network=module,
        student=student,
        teacher=teacher,
        loss_function=VQSegLoss(lambda_reconstruction=0.1),
        targets=VQSegTargets,
        optimizer=optimizer,
        mixer=CutMix(batch_size=2),
        ramp_up_share=0.5,
        generator=torch.Generator().manual_seed(0),
        train_handlers=[LrScheduleHandler(schedule, epoch_level=False), checkpoint, StopOnSignal(checkpoint)],
    )


def _interrupt(trainer: Any, iteration: int) -> None:
    trainer.logger.disabled = True

    def fail() -> None:
        raise KeyboardInterrupt("the power went out")

    trainer.add_event_handler(Events.ITERATION_STARTED(once=iteration), fail)
    with pytest.raises(KeyboardInterrupt, match="the power went out"):
        trainer.run()


def _outcome(trainer: Any) -> dict[str, Any]:
    return {
        "iteration": trainer.state.iteration,
        "epoch": trainer.state.epoch,
        "lr": trainer.optimizer.param_groups[0]["lr"],
        "weights": {**trainer.network.state_dict(prefix="student."), **trainer.teacher.state_dict(prefix="teacher.")},
    }


@pytest.mark.parametrize("interrupted_at", [4, 5, 7])  # at once after an epoch, amid one, in the short last one
def test_a_resumed_training_ends_as_the_uninterrupted_one(tmp_path, interrupted_at):
    whole = _trainer(tmp_path / "whole.pt")
    whole.run()
    _interrupt(_trainer(tmp_path / "resume.pt"), interrupted_at)
    resumed = _trainer(tmp_path / "resume.pt", resume=True)
    resumed.generator.manual_seed(99)
    iterations: list[int] = []
    resumed.add_event_handler(Events.ITERATION_STARTED, lambda engine: iterations.append(engine.state.iteration))
    resumed.run()
    first = (interrupted_at - 1) // EPOCH_LENGTH * EPOCH_LENGTH + 1
    assert iterations == list(range(first, 9))
    _assert_same(resumed, whole)


def _assert_same(resumed: Any, whole: Any) -> None:
    expected, found = _outcome(whole), _outcome(resumed)
    weights, found_weights = expected.pop("weights"), found.pop("weights")
    assert found == expected == {"iteration": 8, "epoch": 3, "lr": 0.0}
    for key, value in weights.items():
        assert torch.equal(found_weights[key], value), key


def test_in_a_long_epoch_it_is_saved_between_and_gone_on_from_there(tmp_path):
    whole = _trainer(tmp_path / "whole.pt")
    whole.run()
    interrupted, saved = _trainer(tmp_path / "resume.pt", minutes=1e-9), []
    interrupted.add_event_handler(
        Events.ITERATION_STARTED(every=2), lambda: saved.append(_saved(tmp_path / "resume.pt"))
    )
    _interrupt(interrupted, 6)
    assert saved == [1, 3, 5]
    resumed = _trainer(tmp_path / "resume.pt", resume=True)
    resumed.run()
    _assert_same(resumed, whole)


@pytest.mark.parametrize("minutes", [0, -1])
def test_a_time_between_saves_that_is_none_is_refused(tmp_path, minutes):
    with pytest.raises(ValueError, match=f"checkpoint_minutes must be positive or None, got {minutes}"):
        ResumeCheckpoint(tmp_path / "resume.pt", {}, minutes=minutes)


@pytest.mark.parametrize(
    "number, arrives_at, saved_after", [(signal.SIGTERM, 4, 4), (signal.SIGINT, 5, 5), (signal.SIGINT, 6, 6)]
)
def test_a_signal_stops_after_a_step_that_is_saved_and_gone_on_from(tmp_path, capfd, number, arrives_at, saved_after):
    whole = _trainer(tmp_path / "whole.pt")
    whole.run()
    former = signal.getsignal(number)
    stopped, completed = _trainer(tmp_path / "resume.pt"), []
    stopped.add_event_handler(Events.ITERATION_STARTED(once=arrives_at), lambda: os.kill(os.getpid(), number))
    said = []
    stopped.add_event_handler(Events.ITERATION_STARTED(once=arrives_at), lambda: said.append(capfd.readouterr().err))
    stopped.add_event_handler(Events.COMPLETED, lambda: completed.append(True))
    stopped.run()
    assert stopped.state.stop_signal == number
    assert stopped.state.iteration == _saved(tmp_path / "resume.pt") == saved_after
    assert not completed
    assert "stopping after this step, or the validation that follows it, which is saved; again: at once" in said[0]
    assert signal.getsignal(number) is former
    resumed = _trainer(tmp_path / "resume.pt", resume=True)
    resumed.run()
    _assert_same(resumed, whole)


@pytest.mark.parametrize("max_iterations", [8, 9])
def test_resuming_a_completed_training_takes_no_further_step(tmp_path, max_iterations):
    done = _trainer(tmp_path / "resume.pt", max_iterations=max_iterations)
    done.run()
    again = _trainer(tmp_path / "resume.pt", resume=True, max_iterations=max_iterations)
    completed: list[int] = []
    again.optimizer.register_step_pre_hook(lambda *_: pytest.fail("a step was taken"))
    again.add_event_handler(Events.COMPLETED, lambda engine: completed.append(engine.state.iteration))
    again.run()
    assert completed == [max_iterations]
    expected = _outcome(done)["weights"]
    assert all(torch.equal(value, expected[key]) for key, value in _outcome(again)["weights"].items())


@pytest.mark.parametrize("changes", [{"max_iterations": 9}, {"max_epochs": 5}, {"max_epochs": 2, "max_iterations": 6}])
def test_a_training_of_another_length_is_not_resumed(tmp_path, changes):
    _trainer(tmp_path / "resume.pt").run()
    other = _trainer(tmp_path / "resume.pt", resume=True, **changes)
    other.logger.disabled = True
    with pytest.raises(ValueError, match=r"resume: the checkpoint is of a training of 8 iterations in epochs of 3"):
        other.run()


def test_without_resume_an_old_file_is_not_read(tmp_path):
    path = tmp_path / "resume.pt"
    _trainer(path).run()
    trainer = _trainer(path)
    trainer.run()
    assert trainer.state.iteration == 8
    assert trainer.teacher.n_averaged.item() == 9


def test_a_missing_file_is_refused_before_anything_is_built(tmp_path):
    path = tmp_path / "out" / "resume.pt"
    with pytest.raises(ValueError, match=rf"resume: there is no checkpoint {path}. Give the output_dir of the run"):
        ResumeCheckpoint(path, {}, resume=True)
    assert not path.parent.exists()


def _counting_engine(path: Path, resume: bool = False) -> Engine:
    engine = Engine(lambda engine, batch: None)
    engine.logger.disabled = True
    ResumeCheckpoint(path, {}, resume).attach(engine)
    return engine


def _saved(path: Path) -> int:
    return torch.load(path, weights_only=True)["engine"]["iteration"]


def test_the_file_is_written_after_every_epoch_beside_the_one_before(tmp_path):
    engine = _counting_engine(tmp_path / "new" / "resume.pt")
    saved: list[int] = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: saved.append(_saved(tmp_path / "new" / "resume.pt")))
    engine.run(range(2), max_epochs=3)
    assert saved == [2, 4, 6]
    assert _saved(tmp_path / "new" / "resume.previous.pt") == 4
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["resume.previous.pt", "resume.pt"]


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(path.read_bytes()[:700]), Path.unlink])
def test_a_broken_file_leaves_the_one_before_to_go_on_from(tmp_path, caplog, spoil):
    path = tmp_path / "resume.pt"
    _counting_engine(path).run(range(2), max_epochs=3)
    spoil(path)
    iterations: list[int] = []
    resumed = _counting_engine(path, resume=True)
    resumed.add_event_handler(Events.ITERATION_STARTED, lambda engine: iterations.append(engine.state.iteration))
    resumed.add_event_handler(Events.EPOCH_COMPLETED, lambda: iterations.append(-_saved(path)))
    resumed.run(range(2), max_epochs=3)
    assert iterations == [5, 6, -6]
    assert f"Going on from the file before, {tmp_path / 'resume.previous.pt'}." in caplog.text
    # the broken file has not taken its place
    assert _saved(tmp_path / "resume.previous.pt") == 4


def test_a_file_of_an_earlier_training_is_not_the_one_before(tmp_path):
    path = tmp_path / "resume.pt"
    path.write_bytes(b"of another training")
    _counting_engine(path).run(range(2), max_epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["resume.pt"]


def test_with_both_files_broken_nothing_starts(tmp_path):
    for name in ("resume.pt", "resume.previous.pt"):
        (tmp_path / name).touch()
    message = (
        r"resume: .*resume\.pt: expected weights, found an empty file\. Nor can the one before be used: .*previous"
    )
    with pytest.raises(ValueError, match=message):
        ResumeCheckpoint(tmp_path / "resume.pt", {}, resume=True)


def test_a_failed_write_leaves_the_last_file_whole(tmp_path, monkeypatch):
    engine = _counting_engine(tmp_path / "resume.pt")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: monkeypatch.setattr(torch, "save", fail))
    with pytest.raises(OSError, match="no space left"):
        engine.run(range(2), max_epochs=3)
    assert [path.name for path in tmp_path.iterdir()] == ["resume.pt"]
    assert torch.load(tmp_path / "resume.pt", weights_only=True)["engine"]["iteration"] == 2


def test_a_changed_schedule_goes_on_from_the_saved_step_at_its_own_rates():
    def schedule(rate: float, steps: int, decay: float = 0.0) -> torch.optim.lr_scheduler.PolynomialLR:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate, weight_decay=decay)
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)

    former, straight, resumed = schedule(0.1, 10), schedule(0.2, 20), schedule(0.2, 20, decay=0.01)
    for _ in range(4):
        former.optimizer.step()
        former.step()
    for _ in range(7):
        straight.optimizer.step()
        straight.step()
    going_on = ResumedSchedule(resumed, changed=True)
    resumed.optimizer.load_state_dict(former.optimizer.state_dict())
    going_on.load_state_dict(ResumedSchedule(former).state_dict())
    for _ in range(3):
        resumed.optimizer.step()
        resumed.step()
    assert resumed.get_last_lr() == pytest.approx(straight.get_last_lr(), rel=1e-12)
    assert resumed.optimizer.param_groups[0]["weight_decay"] == 0.01
