"""The 61 classes of the AI Challenger 2018 crop disease set, in the label numbering of its publisher.

10 crops, 27 diseases and 'healthy', and three grades of a disease: 24 diseases come as general and serious, 3 without a grade.
Names are the publisher's, shortened to crop and disease.
"""

from __future__ import annotations

# crop: its diseases; a trailing '*' = without a grade. Labels count through crops and diseases in this order: healthy first,
# then general before serious.
_CROPS = {
    "apple": ("scab", "frogeye_spot*", "cedar_rust"),
    "cherry": ("powdery_mildew",),
    "corn": ("cercospora_leaf_spot", "polysora_rust", "curvularia_leaf_spot", "dwarf_mosaic_virus*"),
    "grape": ("black_rot", "black_measles", "leaf_blight"),
    "citrus": ("greening",),
    "peach": ("bacterial_spot",),
    "pepper": ("scab",),
    "potato": ("early_blight", "late_blight"),
    "strawberry": ("scorch",),
    "tomato": (
        "powdery_mildew",
        "bacterial_spot",
        "early_blight",
        "late_blight",
        "leaf_mold",
        "target_spot",
        "septoria_leaf_spot",
        "spider_mite_damage",
        "yellow_leaf_curl_virus",
        "mosaic_virus*",
    ),
}


def _table() -> tuple[dict[str, str], ...]:
    """Return what the metadata CSV says of each label: names and ids of label, crop, disease, and the severity."""
    rows, disease_id = [], 0
    for crop_id, (crop, diseases) in enumerate(_CROPS.items()):
        of_crop = {"crop_type": crop, "crop_id": str(crop_id)}
        rows.append(of_crop | {"label_name": f"{crop}_healthy", "disease": "healthy", "disease_id": "0", "severity": "healthy"})
        for name in diseases:
            disease_id += 1
            disease = f"{crop}_{name.removesuffix('*')}"
            of_disease = of_crop | {"disease": disease, "disease_id": str(disease_id)}
            if name.endswith("*"):
                rows.append(of_disease | {"label_name": disease, "severity": "none"})
            else:
                rows += [of_disease | {"label_name": f"{disease}_{grade}", "severity": grade} for grade in ("general", "serious")]
    return tuple(rows)


CLASSES = _table()
