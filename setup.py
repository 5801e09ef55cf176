"""The content of a wheel; everything else about the package is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

setup(
    # The config groups lie beside the package, where they are read first, and go inside of it.
    packages=[
        *find_namespace_packages(include=["temporal_sae*", "hydra_plugins*"]),
        "temporal_sae.conf",
    ],
    package_dir={"temporal_sae.conf": "conf"},
    package_data={
        "temporal_sae": [
            "assets/tiny/*",
            "assets/reference/*.json",
            "assets/page/*",
            "atlas/site/assets/*",
            "report/templates/*",
            "study/*.md",
        ],
        "temporal_sae.conf": ["*.yaml", "**/*.yaml"],
    },
)
