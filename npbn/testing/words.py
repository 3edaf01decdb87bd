"""An error in one line."""


def in_words(error: BaseException) -> str:
    """Return an error's type and message, in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its message cannot be shown)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
