"""Quantisation, perturbation and adaptation of feature maps."""

from vqseg_bundle.layers.class_balance import class_balance
from vqseg_bundle.layers.code_entropy import code_use_entropy
from vqseg_bundle.layers.codebooks import EMACodebook, MappedCodebook
from vqseg_bundle.layers.exact_instance_norm import keep_instance_norm_exact
from vqseg_bundle.layers.feature_adapter import PostVQFeatureAdapter
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
    "keep_instance_norm_exact",
    "lookup",
    "nearest_code",
    "perplexity_temperature",
    "perturbed_marginal",
    "qpm_kl_divergence",
    "transition_matrix",
]
