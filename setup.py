"""The configs of the top folder are installed as fusionjax.configs; everything else is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["fusionjax*"]), "fusionjax.configs"],
    package_dir={"fusionjax.configs": "configs"},
)
