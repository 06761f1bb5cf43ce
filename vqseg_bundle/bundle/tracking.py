"""Make MONAI's ``--tracking mlflow`` fit a trainer whose output is not that of MONAI's own."""

from __future__ import annotations

from monai.bundle import ConfigParser

__all__ = ["adapt_tracking"]

_HANDLERS, _SETTINGS, _TARGET = "train#handlers", "tracking_handler", "MLFlowHandler"


def adapt_tracking(parser: ConfigParser) -> None:
    """Give the MLFlowHandler that ``--tracking`` added to the trainer the arguments in "tracking_handler".

    MONAI's default reads one loss from the first item of a decollated output; the semi-supervised trainer has named
    terms and does not decollate. MONAI also writes the configuration once more as an artifact, under a name made from
    the text of "output_dir", which fails where a config leaves that open: a config says ``"save_execute_config":
    false`` and names its own files in "tracking_handler".

    Args:
        parser: the running configuration, not yet parsed; nothing changes without ``--tracking`` or the key.
    """
    settings = parser.get(_SETTINGS)
    if settings is None:
        return
    handlers = parser.get(_HANDLERS)
    if handlers:
        # new mappings: the one found is MONAI's own default, which later runs in this process read
        parser[_HANDLERS] = [
            {**handler, **settings} if isinstance(handler, dict) and handler.get("_target_") == _TARGET else handler
            for handler in handlers
        ]
