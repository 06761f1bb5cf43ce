"""Networks by name, as the record beside the weights says which one it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqseg_bundle.networks.dinov2_dpt_net import DINOv2DPTNet
from vqseg_bundle.networks.vq_network import VQNetwork
from vqseg_bundle.networks.vqseg_net import VQSegNet

__all__ = ["build_network", "describe_network"]

_KEY = "architecture"
_NETWORKS: dict[str, type[VQNetwork]] = {network.__name__: network for network in (VQSegNet, DINOv2DPTNet)}
# records of early versions name no network; theirs is left out of new ones as well, so that both compare equal
_UNNAMED = VQSegNet


def describe_network(network: VQNetwork) -> dict[str, Any]:
    """What :func:`build_network` needs to build such a network again.

    Args:
        network: any.

    Returns:
        its arguments, and under "architecture" its class's name unless that is VQSegNet.
    """
    name = {} if type(network) is _UNNAMED else {_KEY: type(network).__name__}
    return {**name, **network.arguments}


def build_network(description: Mapping[str, Any]) -> VQNetwork:
    """Build the network that was described, with random weights.

    Args:
        description: see :func:`describe_network`.

    Raises:
        ValueError: there is no network of that name, or it refuses an argument.
        TypeError: an argument is missing or too many.
    """
    arguments = dict(description)
    name = arguments.pop(_KEY, _UNNAMED.__name__)
    if name not in _NETWORKS:
        raise ValueError(f"{_KEY} must be one of {', '.join(_NETWORKS)}, got {name!r}.")
    return _NETWORKS[name](**arguments)
