"""Files that hold a fitted estimator and can hold no code.

Arrays are stored by safetensors, everything else as JSON in its metadata. The class is
looked up among this library's own.
"""

import json
import stat
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.utils.metadata_routing import MetadataRequest

import skgmje

__all__ = ["SaveMixin", "load"]

FORMAT = 1
_LOADABLE = (
    "ContrastiveEmbedder",
    "GJEEmbedder",
    "GMJEEmbedder",
    "GaussianMixture",
    "GaussianProcessEmbedder",
    "GrowingNeuralGas",
    "JEPAEmbedder",
    "KalmanEmbedder",
    "LinearContrastive",
    "LDMEmbedder",
    "LDMICA",
    "MDNEmbedder",
    "OutlierDetector",
    "ParticleBank",
    "VJEEmbedder",
)
# Objects that parameters may hold, and where their classes live.
_PARTS = {"ImageAugmentation": "skgmje.views"}


class _MissingEncoderError(ValueError):
    """A file was loaded without an encoder whose code it cannot hold."""


class SaveMixin:
    """Give an estimator the method `save`."""

    def save(self, path):
        """Write the estimator to a file that can hold no code.

        Callbacks concern training only, and are left out.

        Parameters
        ----------
        path : str or path-like
            File to write. One that exists is replaced at once and keeps its
            permissions; of a symbolic link, that is the file it points to.

        Raises
        ------
        TypeError
            If the estimator is of a subclass, whose code no file holds, or if a
            parameter has no safe form, such as a RandomState instance. Encoders that
            are modules or factories are left out, and are given to
            :func:`skgmje.load` again.
        FileNotFoundError
            If the folder of the file does not exist.

        See Also
        --------
        skgmje.load : The way back.

        Examples
        --------
        >>> import os, tempfile, skgmje
        >>> mixture = skgmje.GaussianMixture(2, random_state=0).fit([[0], [1], [5]])
        >>> path = os.path.join(tempfile.mkdtemp(), "mixture.safetensors")
        >>> mixture.save(path)
        >>> skgmje.load(path).predict([[5.5]]) == mixture.predict([[5.5]])
        array([ True])
        """
        if not _is_loadable(self):
            raise TypeError(
                f"{type(self).__qualname__} is none of skgmje's estimators, and a file "
                "without code cannot hold a class; save it with joblib."
            )
        arrays: dict[str, np.ndarray] = {}
        state = _encode(_state(self), "", arrays)
        header = {
            "skgmje_format": FORMAT,
            "skgmje_version": skgmje.__version__,
            "class": type(self).__name__,
            "state": state,
        }
        _write(Path(path), save(arrays, metadata={"skgmje": json.dumps(header)}))


def load(path, **encoders):
    """Read an estimator that was written by its method `save`.

    Parameters
    ----------
    path : str or path-like
        File to read.
    **encoders : callable or nn.Module
        The ``encoder=`` and ``target_encoder=`` of the estimator, where they were
        modules or factories: a file holds their weights, but not their code.

    Returns
    -------
    estimator : estimator
        The fitted estimator, on the CPU until it is used.

    Raises
    ------
    FileNotFoundError
        If there is no file of this name.
    ValueError
        If the file is truncated, foreign or written by a newer version, if it names a
        class that is none of this library's, or if an encoder is missing.

    Examples
    --------
    >>> import os, tempfile, skgmje
    >>> mixture = skgmje.GaussianMixture(2, random_state=0).fit([[0], [1], [5]])
    >>> path = os.path.join(tempfile.mkdtemp(), "mixture.safetensors")
    >>> mixture.save(path)
    >>> skgmje.load(path)
    GaussianMixture(n_components=2, random_state=0)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["skgmje"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        form, name = header["skgmje_format"], header["class"]
        state = None if form > FORMAT else _decode(header["state"], arrays, encoders)
    except _MissingEncoderError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is not a file that an skgmje estimator saved, or it is "
            "incomplete."
        ) from error
    version = header.get("skgmje_version")
    if state is None:
        raise ValueError(
            f"{str(path)!r} was written by skgmje {version}, which is newer than this "
            "one; update skgmje to read it."
        )
    if name not in _LOADABLE:
        raise ValueError(
            f"{str(path)!r} was written by skgmje {version} and names the class "
            f"{name!r}, which is none of the estimators of skgmje "
            f"{skgmje.__version__}; read it with the version that wrote it."
        )
    return _build(name, state)


def _write(path: Path, content: bytes) -> None:
    """Write a file at once or not at all, with the permissions of a former one."""
    path = path.resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r}; create it before saving."
        )
    part = path.with_name(f".{uuid4().hex}")
    try:
        part.write_bytes(content)
        if path.exists():
            part.chmod(stat.S_IMODE(path.stat().st_mode))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _is_loadable(value: Any) -> bool:
    """Say whether the class is this library's own, and not a subclass of that name."""
    name = type(value).__name__
    return name in _LOADABLE and type(value) is getattr(skgmje, name)


