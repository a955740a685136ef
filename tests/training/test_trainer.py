"""The training loop, on toy models whose losses are known."""

import itertools
import math

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.training import Trainer
from skgmje.views import PairedViews

N = 103


class Toy(nn.Module):
    """A weight that moves towards the mean of the target."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.batches, self.epochs = [], []

    def begin_epoch(self, views, epoch):
        self.epochs.append(epoch)

    def forward(self, context, target):
        if self.training:
            self.batches.append(context[:, 0].tolist())
        return ((target - self.weight) ** 2).mean()


class Scripted(Toy):
    """A model whose losses are given beforehand, one an epoch."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def forward(self, context, target):
        return self.losses[len(self.epochs) - 1] + 0 * self.weight.sum()


class Watched(Scripted):
    """A model whose validation losses are given, and whose weight counts epochs."""

    def forward(self, context, target):
        if self.training:
            with torch.no_grad():
                self.weight.fill_(len(self.epochs))
            return 0 * self.weight.sum()
        return torch.tensor(self.losses[len(self.epochs) - 1])


def views():
    context = torch.arange(N, dtype=torch.float32)[:, None]
    target = torch.randn(N, 2, generator=torch.Generator().manual_seed(0)) + 1
    return PairedViews(context, target)


def trainer(model, seed=0, **options):
    options = {
        "learning_rate": 0.05,
        "weight_decay": 0.0,
        "batch_size": 20,
        "max_iter": 10,
        "tol": 1e-4,
        "n_iter_no_change": 100,
    } | options
    generator = torch.Generator().manual_seed(seed)
    return Trainer(model, views(), generator, **options)


def run(made):
    while not made.done:
        made.run_epoch()
    return made


def test_training_runs_to_the_end_and_lowers_the_loss():
    made = run(trainer(Toy(), max_iter=60))
    assert made.n_epochs == 60
    assert made.history.loss_curve[-1] < made.history.loss_curve[0] - 0.5
    mean = views().target.mean(0)
    torch.testing.assert_close(made.model.weight.data, mean, atol=0.05, rtol=0)


def test_every_row_is_seen_once_an_epoch_in_batches_of_nearly_equal_size():
    model = Toy()
    run(trainer(model, max_iter=3))
    sizes = [len(batch) for batch in model.batches]
    assert len(sizes) == 3 * math.ceil(N / 20)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 20
    for epoch in range(3):
        rows = itertools.chain(*model.batches[6 * epoch : 6 * epoch + 6])
        assert sorted(rows) == list(range(N))
    assert model.batches[:6] != model.batches[6:12]
    assert len(model.epochs) == 3
    assert all(torch.equal(rows, torch.arange(N)) for rows in model.epochs)


def test_one_seed_gives_one_order():
    orders = []
    for seed in (0, 0, 1):
        model = Toy()
        run(trainer(model, seed=seed, max_iter=2))
        orders.append(model.batches)
    assert orders[0] == orders[1] != orders[2]


def test_rows_for_validation_are_not_trained_on():
    model = Toy()
    rows = torch.tensor([3, 50, 99])
    made = run(trainer(model, validation_rows=rows, max_iter=2))
    seen = {row for batch in model.batches for row in batch}
    assert seen == set(range(N)) - {3.0, 50.0, 99.0}
    assert len(made.history.validation_loss_curve) == 2
    weight, target = model.weight.data, views().target[rows]
    expected = float(((target - weight) ** 2).mean())
    assert made.history.validation_loss_curve[-1] == pytest.approx(expected, rel=1e-5)


def test_training_ends_where_the_loss_stops_improving():
    losses = [5.0, 4.0, 3.0, *[2.99995] * 20]
    made = run(trainer(Scripted(losses), max_iter=20, n_iter_no_change=4))
    # The third epoch is the last that improves by more than tol.
    assert made.n_epochs == 3 + 4
    assert made.history.best_epoch == 3
    assert made.history.best_loss == pytest.approx(2.99995)


def test_small_improvements_count_if_tol_is_zero():
    losses = [3.0 - 1e-5 * i for i in range(20)]
    assert run(trainer(Scripted(losses), max_iter=20, tol=0.0)).n_epochs == 20
    made = run(trainer(Scripted(losses), max_iter=20, tol=0.1, n_iter_no_change=5))
    assert made.n_epochs < 10


