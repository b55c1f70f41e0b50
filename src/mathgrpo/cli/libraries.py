"""Libraries told to leave the terminal to us."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Switch off the libraries' notices and their bars for small local files; downloads keep their bar."""
    import logging as standard
    import warnings

    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    standard.getLogger("bitsandbytes").setLevel(standard.ERROR)  # says on every import which kernel package is absent
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.disable_progress_bar()
    enable_progress_bars()