def _build(name: str, state: dict[str, Any]) -> Any:
    estimator = getattr(skgmje, name)()
    requests = state.pop("_metadata_request", None)
    if requests is not None:
        state["_metadata_request"] = _metadata_request(estimator, requests)
    estimator.__setstate__(state)
    return estimator


def _metadata_request(
    estimator: Any, requests: dict[str, dict[str, Any]]
) -> MetadataRequest:
    """Return what an estimator requests of a router, from plain dictionaries."""
    request = MetadataRequest(owner=estimator)
    for method, aliases in requests.items():
        for parameter, alias in aliases.items():
            getattr(request, method).add_request(param=parameter, alias=alias)
    return request


def _state(estimator: Any) -> dict[str, Any]:
    """Return what pickle would store, without callbacks."""
    state = dict(estimator.__getstate__())
    state.pop("_skl_callbacks", None)
    request = state.get("_metadata_request")
    if request is not None:
        state["_metadata_request"] = {
            method: dict(part.requests)
            for method, part in vars(request).items()
            if method != "owner"
        }
    return state


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """Turn a value into JSON, moving numeric arrays into `arrays`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "biuf":
            arrays[path] = np.ascontiguousarray(value)
            return {"__array__": path}
        return {"__strings__": [str(item) for item in value.ravel()]}
    if isinstance(value, dict):
        return {
            "__dict__": [
                [_encode(k, path, arrays), _encode(v, f"{path}/{k}", arrays)]
                for k, v in value.items()
            ]
        }
    if isinstance(value, (list, tuple)):
        items = [_encode(v, f"{path}/{i}", arrays) for i, v in enumerate(value)]
        return {"__tuple__": items} if isinstance(value, tuple) else items
    if _is_loadable(value):
        state = _encode(_state(value), path, arrays)
        return {"__estimator__": [type(value).__name__, state]}
    parameter = path.rsplit("/", maxsplit=1)[-1]
    if _is_part(value):
        parameters = _encode(value.get_params(deep=False), path, arrays)
        return {"__part__": [type(value).__name__, parameters]}
    if parameter in ("encoder", "target_encoder") and callable(value):
        owner = "target_encoder" if "target_encoder" in path else "encoder"
        return {"__code__": owner}
    raise TypeError(
        f"{parameter} holds a {type(value).__name__}, which a file without code cannot "
        "hold; use a number, a string or None, or save with joblib."
    )


def _is_part(value: Any) -> bool:
    name = type(value).__name__
    return name in _PARTS and type(value).__module__.startswith(f"{_PARTS[name]}.")


def _decode(value: Any, arrays: dict[str, np.ndarray], encoders: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays, encoders) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "__array__":
        return arrays[content]
    if kind == "__strings__":
        return np.array(content, dtype=object)
    if kind == "__part__":
        name, parameters = content
        part = getattr(import_module(_PARTS[name]), name)
        return part(**_decode(parameters, arrays, encoders))
    if kind == "__tuple__":
        return tuple(_decode(item, arrays, encoders) for item in content)
    if kind == "__estimator__" and content[0] in _LOADABLE:
        return _build(content[0], _decode(content[1], arrays, encoders))
    if kind == "__code__":
        # A target encoder of the context encoder's kind was not asked for by name.
        encoder = encoders.get(content, encoders.get("encoder"))
        if encoder is None:
            raise _MissingEncoderError(
                f"The estimator was fitted with {content}= a module or factory, whose "
                f"code no file holds; pass it again: load(path, {content}=...)."
            )
        return encoder
    return {
        _decode(k, arrays, encoders): _decode(v, arrays, encoders) for k, v in content
    }
