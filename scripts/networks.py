"""Find and prove the symmetries of well-known networks, and write docs/networks.md about them.

What is measured is kept in docs/networks.json; --page writes the page anew from that file alone.
Only the NAMEs that are given are measured again.

Usage: OMP_NUM_THREADS=1 python scripts/networks.py [NAME ...]
       python scripts/networks.py --page
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import symrun
from symrun.cli import exit_code
from symrun.commands.symmetries import findings, subject_of, with_matrices
from symrun.errors import UsageError
from symrun.files import write_text
from symrun.report.document import Block, Heading, Paragraph, Table, as_markdown
from symrun.symmetry import Symmetry
from symrun.training.isolation import isolated

DOCS = Path(symrun.__file__).parent.parent / "docs"
THOUSAND = ("data.classes=1000", "data.val_images=1000")
SMALL = (*THOUSAND, "data.image_size=112")
WITHOUT_HEADS = "model.args={aux_logits:false,init_weights:false}"
NETWORKS: dict[str, tuple[str, ...]] = {
    "AlexNet": ("torchvision/alexnet", *SMALL),
    "VGG16": ("torchvision/vgg16", *SMALL),
    "VGG16-BN": ("torchvision/vgg16_bn", *SMALL),
    "ResNet-18": ("torchvision/resnet18", *SMALL),
    "ResNet-50": ("torchvision/resnet50", *SMALL),
    "SqueezeNet 1.0": ("torchvision/squeezenet1_0", *SMALL),
    "GoogLeNet": ("torchvision/googlenet", *SMALL, WITHOUT_HEADS),
    "Inception v3": ("torchvision/inception_v3", *THOUSAND, "data.image_size=128", WITHOUT_HEADS),
    "DenseNet-121": ("torchvision/densenet121", *SMALL),
    "MobileNetV2": ("torchvision/mobilenet_v2", *SMALL),
    "MobileNetV3-small": ("torchvision/mobilenet_v3_small", *SMALL),
    "MNASNet 1.0": ("torchvision/mnasnet1_0", *SMALL),
    "ShuffleNet v2": ("torchvision/shufflenet_v2_x1_0", *SMALL),
    "EfficientNet-B0": ("torchvision/efficientnet_b0", *SMALL),
    "RegNetY-400MF": ("torchvision/regnet_y_400mf", *SMALL),
    "ConvNeXt-T": ("torchvision/convnext_tiny", *SMALL),
    "ViT-B/16": ("torchvision/vit_b_16", *THOUSAND),
    "Swin-T": ("torchvision/swin_t", *SMALL),
    "symrun's gpt": ("gpt",),
    "symrun's mlp": ("mlp", "data=mnist"),
    "symrun's resnet18_64": ("resnet18_64",),
}
KINDS = (Symmetry.translation, Symmetry.scale, Symmetry.rescale)
"""What the search finds."""
INTRODUCTION = (
    "Written by `scripts/networks.py` from `networks.json`. The search follows exponents through "
    "the operations of each network as it trains, with softmax cross-entropy and 1000 classes (10 "
    "for symrun's own networks of images, 64 for its `gpt`). `symrun symmetries NAME --verify` "
    "shows the groups themselves. Each is proven in float64, on a batch of four random inputs of "
    "the size in the table, so that what is missing here was not found, or is listed as left out. "
    "GoogLeNet and Inception v3 are without their auxiliary heads. Where any invertible matrix may "
    "mix the units of a group of rescale, as between queries and keys of a head, a whole symmetric "
    "matrix is conserved, W₁W₁ᵀ − W₂ᵀW₂ of two linear layers in a row: the table counts them."
)
PROOFS = (
    "A finite transformation of random size must leave the loss alone, and the gradient must obey "
    "the constraint of every unit. The largest relative change of the loss and the largest defect "
    "of the gradient are rounding, which is felt most in units whose gradient is small. One pass "
    "shows all, unless a pass makes other operations than the next: then there are eight. "
    "A matrix is found by the gradient at a few random points, and proven by mixing its units. "
    "Times are of one core of a machine that did other work too."
)
MISSING = {
    "Matrices between units that differ": (
        "A matrix is found where any invertible one may mix its units, which are alike: each has "
        "as many weights of each layer as the others. Where only some matrices may, as those that "
        "commute with the turns of a rotary embedding, symrun has the diagonal, a number a unit."
    ),
    "Sums of standardised filters": (
        "A weight that is standardised, (w − mean) / std, does not feel what is added to a whole "
        "filter. The search finds the scale of such a filter and not the shift: [name it by "
        "hand](models.md#naming-a-symmetry-by-hand)."
    ),
    "Parameters without a gradient": (
        "A bias in front of a BatchNorm changes nothing, and neither does the bias of an "
        "attention's keys, since it adds the same number to all scores of a query. Each is "
        "conserved by itself; there is no sum to track."
    ),
    "Symmetries that conserve nothing": (
        "Permuting units is discrete. A rotation, as of a residual stream that is normalised "
        "without weights, constrains the gradient, ⟨g, Aθ⟩ = 0 with A antisymmetric, but ⟨θ, Aθ⟩ "
        "is zero in any case. A shift of a bias that the bias of the next layer makes good "
        "depends on the weight between them, and is no derivative of a quantity either."
    ),
    "Units behind smooth activations": (
        "Around GELU, SiLU, tanh, sigmoid or hard-swish no rescaling is a symmetry: what they "
        "separate has a group only if something else, such as a normalisation, gives it one."
    ),
    "Scale in front of a normalisation, exactly": (
        "It holds for eps → 0. The proof makes eps negligible; a run measures what eps breaks as "
        "the defect."
    ),
    "What holds for some data only": (
        "A ReLU that is never active, or a pixel that is always black, leaves weights without a "
        "gradient; the operations alone do not show it."
    ),
}


def measured(words: Sequence[str]) -> dict[str, Any]:
    """What is found in one network, as JSON values."""
    with isolated():
        subject = subject_of(words[0], list(words[1:]))
        start = time.perf_counter()
        structure = subject.structure()
        searched = time.perf_counter()
        proofs = subject.proofs(structure)
        proven = time.perf_counter()
        groups = with_matrices(subject, structure, proofs)
        compared = time.perf_counter()
        found = findings(subject, groups, proofs)
    good = [row for row in found.rows if row.proven]
    kinds = {kind.value: [row.units for row in good if row.symmetry == kind.value]
             for kind in KINDS}  # fmt: skip
    matrices = Counter(size for row in good for size in row.matrices)
    return {
        "inputs": list(subject.example.shape[1:]),
        "groups": {kind: [len(units), sum(units)] for kind, units in kinds.items()},
        "matrices": [[count, size] for size, count in sorted(matrices.items())],
        "parameters": found.parameters,
        "covered": found.covered,
        "search_seconds": round(searched - start, 2),
        "proof_seconds": round(proven - searched, 2),
        "matrices_seconds": round(compared - proven, 2),
        "passes": found.passes,
        "loss_change": max((row.loss_change or 0.0 for row in good), default=0.0),
        "defect": max((row.defect or 0.0 for row in good), default=0.0),
        "failed": [f"{row.symmetry} of {row.group}: {row.reason}" for row in found.failed],
    }


def page(networks: dict[str, Any]) -> str:
    """The page in Markdown."""
    blocks: list[Block] = [Heading("Symmetries of well-known networks", 1)]
    blocks += [Paragraph(INTRODUCTION), _counts(networks)]
    blocks += [Heading("How well they are proven"), Paragraph(PROOFS), _proofs(networks)]
    for name, one in networks.items():
        blocks += [Paragraph(f"Left out of {name}: {reason}.") for reason in one["failed"]]
    blocks.append(Heading("What exists and is not covered"))
    blocks += [Paragraph(f"**{title}.** {text}") for title, text in MISSING.items()]
    return as_markdown(blocks)


def _counts(networks: dict[str, Any]) -> Table:
    kinds = [kind.value for kind in KINDS]
    head = ["network", "input", *(f"{kind}: groups, units" for kind in kinds), "matrices"]
    rows = []
    for name, one in networks.items():
        pairs = (one["groups"][kind] for kind in kinds)
        cells = [f"{groups}, {units:,}" if groups else "–" for groups, units in pairs]
        cells.append(
            ", ".join(f"{count} of {size}×{size}" for count, size in one["matrices"]) or "–"
        )
        share = f"{one['covered'] / one['parameters']:.2%}"
        size = "×".join(map(str, one["inputs"]))
        size += " tokens" if len(one["inputs"]) == 1 else ""
        rows.append([name, size, *cells, f"{one['parameters']:,}", share])
    return Table([*head, "parameters", "in a group"], rows)


def _proofs(networks: dict[str, Any]) -> Table:
    head = ["network", "search, s", "proof, s", "matrices, s", "passes", "change of the loss",
            "defect"]  # fmt: skip
    rows = [
        [name, f"{one['search_seconds']:.1f}", f"{one['proof_seconds']:.1f}",
         f"{one['matrices_seconds']:.1f}", str(one["passes"]),
         f"{one['loss_change']:.1e}", f"{one['defect']:.1e}"]
        for name, one in networks.items()
    ]  # fmt: skip
    return Table(head, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(NETWORKS))
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    store = DOCS / "networks.json"
    found = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    if unknown := [name for name in options.names if name not in NETWORKS]:
        raise UsageError(f"there is no network {unknown[0]}; there are {', '.join(NETWORKS)}")
    for name in [] if options.page else options.names or NETWORKS:
        found[name] = measured(NETWORKS[name])
        print(name, json.dumps(found[name]), flush=True)
        found = {one: found[one] for one in NETWORKS if one in found}
        write_text(store, json.dumps(found, indent=1) + "\n")
    write_text(DOCS / "networks.md", page(found))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("networks", main))
