"""Libraries told to leave the terminal to us."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Switch off transformers' notices and its bars for small local files; downloads keep their bar."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()
