"""The checker of shape annotations: pytest --jaxtyping-packages=training,metrics,tests.typecheck.check"""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int where a float is asked for is no error
