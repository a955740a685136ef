"""The course of training as a picture."""

from sklearn.utils.validation import check_is_fitted


class LossCurveDisplay:
    """Training and validation loss by epoch.

    Parameters
    ----------
    loss_curve : list of float
        Training loss of each epoch, in nats.
    validation_loss_curve : list of float or None, default=None
        Loss on the rows kept out.
    estimator_name : str or None, default=None
        Title.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes that were drawn on.
    figure_ : matplotlib Figure
        Their figure.
    lines_ : list of matplotlib Line2D
        The curves.

    Examples
    --------
    >>> from sklearn.datasets import load_linnerud
    >>> from skgmje import GJEEmbedder
    >>> from skgmje.inspection import LossCurveDisplay
    >>> gje = GJEEmbedder(max_iter=5).fit(*load_linnerud(return_X_y=True))
    >>> display = LossCurveDisplay.from_estimator(gje)
    >>> len(display.lines_)
    1
    """

    def __init__(self, loss_curve, validation_loss_curve=None, *, estimator_name=None):
        self.loss_curve = loss_curve
        self.validation_loss_curve = validation_loss_curve
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Draw the curves of a fitted embedder.

        Parameters
        ----------
        estimator : embedder
            A fitted embedder.
        ax : matplotlib Axes, default=None
            Axes to draw on; new ones by default.

        Returns
        -------
        display : LossCurveDisplay
            The display, drawn.
        """
        check_is_fitted(estimator)
        display = cls(
            estimator.loss_curve_,
            estimator.validation_loss_curve_,
            estimator_name=type(estimator).__name__,
        )
        return display.plot(ax=ax)

    def plot(self, ax=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; new ones by default.

        Returns
        -------
        display : LossCurveDisplay
            This display.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        epochs = range(1, len(self.loss_curve) + 1)
        self.lines_ = ax.plot(epochs, self.loss_curve, label="training")
        if self.validation_loss_curve is not None:
            self.lines_ += ax.plot(
                epochs, self.validation_loss_curve, label="validation"
            )
        ax.set(xlabel="Epoch", ylabel="Loss (nats)", title=self.estimator_name)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
