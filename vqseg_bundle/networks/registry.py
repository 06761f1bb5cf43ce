"""Networks by name, for the record beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqseg_bundle.common import import_with_extra
from vqseg_bundle.networks.vq_network import VQNetwork
from vqseg_bundle.networks.vqseg_net import VQSegNet

__all__ = ["build_network", "describe_network"]

_KEY = "architecture"
#: class to its module, which is imported when the network is built
_NETWORKS = {"VQSegNet": "vqseg_net", "DINOv2DPTNet": "dinov2_dpt_net"}
# records of early versions do not name this network; nor do new ones, so that they compare equal
_UNNAMED = VQSegNet


def describe_network(network: VQNetwork) -> dict[str, Any]:
    """The description from which :func:`build_network` rebuilds a network.

    Args:
        network: any network.

    Returns:
        its arguments and, unless it is a VQSegNet, its class name under "architecture".
    """
    name = {} if type(network) is _UNNAMED else {_KEY: type(network).__name__}
    return {**name, **network.arguments}


def build_network(description: Mapping[str, Any]) -> VQNetwork:
    """Build a network from its description, with random weights.

    Args:
        description: see :func:`describe_network`.

    Raises:
        ValueError: the name is unknown, or the network refuses an argument.
        TypeError: an argument is missing or unknown.
    """
    arguments = dict(description)
    name = arguments.pop(_KEY, _UNNAMED.__name__)
    if name not in _NETWORKS:
        raise ValueError(f"{_KEY} must be one of {', '.join(_NETWORKS)}, got {name!r}.")
    network: type[VQNetwork] = getattr(
        import_with_extra(f"vqseg_bundle.networks.{_NETWORKS[name]}", "foundation"), name
    )
    return network(**arguments)