def test_the_best_weights_come_back():
    losses = [5.0, 3.0, 1.0, 2.0, 4.0, 4.0]
    made = run(trainer(Watched(losses), max_iter=6, validation_rows=torch.arange(10)))
    assert float(made.model.weight[0].detach()) == pytest.approx(6, abs=0.2)
    made.restore_best()
    assert float(made.model.weight[0].detach()) == pytest.approx(3, abs=0.2)
    assert made.history.validation_loss_curve == losses


def test_without_validation_the_last_weights_stay():
    made = run(trainer(Toy(), max_iter=5))
    last = made.model.weight.detach().clone()
    made.restore_best()
    assert torch.equal(made.model.weight, last)


@pytest.mark.parametrize(
    "fail",
    [
        lambda loss: loss * math.nan,
        lambda loss: loss * math.inf,
        # Only the gradient fails: the square root has an infinite slope at zero.
        lambda loss: loss + (0.0 * loss).sqrt(),
    ],
    ids=["nan", "infinity", "gradient"],
)
def test_what_is_not_finite_ends_training_with_the_last_good_weights(fail):
    class Failing(Toy):
        def forward(self, context, target):
            loss = super().forward(context, target)
            return fail(loss) if len(self.epochs) == 3 else loss

    # In the last epoch no later loss could tell.
    made = trainer(Failing(), max_iter=3)
    for _ in range(2):
        made.run_epoch()
    good = made.model.weight.detach().clone()
    with pytest.warns(ConvergenceWarning, match=r"in epoch 3; .*learning_rate_init"):
        run(made)
    assert torch.equal(made.model.weight, good)
    assert made.n_epochs == 2
    assert made.done


def test_a_validation_loss_that_is_not_finite_ends_training():
    made = trainer(
        Watched([2.0, 1.0, math.nan, 0.0]), max_iter=4, validation_rows=torch.arange(9)
    )
    with pytest.warns(ConvergenceWarning, match="in epoch 3"):
        run(made)
    assert made.history.validation_loss_curve == [2.0, 1.0]
    assert len(made.history.loss_curve) == 2


def test_an_interrupt_ends_training_with_the_last_good_weights():
    class Interrupted(Toy):
        def forward(self, context, target):
            if len(self.epochs) == 3 and len(self.batches) > 14:
                raise KeyboardInterrupt
            return super().forward(context, target)

    made = trainer(Interrupted(), max_iter=10)
    for _ in range(2):
        made.run_epoch()
    good = made.model.weight.detach().clone()
    with pytest.warns(UserWarning, match="interrupted by user"):
        run(made)
    assert torch.equal(made.model.weight, good)


def test_a_density_that_cannot_start_ends_training_with_its_own_reason():
    class Unstarted(Toy):
        def begin_epoch(self, views, epoch):
            super().begin_epoch(views, epoch)
            if len(self.epochs) == 2:
                raise IllDefinedCovarianceError("Too few rows.")

    made = trainer(Unstarted())
    made.run_epoch()
    good = made.model.weight.detach().clone()
    with pytest.warns(ConvergenceWarning, match=r"in epoch 2; .*Too few rows\.$"):
        run(made)
    assert torch.equal(made.model.weight, good)


def test_other_errors_pass_through():
    class Broken(Toy):
        def forward(self, context, target):
            raise LookupError("own")

    with pytest.raises(LookupError, match="own"):
        trainer(Broken()).run_epoch()


def test_the_step_size_falls_to_zero_along_a_cosine():
    made = trainer(Toy(), max_iter=4)
    sizes = []
    while not made.done:
        sizes.append(made.optimizer.param_groups[0]["lr"])
        made.run_epoch()
    expected = [0.05 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert sizes == pytest.approx(expected)


def test_verbose_prints_a_line_an_epoch(capsys):
    run(trainer(Toy(), max_iter=3))
    assert capsys.readouterr().out == ""
    run(trainer(Toy(), max_iter=3, verbose=True))
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_module_may_ask_for_larger_steps():
    model = Toy()
    model.fast = nn.Sequential(nn.Linear(1, 1))
    model.fast.learning_rate_factor = 100.0
    groups = trainer(model, weight_decay=0.1).optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.05, 5.0]
    assert [len(group["params"]) for group in groups] == [1, 2]
    # What decays in a step is the same for both.
    decay = [group["lr"] * group["weight_decay"] for group in groups]
    assert decay[0] == pytest.approx(decay[1])
