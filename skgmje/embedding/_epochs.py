"""The epochs of a fit, with scikit-learn's callbacks around each."""

from collections.abc import Callable
from typing import Any

from skgmje.training import Trainer


def run_epochs(
    estimator: Any,
    trainer: Trainer,
    context: Any,
    data: dict[str, Any],
    fitted_attributes: Callable[[], dict[str, Any]],
) -> None:
    """Train until training is done, or a callback asks to stop.

    Parameters
    ----------
    estimator : estimator
        Whose fit it is.
    trainer : Trainer
        The training loop.
    context : CallbackContext
        The context of the fit.
    data : dict
        What was passed to fit, as callbacks want it.
    fitted_attributes : callable
        Returns the fitted attributes of the present weights.
    """
    while not trainer.done:
        epoch = context.subcontext(task_name="epoch")
        epoch.call_on_fit_task_begin(estimator=estimator, **data)
        trainer.run_epoch()
        if epoch.call_on_fit_task_end(
            estimator=estimator, **data, reconstruction_attributes=fitted_attributes
        ):
            break
