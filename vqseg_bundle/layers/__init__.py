"""Quantisation, perturbation and adaptation of feature maps."""

from vqseg_bundle.layers.class_balance import class_balance
from vqseg_bundle.layers.code_entropy import code_use_entropy
from vqseg_bundle.layers.codebooks import EMACodebook, MappedCodebook
from vqseg_bundle.layers.feature_adapter import PostVQFeatureAdapter
from vqseg_bundle.layers.instance_norm import InstanceNorm, replace_instance_norms
from vqseg_bundle.layers.nearest_code import nearest_code
from vqseg_bundle.layers.perturbation import Codes, FeatureDropout, Perturbation
from vqseg_bundle.layers.perturbation_theory import (
    dropout_kl_divergence,
    perturbed_marginal,
    qpm_kl_divergence,
    transition_matrix,
)
from vqseg_bundle.layers.quantized_perturbation import QuantizedPerturbation
from vqseg_bundle.layers.transition import automatic_temperature, perplexity_temperature
from vqseg_bundle.layers.vector_quantizer import VectorQuantizer, VectorQuantizerOutput, lookup

__all__ = [
    "Codes",
    "EMACodebook",
    "FeatureDropout",
    "InstanceNorm",
    "MappedCodebook",
    "Perturbation",
    "PostVQFeatureAdapter",
    "QuantizedPerturbation",
    "VectorQuantizer",
    "VectorQuantizerOutput",
    "automatic_temperature",
    "class_balance",
    "code_use_entropy",
    "dropout_kl_divergence",
    "lookup",
    "nearest_code",
    "perplexity_temperature",
    "perturbed_marginal",
    "qpm_kl_divergence",
    "replace_instance_norms",
    "transition_matrix",
]
