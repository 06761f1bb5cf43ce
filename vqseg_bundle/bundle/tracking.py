"""Adapt MONAI's ``--tracking mlflow`` to a trainer with another output than MONAI's."""

from __future__ import annotations

from monai.bundle import ConfigParser

__all__ = ["adapt_tracking"]

_HANDLERS, _SETTINGS, _TARGET = "train#handlers", "tracking_handler", "MLFlowHandler"


def adapt_tracking(parser: ConfigParser) -> None:
    """Give the trainer's MLFlowHandler, added by ``--tracking``, the arguments in "tracking_handler".

    MONAI's default reads one loss from the first item of a decollated output; the semi-supervised trainer has named
    terms and does not decollate. MONAI also writes a second copy of the configuration as an artifact, named by the text
    of "output_dir", which fails if a config leaves that open: a config sets ``"save_execute_config": false`` and names
    its own files in "tracking_handler".

    Args:
        parser: the running configuration, not yet parsed; unchanged without ``--tracking`` or the key.
    """
    settings = parser.get(_SETTINGS)
    if settings is None:
        return
    handlers = parser.get(_HANDLERS)
    if handlers:
        # new mappings: the existing one is MONAI's own default, which later runs in this process read
        parser[_HANDLERS] = [
            {**handler, **settings} if isinstance(handler, dict) and handler.get("_target_") == _TARGET else handler
            for handler in handlers
        ]
