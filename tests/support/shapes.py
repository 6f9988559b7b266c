"""The type checker that tests/conftest.py gives to jaxtyping's import hook."""

from beartype import BeartypeConf, beartype

# As PEP 484 has it: an int may stand where a float is expected.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
