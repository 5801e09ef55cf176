"""The parts of an export that Neuronpedia and SAEDashboard have in common."""

from __future__ import annotations

from temporal_sae.atlas.examples import TOP
from temporal_sae.atlas.exports.contents import Contents, Example, Latent, aligned, middles
from temporal_sae.atlas.exports.rows import Shown

OF_TOP = -1.0  # stands for "of the highest, whatever they are" instead of a share


def shown(contents: Contents, latent: Latent) -> Shown:
    """Return all that both show of a latent beside its examples."""
    columns = latent.columns
    aligned_with, values, shares = aligned(latent.vector)
    partners, phis, cosines = contents.partners(latent)
    heights, of_logits = columns["histogram"], columns["logit_histogram"]
    lowest, highest = columns["logit_range"] or (0.0, 0.0)
    fires = columns["n"] > 0
    return {
        "vector": latent.vector,
        "neuron_alignment_indices": aligned_with,
        "neuron_alignment_values": values,
        "neuron_alignment_l1": shares,
        "correlated_neurons_indices": [],
        "correlated_neurons_pearson": [],
        "correlated_neurons_l1": [],
        "correlated_features_indices": partners,
        "correlated_features_pearson": phis,
        "correlated_features_l1": cosines,
        "neg_str": columns["bottom_logit_tokens"],
        "neg_values": columns["bottom_logits"],
        "pos_str": columns["top_logit_tokens"],
        "pos_values": columns["top_logits"],
        "frac_nonzero": columns["density"],
        "freq_hist_data_bar_heights": [float(n) for n in heights] if fires else [],
        "freq_hist_data_bar_values": (
            middles(0.0, columns["max_activation"], len(heights)) if fires else []
        ),
        "logits_hist_data_bar_heights": [float(n) for n in of_logits],
        "logits_hist_data_bar_values": middles(lowest, highest, len(of_logits)),
        "decoder_weights_dist": [],
    }


def bounds(example: Example) -> tuple[float, float, float]:
    """Return the least and the largest activation of an example's group, and its share of tokens.

    The highest examples are told by -1 in place of the first and the last.
    """
    if example.group == TOP:
        return OF_TOP, example.highest, OF_TOP
    return example.lowest, example.highest, example.share
